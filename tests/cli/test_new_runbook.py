"""`runbook new` and `runbook schema`, as commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_ops.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "celery-ops.yaml"
    file.write_text("contexts: {a: {broker: 'redis://localhost:1/0'}}\n")
    return file


def ops(config: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(config), "runbook", *arguments])
    return result.exit_code, result.output


def test_a_new_runbook_is_valid_listed_and_never_written_over(config: Path) -> None:
    code, said = ops(config, "new", "my-restart")
    path = config.parent / "runbooks" / "my-restart.yaml"
    assert (code, said.strip()) == (0, str(path))
    assert ops(config, "check", str(path)) == (0, f"{path}: ok\n")
    assert "my-restart" in ops(config, "--help")[1]
    path.write_text("mine")
    code, said = ops(config, "new", "my-restart")
    assert code == 2
    assert "already" in said
    assert path.read_text() == "mine"


def test_one_that_hides_a_shipped_one_says_so(config: Path) -> None:
    code, said = ops(config, "new", "rolling-restart")
    assert code == 0
    assert "It hides the shipped runbook rolling-restart." in said


@pytest.mark.parametrize(
    "name",
    ["New", "../x", "check", "a b", "a\nb: c", "{x}", "foo #bar", "'foo'", "foo ", "foo #/../../x"],
)
def test_a_name_that_is_none_is_refused_and_nothing_is_written(config: Path, name: str) -> None:
    code, said = ops(config, "new", name)
    assert code == 2, said
    assert "cannot be a runbook's name" in said
    assert not (config.parent / "runbooks").exists()


@pytest.mark.usefixtures("config")
def test_without_a_configuration_there_is_no_place_for_it() -> None:
    result = CliRunner().invoke(cli, ["-b", "redis://localhost:1/0", "runbook", "new", "x"])
    assert result.exit_code == 2
    assert "there is no configuration" in result.output


def test_the_schema_is_printed_as_json(config: Path) -> None:
    code, said = ops(config, "schema")
    assert code == 0
    assert json.loads(said)["title"] == "celery-ops runbook"
