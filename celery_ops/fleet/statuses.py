"""What the supervisors say.

One command a host, supervisor kind and server, and never two at once.

A host that fails or hangs marks its own services and holds nobody up: its poll goes on in the
background until its deadline, and its answer is picked up when it comes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.errors import HostUnreachable, OpsError
from celery_ops.model import Host, Reading, Service, ServiceRef, ServiceState, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from celery_ops.ports import Clock, Hosts

POLL_DEADLINE = 10.0
"""Seconds one status command may take."""
POLL_INTERVAL = 2.0
"""Seconds between two routine polls of the same supervisor."""
ROUTINE_PATIENCE = 0.2
"""Seconds a routine refresh waits for supervisors; later answers belong to the next one."""

_Group = tuple[str, str, str | None]
_Life = tuple[ServiceRef, int, str | None]


@dataclass(slots=True)
class _Poll:
    """One command under way. `late_since` is when its waiting refresh gave up on it."""

    refs: tuple[ServiceRef, ...]
    task: asyncio.Task[None]


class Statuses:
    """The services of a context and the last reading of each."""

    def __init__(
        self,
        hosts: Hosts,
        services: Iterable[ServiceRef],
        machines: Iterable[Host],
        *,
        clock: Clock,
    ) -> None:
        self.services: dict[ServiceRef, Service] = {ref: Service(ref, None) for ref in services}
        names = dict.fromkeys(ref.host for ref in self.services)
        self._machines = {name: Host(name, name) for name in names}
        self._machines.update((machine.name, machine) for machine in machines)
        self._hosts = hosts
        self._clock = clock
        self._polls: dict[_Group, _Poll] = {}
        self._polled_at: dict[_Group, float] = {}
        self._arguments: dict[_Life, tuple[str, ...]] = {}

    @property
    def machines(self) -> tuple[Host, ...]:
        return tuple(self._machines.values())

    async def read(self, refs: Collection[ServiceRef]) -> None:
        """Ask about exactly these, now, and wait for the answers.

        A poll that is already under way may be about an earlier moment, so it does not count.
        """
        for ref in refs:
            self.services.setdefault(ref, Service(ref, None))
            self._machines.setdefault(ref.host, Host(ref.host, ref.host))
        groups = _grouped(refs)
        await asyncio.gather(*(self._poll(group, members) for group, members in groups.items()))

    async def refresh(self, patience: float) -> None:
        """Ask about all whose reading is due, and wait for those answers `patience` seconds at
        most.

        Services that were never read are worth waiting for; of others the next refresh tells more.
        """
        started = [
            self._begin(group, members)
            for group, members in _grouped(self.services).items()
            if self._is_due(group)
        ]
        if not started:
            self._collect()
            return
        is_first = any(self.services[ref].status is None for poll in started for ref in poll.refs)
        await self._wait(
            [poll.task for poll in started],
            patience if is_first else min(patience, ROUTINE_PATIENCE),
        )
        for poll in started:
            if not poll.task.done():
                self._mark_late(poll, patience if is_first else None)
        self._collect()

    async def close(self) -> None:
        """End what is still under way."""
        tasks = [poll.task for poll in self._polls.values()]
        self._polls.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, group: _Group) -> bool:
        if group in self._polls:
            return False
        polled_at = self._polled_at.get(group)
        return polled_at is None or self._clock.monotonic() - polled_at >= POLL_INTERVAL

    def _begin(self, group: _Group, members: tuple[ServiceRef, ...]) -> _Poll:
        poll = _Poll(members, asyncio.ensure_future(self._poll(group, members)))
        self._polls[group] = poll
        return poll

    def _collect(self) -> None:
        """Forget polls that ended; what is not one of our errors is a bug and is raised here."""
        for group, poll in list(self._polls.items()):
            if poll.task.done():
                del self._polls[group]
                poll.task.result()

    async def _wait(self, tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        pending: set[asyncio.Task[None]] = set(tasks)
        try:
            while pending and not timer.done():
                await asyncio.wait({*pending, timer}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in pending if not task.done()}
        finally:
            timer.cancel()

    def _mark_late(self, poll: _Poll, waited: float | None) -> None:
        """Say so of services about which nothing at all is known; of others their age says it."""
        if waited is None:
            return
        for ref in poll.refs:
            service = self.services[ref]
            if service.status is None:
                says = f"{ref.host} has not answered within {waited:.1f} s"
                self.services[ref] = replace(service, error=service.error or says)

    async def _poll(self, group: _Group, refs: tuple[ServiceRef, ...]) -> None:
        """Read these services' statuses. Errors of ours become the services' errors."""
        host, kind, _ = group
        self._polled_at[group] = self._clock.monotonic()
        try:
            supervisor = self._hosts.supervisor(kind)
            completed = await self._hosts.shell(host).run(
                supervisor.status(refs), timeout=POLL_DEADLINE
            )
            at = self._clock.now()
            statuses = supervisor.read_status(refs, completed)
            told = await self._with_arguments(host, statuses)
        except OpsError as error:
            self._fail(host, refs, error)
            return
        self._machines[host] = replace(self._machines[host], error=None, since=None)
        for ref in refs:
            self._note(ref, told.get(ref), at)

    def _note(self, ref: ServiceRef, status: ServiceStatus | None, at: datetime) -> None:
        earlier = self.services[ref].status
        if earlier is not None and earlier.at > at:
            return
        if status is None:
            self.services[ref] = Service(ref, earlier, "its supervisor did not mention it")
        else:
            self.services[ref] = Service(ref, Reading(status, at))

    def _fail(self, host: str, refs: Iterable[ServiceRef], error: OpsError) -> None:
        for ref in refs:
            self.services[ref] = replace(self.services[ref], error=_told(error))
        machine = self._machines[host]
        if isinstance(error, HostUnreachable):
            since = machine.since or self._clock.now()
            self._machines[host] = replace(machine, error=_told(error), since=since)

    async def _with_arguments(
        self, host: str, statuses: Mapping[ServiceRef, ServiceStatus]
    ) -> dict[ServiceRef, ServiceStatus]:
        """The statuses with their processes' command lines, read once an incarnation."""
        told = dict(statuses)
        missing: dict[_Life, ServiceStatus] = {}
        for ref, status in statuses.items():
            life = _life(ref, status)
            if life is None or status.arguments is not None:
                continue
            if life in self._arguments:
                told[ref] = replace(status, arguments=self._arguments[life])
            else:
                missing[life] = status
        if missing:
            await self._read_arguments(host, missing, told)
        return told

    async def _read_arguments(
        self,
        host: str,
        missing: Mapping[_Life, ServiceStatus],
        told: dict[ServiceRef, ServiceStatus],
    ) -> None:
        try:
            read = await self._hosts.arguments(host, {pid for _, pid, _ in missing})
        except OpsError:
            # The status itself was read; the command line stays unknown and is asked for again.
            return
        for life, status in missing.items():
            ref, pid, _ = life
            if pid in read:
                for old in [known for known in self._arguments if known[0] == ref]:
                    del self._arguments[old]
                self._arguments[life] = read[pid]
                told[ref] = replace(status, arguments=read[pid])


def _life(ref: ServiceRef, status: ServiceStatus) -> _Life | None:
    if status.pid is None or status.state not in (ServiceState.RUNNING, ServiceState.STARTING):
        return None
    return (ref, status.pid, status.identity)


def _grouped(refs: Iterable[ServiceRef]) -> dict[_Group, tuple[ServiceRef, ...]]:
    groups: dict[_Group, list[ServiceRef]] = {}
    for ref in refs:
        groups.setdefault((ref.host, ref.supervisor, ref.server), []).append(ref)
    return {group: tuple(members) for group, members in groups.items()}


def _told(error: OpsError) -> str:
    """What happened and the way out, as one text: both are shown where the host is."""
    return " ".join(part for part in (error.says, error.fix) if part)
