"""What is known of each host: whether it answers, since when it does not, and how it is doing.

It is told what was asked and what came of it, and asks nobody. How much a service uses follows from
two readings of the same life.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.errors import HostUnreachable, OpsError
from celery_ops.model import Host, Reading, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from celery_ops.model import HostReleases, SeenProcesses
    from celery_ops.ports import HostReading, ProcessTree

LATE_AFTER = 3.0
"""Seconds a host may take to answer before it is said that it does not."""


@dataclass(slots=True)
class _Machine:
    host: Host
    asked: list[datetime] = field(default_factory=list)
    """When each command that it has not answered yet was sent."""
    is_tried: bool = False
    uptime: float | None = None
    trees: Mapping[int, ProcessTree] = field(default_factory=dict)


class Machines:
    """The hosts of a context by name."""

    def __init__(self, machines: Iterable[Host], names: Iterable[str]) -> None:
        """`names` are those of all hosts with services, told in `machines` or not."""
        self._machines = {name: _Machine(Host(name, name)) for name in dict.fromkeys(names)}
        self._machines.update((machine.name, _Machine(machine)) for machine in machines)

    def at(self, now: datetime) -> tuple[Host, ...]:
        """All of them as they are known now."""
        return tuple(_as_of(machine, now) for machine in self._machines.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self._machines)

    def has_told(self, name: str) -> bool:
        """Whether it was asked how it is doing, and answered or is known not to."""
        return self._machine(name).is_tried or self.is_lost(name)

    def is_lost(self, name: str) -> bool:
        """Whether it is known not to be reachable."""
        return self._machine(name).host.error is not None

    def asked(self, name: str, at: datetime) -> None:
        """A command was sent to it."""
        self._machine(name).asked.append(at)

    def answered(self, name: str, asked_at: datetime, at: datetime) -> None:
        """It did what it was told, whatever that gave."""
        machine = self._machine(name)
        _done(machine, asked_at)
        machine.host = replace(machine.host, error=None, since=None, reached_at=at)

    def failed(self, name: str, asked_at: datetime, error: OpsError) -> None:
        """A command came to nothing: that the host is not there is only one of the reasons.

        It does not answer since it was asked in vain for the first time.
        """
        machine = self._machine(name)
        _done(machine, asked_at)
        if isinstance(error, HostUnreachable):
            since = machine.host.since or asked_at
            machine.host = replace(machine.host, error=told(error), since=since)

    def forget_asked(self, name: str, asked_at: datetime) -> None:
        """Nobody waits for that answer any more."""
        _done(self._machine(name), asked_at)

    def read(self, name: str, reading: HostReading, at: datetime) -> dict[int, Reading[Usage]]:
        """Take note of its facts; how much each process tree uses, by the main process's pid."""
        machine = self._machine(name)
        machine.is_tried = True
        machine.host = replace(machine.host, facts=Reading(reading.facts, at), unread=None)
        seconds = _between(machine.uptime, reading.facts.uptime)
        usages = {
            pid: Reading(_usage(pid, tree, machine.trees.get(pid), seconds), at)
            for pid, tree in reading.trees.items()
        }
        machine.uptime, machine.trees = reading.facts.uptime, reading.trees
        return usages

    def not_read(self, name: str, error: OpsError) -> None:
        """Its facts could not be read."""
        machine = self._machine(name)
        machine.is_tried = True
        unread = None if isinstance(error, HostUnreachable) else told(error)
        machine.host = replace(machine.host, unread=unread)

    def read_releases(self, name: str, reading: Reading[HostReleases]) -> None:
        """Take note of the releases it has."""
        machine = self._machine(name)
        machine.host = replace(machine.host, releases=reading, releases_unread=None)

    def releases_not_read(self, name: str, error: OpsError) -> None:
        """They could not be read."""
        machine = self._machine(name)
        machine.host = replace(machine.host, releases_unread=told(error))

    def read_processes(self, name: str, reading: Reading[SeenProcesses]) -> None:
        """Take note of the processes of Celery's that it has."""
        machine = self._machine(name)
        machine.host = replace(machine.host, processes=reading, processes_unread=None)

    def processes_end(self, name: str, pid: int) -> None:
        """A main process of a service is gone, and so is what it had started."""
        machine = self._machine(name)
        reading = machine.host.processes
        if reading is not None:
            left = tuple(one for one in reading.value.processes if pid not in one.line)
            value = replace(reading.value, processes=left)
            machine.host = replace(machine.host, processes=replace(reading, value=value))

    def processes_not_read(self, name: str, error: OpsError) -> None:
        """They could not be read."""
        machine = self._machine(name)
        machine.host = replace(machine.host, processes_unread=told(error))

    def _machine(self, name: str) -> _Machine:
        return self._machines.setdefault(name, _Machine(Host(name, name)))


def told(error: OpsError) -> str:
    """What happened and the way out, as one text: both are shown where the host is."""
    return " ".join(part for part in (error.says, error.fix) if part)


def _as_of(machine: _Machine, now: datetime) -> Host:
    first = min(machine.asked, default=None)
    if first is None or (now - first).total_seconds() < LATE_AFTER:
        return machine.host
    reached_at = machine.host.reached_at
    if reached_at is not None and reached_at > first:
        # One command takes its time; the host answered another meanwhile.
        return machine.host
    return replace(machine.host, silent_since=machine.host.since or first)


def _done(machine: _Machine, asked_at: datetime) -> None:
    if asked_at in machine.asked:
        machine.asked.remove(asked_at)


def _between(earlier: float | None, later: float | None) -> float | None:
    """Seconds between two readings by the host's own clock; None if it was booted between them."""
    if earlier is None or later is None or later <= earlier:
        return None
    return later - earlier


def _usage(
    pid: int, tree: ProcessTree, earlier: ProcessTree | None, seconds: float | None
) -> Usage:
    """A tree that lost CPU time lost a process that nobody waited for: not known then."""
    cores = None
    is_same_life = earlier is not None and earlier.started == tree.started
    if earlier is not None and is_same_life and seconds is not None and tree.cpu >= earlier.cpu:
        cores = (tree.cpu - earlier.cpu) / seconds
    return Usage(pid, tree.processes, tree.memory, cores)
