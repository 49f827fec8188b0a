"""Asks a Linux host about its processes: the commands, and what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.ports import Completed

_FILE = "/proc/{pid}/cmdline"


def arguments(pids: Collection[int]) -> Command:
    """One command for the command lines of many processes.

    `grep` prints each file's name before each of its arguments, and goes on when a process is gone.
    """
    files = [_FILE.format(pid=pid) for pid in sorted(pids)]
    return Command(("grep", "-saHzZ", "", *files), env=(("LC_ALL", "C"),))


def read_arguments(pids: Collection[int], completed: Completed) -> dict[int, tuple[str, ...]]:
    """The command lines by pid. A truncated answer loses what may be incomplete."""
    if completed.code not in {0, 1, 2}:
        says = completed.err.decode("utf-8", "replace").strip() or f"exit code {completed.code}"
        raise CommandFailed(f"The processes' command lines cannot be read: {says[:200]}.")
    by_file = {_FILE.format(pid=pid): pid for pid in pids}
    words = completed.out.split(b"\0")
    found: dict[int, list[str]] = {}
    for file, word in zip(words[0::2], words[1::2], strict=False):
        pid = by_file.get(file.decode("utf-8", "replace"))
        if pid is not None:
            found.setdefault(pid, []).append(word.decode("utf-8", "replace"))
    if completed.truncated and found:
        del found[max(found)]
    return {pid: tuple(words) for pid, words in found.items()}
