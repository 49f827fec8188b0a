"""Waits until whoever started it lets go of its stdin, dead or alive, and ends one dockerd.

A daemon, its containerd and each container's shim bear the daemon's folder in their command lines;
what runs in a container descends from its shim. Imports nothing of the tests: it must be quick.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

DEADLINE = 20.0


def clear(folder: Path) -> None:
    """End all of it, and remove what it left."""
    deadline = time.monotonic() + DEADLINE
    while pids := _belonging(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SystemExit(f"processes do not end: {pids}")
        time.sleep(0.02)
    for group in Path("/sys/fs/cgroup").glob(f"**/{folder.name}"):
        for place, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(place).rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def _belonging(folder: Path) -> list[int]:
    """The processes that name the folder, and all below them, but for this one."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            pid = int(entry.name)
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[pid] = int(parent)
                if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                    found.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return sorted(found - {os.getpid()})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.read()
    clear(Path(sys.argv[1]))
