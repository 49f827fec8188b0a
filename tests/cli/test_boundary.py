"""Where errors become text and exit codes."""

from __future__ import annotations

import asyncio
import errno
import stat
from typing import TYPE_CHECKING

import click
import pytest

from celery_ops.cli import boundary, state
from celery_ops.errors import BrokerUnreachable, InvalidDocument, Problem

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "hunter2"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def ended_by(error: BaseException) -> int:
    with pytest.raises(click.exceptions.Exit) as caught, boundary.errors_become_exit_codes():
        raise error
    return caught.value.exit_code


def test_an_error_of_ours_says_what_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    says = f"no answer from redis://:{PASSWORD}@b\x1b[2J"
    assert ended_by(BrokerUnreachable(says, fix="start it")) == 69
    said = capsys.readouterr().err
    assert said.startswith("celery-ops: no answer from redis://:***@b")
    assert said.endswith("\nstart it\n")
    assert "\x1b" not in said


def test_problems_of_a_file_stand_alone_on_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem("a.yaml", 1, 2, "one"), Problem("a.yaml", 3, 4, "two")]
    assert ended_by(InvalidDocument(problems)) == 2
    assert capsys.readouterr().err == "a.yaml:1:2: one\na.yaml:3:4: two\n"


def test_a_bug_is_written_to_a_file_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(ZeroDivisionError(f"redis://:{PASSWORD}@broker")) == 70
    said = capsys.readouterr().err
    (log,) = state.logs().iterdir()
    assert said == f"celery-ops: a bug of ours (ZeroDivisionError). The details are in {log}\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_no_value_of_a_variable_is_in_the_report() -> None:
    def fail(secret: str) -> None:
        wanted = f"{secret}-of-a-variable"
        raise RuntimeError(f"redis://:{len(wanted)}@broker/0 of redis://u:{secret}@b")

    with pytest.raises(RuntimeError) as caught:
        fail(PASSWORD)
    text = boundary.report(caught.value).read_text()
    assert "RuntimeError" in text
    assert "in fail" in text
    assert PASSWORD not in text


def test_a_bug_that_cannot_be_written_down_is_still_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "celery-ops").write_text("a file where the directory should be")
    assert ended_by(ZeroDivisionError()) == 70
    assert "could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), asyncio.CancelledError()])
def test_an_interrupted_read_ends_as_shells_expect(error: BaseException) -> None:
    assert ended_by(error) == 130


def test_other_system_errors_are_bugs() -> None:
    assert ended_by(OSError(errno.EBADF, "bad")) == 70


def test_what_a_background_task_lets_fall_is_a_bug() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        failing = asyncio.ensure_future(fail())
        await asyncio.wait((failing,))
        del failing

    with pytest.raises(ZeroDivisionError):
        boundary.run(main())


def test_what_a_command_returns_comes_back() -> None:
    async def main() -> int:
        return 7

    assert boundary.run(main()) == 7
