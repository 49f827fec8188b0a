"""What a command costs before it does anything: its imports, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import OpsCommand
    from tests.rig.redis import RedisServer

HEAVY = {"textual", "rich", "celery", "kombu", "paramiko", "supervisor"}


def imported_by(ops: OpsCommand, *arguments: str) -> set[str]:
    """Top-level modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "celery_ops", *arguments],
        cwd=ops.home,
        env=ops.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_imports_neither_a_screen_nor_a_broker(ops: OpsCommand) -> None:
    imported = imported_by(ops, "--help")
    assert "click" in imported
    assert not imported & (HEAVY | {"redis", "yaml", "msgspec"})


@pytest.mark.rig
@pytest.mark.parametrize("command", ["status", "workers", "queues"])
def test_looking_imports_redis_and_nothing_else_that_is_heavy(
    ops: OpsCommand, redis_server: RedisServer, command: str
) -> None:
    imported = imported_by(ops, "-b", redis_server.url(), command)
    assert "redis" in imported
    assert not imported & HEAVY


def test_what_celery_loads_at_every_start_is_click_and_nothing_of_ours() -> None:
    program = (
        "import sys, click; before = set(sys.modules);"
        "import celery_ops.celery_command;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["celery_ops", "celery_ops.celery_command"]


@pytest.fixture
def entry_point(tmp_path: Path) -> Path:
    """A directory in which celery finds the sub-command, as an installed package declares it."""
    info = tmp_path / "site" / "celery_ops-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: celery-ops\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[celery.commands]\nops = celery_ops.celery_command:ops\n"
    )
    return info.parent


@pytest.mark.rig
def test_celery_has_the_same_commands_with_the_broker_of_its_app(
    ops: OpsCommand, redis_server: RedisServer, entry_point: Path
) -> None:
    (ops.home / "proj.py").write_text(
        f"from celery import Celery\napp = Celery('proj', broker={redis_server.url()!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "ops", "status", "--json"],
        cwd=ops.home,
        env=ops.environment({"PYTHONPATH": f"{entry_point}:{ROOT}"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"context": "proj"' in done.stdout
    assert f"127.0.0.1:{redis_server.port}/0" in done.stdout
