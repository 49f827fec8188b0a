"""A bug of ours on a real terminal: named, with its log file, and without a local variable."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from celery_ops.tui.crash import crash_text

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-battery"
URL = f"redis://:{PASSWORD}@10.0.0.5:6379/0"

PROGRAM = """
import sys
from celery_ops.cli import boundary
from celery_ops.fleet.clock import SystemClock
from celery_ops.tui.app import OpsApp
from celery_ops.tui import table
from tests.tui import fleets

where, secret, with_log = sys.argv[1], sys.stdin.readline().strip(), sys.argv[2] == "log"

class Collector:
    async def snapshots(self):
        password = secret
        if where == "feed":
            raise RuntimeError("cannot use " + password)
        yield fleets.demo()
        await __import__("asyncio").sleep(60)

class Broken(OpsApp):
    def on_snapshot_taken(self, message):
        password = secret
        if where == "handler":
            raise ValueError("cannot use " + password)
        super().on_snapshot_taken(message)

def draw(self, y):
    password = secret
    raise LookupError("cannot draw " + password)

if where == "draw":
    table.LiveTable.render_line = draw
app = Broken(
    Collector(), None, context="demo", protected=False, read_only=False, clock=SystemClock(),
    reporter=boundary.report if with_log else None,
)
app.run()
sys.exit(app.return_code)
"""


def crash(where: str, log: str, state: Path) -> tuple[str, int]:
    """Run the program on a terminal of its own; its output after the echoed URL, and exit code."""
    leader, follower = pty.openpty()
    environment = {
        **os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm-256color", "COLUMNS": "120",
        "LINES": "30",
    }  # fmt: skip
    with subprocess.Popen(
        (sys.executable, "-c", PROGRAM, where, log),
        stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(follower)
        os.write(leader, f"{URL}\n".encode())
        output = b""
        while chunk := _read(leader):
            output += chunk
        code = process.wait(timeout=30)
    os.close(leader)
    return output.decode(errors="replace").partition("\n")[2], code


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65_536)
    except OSError:  # the other side is closed
        return b""


@pytest.mark.parametrize(
    ("where", "kind"),
    [("feed", "RuntimeError"), ("handler", "ValueError"), ("draw", "LookupError")],
)
def test_a_crash_names_its_log_and_shows_no_secret(where: str, kind: str, tmp_path: Path) -> None:
    shown, code = crash(where, "log", tmp_path)
    said = shown[shown.rindex("celery-ops: a bug of ours") :]
    assert code == 1
    assert kind in said
    log = next(tmp_path.rglob("bug-*.log"))
    assert log.name in said.replace("\r\n", "")
    assert PASSWORD not in shown
    assert "Traceback" not in shown
    written = log.read_text()
    assert kind in written
    assert "redis://:***@10.0.0.5:6379/0" in written
    assert PASSWORD not in written


def test_without_a_log_the_traceback_is_shown_masked_and_without_locals(tmp_path: Path) -> None:
    shown, code = crash("handler", "no", tmp_path)
    said = shown[shown.rindex("celery-ops: a bug of ours") :]
    assert code == 1
    assert "Traceback" in said
    assert "redis://:***@10.0.0.5:6379/0" in said.replace("\r\n", "")
    assert PASSWORD not in shown


def test_a_log_that_cannot_be_written_is_told() -> None:
    def full(_: BaseException) -> Path:
        raise OSError(28, "No space left on device")

    said = crash_text(RuntimeError(f"no {URL}"), full).plain
    assert "could not be written: No space left on device" in said
    assert PASSWORD not in said
