"""Telling processes apart by more than their pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from celery_ops.demo.processes import Process, identify, members, suspended
from tests.demo.conftest import eventually


def test_this_process_is_alive_and_survives_being_written_down() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.alive
    assert Process.parse(str(me)) == me


def test_another_process_with_a_reused_pid_is_not_the_same() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert not Process(me.pid, me.started + 1).alive


def test_a_signal_is_not_sent_to_a_process_that_took_over_the_pid() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        now = identify(sleeper.pid)
        assert now is not None
        Process(now.pid, now.started - 1).signal(signal.SIGKILL)
        assert now.alive
        now.signal(signal.SIGKILL)


def test_a_zombie_is_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        eventually(lambda: identify(child.pid) is None, "the child is seen as gone")
        assert Path(f"/proc/{child.pid}").exists()


def test_a_process_name_with_parentheses_is_read_correctly(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    shutil.copy(str(shutil.which("sleep")), program)
    with subprocess.Popen([program, "60"]) as sleeper:
        found = identify(sleeper.pid)
        sleeper.kill()
    assert found is not None


def test_a_session_is_found_with_its_grandchildren_and_without_strangers(tmp_path: Path) -> None:
    grandchildren = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    command = [sys.executable, "-c", grandchildren]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as leader:
        try:
            eventually(lambda: len(members(leader.pid, tmp_path)) == 2, "the grandchild is found")
            assert members(leader.pid, tmp_path / "elsewhere") == ()
            assert members(leader.pid + 1, tmp_path) == ()
            os.killpg(leader.pid, signal.SIGSTOP)
            eventually(lambda: len(suspended(leader.pid, tmp_path)) == 2, "both are suspended")
        finally:
            os.killpg(leader.pid, signal.SIGKILL)
