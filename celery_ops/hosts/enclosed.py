"""Which process in a container is Celery's, and whether a stop signal gets to it. Pure.

Docker signals PID 1 of a container and nobody else, and the kernel drops what PID 1 has no handler
for. Below an init or a shell it depends on them: tini and dumb-init pass signals on, to one process
or to a group; a shell keeps them, unless it has a trap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.hosts import invocations
from celery_ops.hosts.invocations import SHELLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from signal import Signals

    from celery_ops.hosts.listing import Process

INITS = {"tini", "tini-static", "docker-init", "dumb-init", "catatonit"}
_WHOLE_GROUP = {"-g", "--kill-process-group"}
_ONE_CHILD = {"-c", "--single-child"}
_VALUED = {"-p", "-e", "-r", "--rewrite"}
"""Options of theirs that take the next word."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The process that counts: Celery's, or PID 1 where none can be told to be Celery's.

    `inner_pid` is what it knows itself by. `above` are those between PID 1, the first of them, and
    it. `signals_children` is what an init does with a signal.
    """

    pid: int | None
    inner_pid: int | None
    arguments: tuple[str, ...] | None
    process: Process | None
    above: tuple[Process, ...]
    signals_children: bool | None

    def heeds(self, stop: Signals, *, is_new: bool) -> bool | None:
        """Whether this signal to PID 1 makes it end as it should; None where nobody can tell.

        A process that `is_new` may not have come to setting its handlers yet.
        """
        if self.process is None:
            return None
        for one in self.above:
            if is_init(one.arguments):
                continue
            if not is_shell(one.arguments):
                return None
            return False if one.heeds(stop) is False else None
        heeds = self.process.heeds(stop)
        return None if heeds is False and is_new else heeds


def main(first: int | None, command: Sequence[str], processes: Mapping[int, Process]) -> Inside:
    """Look for it from PID 1 of a container on, `first` on the host; `command` is what PID 1 was
    started as. Without `first` nothing runs.
    """
    top = processes.get(first) if first is not None else None
    if top is None:
        return Inside(first, None, None, None, (), _signals_children(command))
    paths = list(_paths(top, (), processes))
    path = paths[0] if len(paths) == 1 else (top,)
    found = path[-1]
    is_known = all(is_init(one.arguments) or is_shell(one.arguments) for one in path[:-1])
    return Inside(
        pid=found.pid,
        inner_pid=found.inner_pid or found.pid,
        arguments=found.arguments or None,
        process=found,
        above=path[:-1],
        signals_children=_signals_children(top.arguments) if is_known and len(paths) < 2 else None,
    )


def is_init(arguments: Sequence[str]) -> bool:
    """One that is made to be PID 1 of a container."""
    return bool(arguments) and _base(arguments[0]) in INITS


def is_shell(arguments: Sequence[str]) -> bool:
    return bool(arguments) and _base(arguments[0]) in SHELLS


def _paths(
    process: Process, above: tuple[Process, ...], processes: Mapping[int, Process]
) -> Iterator[tuple[Process, ...]]:
    """The ways from PID 1 down to each process that runs Celery and whose parents do not."""
    path = (*above, process)
    if not is_shell(process.arguments) and invocations.read(process.arguments, None) is not None:
        yield path
        return
    for child in processes.values():
        if child.parent == process.pid and child not in path:
            yield from _paths(child, path, processes)


def _signals_children(arguments: Sequence[str]) -> bool:
    """dumb-init signals the group of its child unless told not to; tini only where it is told."""
    if not is_init(arguments):
        return False
    options, is_value = [], False
    for word in arguments[1:]:
        if word == "--" or not (word.startswith("-") or is_value):
            break
        is_value = word in _VALUED
        options.append(word)
    if _base(arguments[0]) == "dumb-init":
        return not _ONE_CHILD & set(options)
    return any(one in _WHOLE_GROUP or _has_letter(one, "g") for one in options)


def _has_letter(option: str, letter: str) -> bool:
    """`-sg` is `-s -g`."""
    return not option.startswith("--") and letter in option[1:]


def _base(word: str) -> str:
    return word.rpartition("/")[2]
