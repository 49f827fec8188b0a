"""An operator with a home of their own, who runs the real command in processes of its own.

Everything the commands print is kept in files beside the home, so that a test can search all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 240.0
"""Seconds; no part of a test takes nearly as long, even where others use the machine too."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def events(self) -> list[Event]:
        """The journal that `--json` of a run prints."""
        return [json.loads(line) for line in self.out.splitlines()]


class Running:
    """A command that has not ended yet."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err

    def wait(self) -> Said:
        """Until it ends."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.process.args!r} does not end; it said: {self.said}")
        return Said(code, self._out.read_text(), self._err.read_text())

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self._out.read_text() + self._err.read_text()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)


class Operator:
    """Runs `python -m celery_ops` on the checkout. `options` stand before every command."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        self.name = name
        self.home = directory / name
        self.home.mkdir(parents=True)
        self._printed = directory / f"{name}-printed"
        self._printed.mkdir()
        self._options = options
        self._started: list[Running] = []

    @property
    def runs(self) -> Path:
        return self.home / "state" / "celery-ops" / "runs"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "LOGNAME": self.name,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }

    def do(self, *arguments: str, **variables: str) -> Said:
        """Run a command to its end, with these variables in its environment too."""
        return self.start(*arguments, **variables).wait()

    def start(self, *arguments: str, **variables: str) -> Running:
        """Run a command, and leave it running."""
        return self.launch(self.argv(*arguments), variables)

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """The command with this operator's options."""
        return (sys.executable, "-m", "celery_ops", *self._options, *arguments)

    def launch(self, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> Running:
        """Run any command as this operator: no terminal, nothing to read."""
        number = len(self._started)
        out, err = (self._printed / f"{number}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                argv,
                cwd=self.home,
                env=self.environment() | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
            )
        self._started.append(Running(process, out, err))
        return self._started[-1]

    def status(self) -> Any:
        """`status --json`."""
        said = self.do("status", "--json")
        assert said.code == 0, said.err
        return said.json

    # --- runs ---

    def journals(self) -> list[Path]:
        """The oldest first."""
        return sorted(self.runs.glob("*.jsonl")) if self.runs.exists() else []

    def events(self) -> list[Event]:
        """What the newest run has written so far; a line that is not whole yet is left out."""
        *_, newest = [None, *self.journals()]
        text = "" if newest is None else newest.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def until(self, holds: Callable[[Event], object], what: str) -> Event:
        """Wait for an event of the newest run; fail, naming it, if the run ends without it."""
        deadline = time.monotonic() + DEADLINE
        while True:
            events = self.events()
            for event in events:
                if holds(event):
                    return event
            over = not events or events[-1]["event"] == "ended"
            if time.monotonic() > deadline or (over and self._nothing_runs()):
                told = "\n".join(running.said for running in self._started)
                pytest.fail(f"never seen: {what}\n{told}")
            time.sleep(0.02)

    def _nothing_runs(self) -> bool:
        return all(running.process.poll() is not None for running in self._started)

    def until_draining(self) -> Event:
        """The first worker was told to stop consuming, and a look at it found tasks."""
        return self.until(
            lambda event: event["event"] == "progress" and "active" in event["outcome"]["says"],
            "a worker that drains",
        )

    def executor(self) -> int:
        """The pid of the newest run's executor, as its journal says."""
        started = self.until(lambda event: event["event"] == "started", "an executor")
        return int(re.findall(r"pid (\d+)", started["intent"])[0])

    # --- the end ---

    def written(self) -> Iterator[Path]:
        """Every file that came of the commands: below the home, and all that was printed."""
        for directory in (self.home, self._printed):
            yield from (path for path in directory.rglob("*") if path.is_file())

    def stop(self) -> None:
        """End the commands and the executors that are still there."""
        for running in self._started:
            end(running.process)
        for path in self.journals():
            for pid in re.findall(rb'"intent":"pid (\d+) on', path.read_bytes()):
                _end_executor(int(pid), path.stem)


class Operators:
    """All operators of a fleet, and the pieces of secrets that none of them may ever write."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets
        self._hired: list[Operator] = []

    def hire(self, directory: Path, name: str, *options: str) -> Operator:
        self._hired.append(Operator(directory, name, *options))
        return self._hired[-1]

    def leaks(self) -> list[str]:
        """Every file of an operator's in which a secret can be read."""
        return [
            str(path)
            for operator in self._hired
            for path in operator.written()
            if any(piece in path.read_bytes() for piece in self._secrets)
        ]

    def dismiss(self) -> None:
        """End what the operators have started; what they wrote stays."""
        for operator in self._hired:
            operator.stop()


def _end_executor(pid: int, run: str) -> None:
    with contextlib.suppress(OSError):
        if run.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
