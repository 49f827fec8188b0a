"""Which demos run on this machine: one small file each, in the user's state directory.

A file is written by the demo's keeper and removed with the demo. What a killed keeper left behind
is cleaned up by whoever looks next.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from celery_ops.demo.processes import Process, kill_members
from celery_ops.errors import OpsError, UsageError

NEWEST = "demo"
"""The name that stands for the newest demo, whatever its own name."""

DIRECTORY_PREFIX = "celery-ops-"
_HOW_TO_START = (
    "Start one with: celery-ops demo   (or, without a screen: celery-ops demo --headless)"
)
_KILL_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that runs, or ran when this was read. Holds no secret.

    `config` is its celery-ops.yaml, in which the context has the demo's name. `owner` is the
    process with which it ends, None if it runs until it is stopped; `keeper` watches over it.
    """

    name: str
    directory: Path
    config: Path
    keeper: Process
    owner: Process | None
    started_at: datetime

    @property
    def session(self) -> int:
        """The session all of its processes belong to: the keeper leads it."""
        return self.keeper.pid

    @property
    def alive(self) -> bool:
        return self.keeper.alive


def running() -> tuple[Demo, ...]:
    """The demos of this user on this machine, newest first.

    What is left of one whose keeper was killed is removed on the way.
    """
    found = []
    for path in _registry().glob("*.json"):
        demo = _read(path)
        if demo is None:
            continue
        if demo.alive:
            found.append(demo)
        else:
            clear(demo)
    return tuple(sorted(found, key=lambda demo: demo.started_at, reverse=True))


def find(name: str) -> Demo:
    """The demo of that name; `demo` is the newest one. Raise UsageError if it does not run."""
    demos = running()
    for demo in demos:
        if name in (NEWEST, demo.name):
            return demo
    if not demos:
        raise UsageError("No demo is running.", fix=_HOW_TO_START)
    names = ", ".join(demo.name for demo in demos)
    raise UsageError(f"No demo {name!r} is running.", fix=f"Running: {names}")


def unused_name() -> str:
    """A name no running demo has."""
    while True:
        name = f"{NEWEST}-{secrets.token_hex(2)}"
        if not _path(name).exists():
            return name


def enter(demo: Demo) -> None:
    """Write a demo down, so that other terminals find it."""
    path = _path(demo.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry = {
        "name": demo.name,
        "machine": socket.gethostname(),
        "directory": str(demo.directory),
        "config": str(demo.config),
        "keeper": str(demo.keeper),
        "owner": None if demo.owner is None else str(demo.owner),
        "started_at": demo.started_at.isoformat(),
    }
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(entry, indent=2) + "\n")
    draft.replace(path)


def clear(demo: Demo) -> None:
    """End what still runs of a demo, at once, and remove its directory and its entry.

    Nothing in a demo outlives it, so nothing is asked to end in order. Raise OpsError, and keep the
    entry, if a process cannot be ended. The caller may itself be the demo's keeper.
    """
    rest = kill_members(demo.session, demo.directory, within=_KILL_WITHIN)
    if rest:
        pids = ", ".join(str(process.pid) for process in rest)
        raise OpsError(f"Processes of {demo.name} cannot be ended: {pids}.")
    if demo.directory.name.startswith(DIRECTORY_PREFIX):
        shutil.rmtree(demo.directory, ignore_errors=True)
    _path(demo.name).unlink(missing_ok=True)


def now() -> datetime:
    return datetime.now(UTC)


def _registry() -> Path:
    """`$XDG_STATE_HOME`, if it is absolute as the XDG base directory specification wants it."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    base = state if state.is_absolute() else Path.home() / ".local" / "state"
    return base / "celery-ops" / "demos"


def _path(name: str) -> Path:
    return _registry() / f"{name}.json"


def _read(path: Path) -> Demo | None:
    """None for what is no entry, or that of another machine which shares this home directory."""
    try:
        entry = json.loads(path.read_bytes())
        if entry["machine"] != socket.gethostname():
            return None
        return Demo(
            name=path.stem,
            directory=Path(entry["directory"]),
            config=Path(entry["config"]),
            keeper=Process.parse(entry["keeper"]),
            owner=None if entry["owner"] is None else Process.parse(entry["owner"]),
            started_at=datetime.fromisoformat(entry["started_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
