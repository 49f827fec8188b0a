"""Processes of this machine, told apart by more than a pid.

A pid is reused; a pid together with its start time is not. Read from proc(5), so Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_DEAD_STATES = frozenset("ZX")
_SUSPENDED_STATES = frozenset("Tt")
_KILL_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """One life of a process. `started` counts clock ticks since the machine's boot."""

    pid: int
    started: int

    @classmethod
    def parse(cls, text: str) -> Process:
        """The reverse of `str`. Raise ValueError."""
        pid, _, started = text.partition(":")
        return cls(int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}"

    @property
    def alive(self) -> bool:
        """Still the same process, and not a zombie that only waits for its parent."""
        return identify(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still is this process; to one that is gone, do nothing."""
        if not self.alive:
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    started: int


def identify(pid: int) -> Process | None:
    """The process that has this pid now; None if there is none, or only a zombie."""
    stat = _stat(pid)
    if stat is None or stat.state in _DEAD_STATES:
        return None
    return Process(pid, stat.started)


def members(session: int, directory: Path) -> tuple[Process, ...]:
    """The living processes of a session (setsid(2)) that work below a directory.

    Children of children stay in the session, whoever their parent is by now. The directory tells
    them from a later session that was given the same number.
    """
    return tuple(
        Process(pid, stat.started)
        for pid, stat in _session(session)
        if stat.state not in _DEAD_STATES and _works_below(pid, directory)
    )


def suspended(session: int, directory: Path) -> tuple[Process, ...]:
    """Those of `members` that were stopped (SIGSTOP, a debugger) and may go on."""
    return tuple(
        Process(pid, stat.started)
        for pid, stat in _session(session)
        if stat.state in _SUSPENDED_STATES and _works_below(pid, directory)
    )


def kill_members(session: int, directory: Path, *, within: float) -> tuple[Process, ...]:
    """End all of a session but the caller; return those that outlived `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        rest = tuple(one for one in members(session, directory) if one.pid != os.getpid())
        if not rest or time.monotonic() > deadline:
            return rest
        for process in rest:
            process.signal(signal.SIGKILL)
        time.sleep(_KILL_INTERVAL)


def _session(session: int) -> Iterator[tuple[int, _Stat]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and stat.session == session:
                yield int(entry.name), stat


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name in parentheses may itself contain blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], session=int(fields[3]), started=int(fields[19]))


def _works_below(pid: int, directory: Path) -> bool:
    try:
        working = Path(os.readlink(_PROC / str(pid) / "cwd"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    # A directory that was removed meanwhile is shown as "… (deleted)".
    return str(working).removesuffix(" (deleted)").startswith(str(directory))
