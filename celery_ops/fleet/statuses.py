"""What the supervisors say.

One command a host, supervisor kind and server, and never two at once.

Beside them, and rarer, each host is asked how it is doing, one without services too. A host that
fails or hangs marks its own services and itself, and holds nobody up: its poll goes on in the
background until its deadline, and its answer is picked up when it comes.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.config.contexts import LOCAL
from celery_ops.errors import CommandFailed, OpsError
from celery_ops.fleet.machines import Machines, told
from celery_ops.fleet.matching import owner
from celery_ops.fleet.releases import ReleaseMemory
from celery_ops.fleet.restarts import RestartMemory
from celery_ops.model import Reading, Service, ServiceRef, ServiceState, ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from celery_ops.model import Host
    from celery_ops.ports import Clock, Hosts

POLL_DEADLINE = 10.0
"""Seconds one status command may take."""
POLL_INTERVAL = 2.0
"""Seconds between two routine polls of the same supervisor."""
FACTS_INTERVAL = 5.0
"""Seconds between two readings of a host's facts."""
PROCESSES_INTERVAL = 30.0
"""Seconds between two looks at which processes of Celery's a host has."""
RELEASES_INTERVAL = 1.0
"""Seconds between two questions which release a service runs that has just begun."""
ROUTINE_PATIENCE = 0.2
"""Seconds a routine refresh waits for supervisors; later answers belong to the next one."""

_Group = tuple[str, str, str | None]
_Life = tuple[ServiceRef, int, str | None]


@dataclass(slots=True)
class _Poll:
    """One command under way."""

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
        used = dict.fromkeys(ref.host for ref in self.services)
        self._machines = Machines(_worth_asking(machines, used), used)
        self._hosts = hosts
        self._clock = clock
        self._restarts = RestartMemory()
        self._releases = ReleaseMemory()
        self._polls: dict[_Group, _Poll] = {}
        self._polled_at: dict[_Group, float] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        """At hosts, for their facts."""
        self._looked_at: dict[str, float] = {}
        self._releases_at: dict[str, float] = {}
        self._processes_at: dict[str, float] = {}
        self._arguments: dict[_Life, tuple[str, ...]] = {}

    @property
    def machines(self) -> tuple[Host, ...]:
        return self._machines.at(self._clock.now())

    async def read(self, refs: Collection[ServiceRef], workers: Collection[str] = ()) -> None:
        """Ask about exactly these, now, and wait for the answers; and which releases they, and
        these workers, run where that is not known yet.

        A poll that is already under way may be about an earlier moment, so it does not count.
        """
        for ref in refs:
            self.services.setdefault(ref, Service(ref, None))
        groups = _grouped(refs)
        await asyncio.gather(*(self._poll(group, members) for group, members in groups.items()))
        hosts = {host for host, _, _ in groups}
        hosts |= {ref.host for ref in self.services if ref.worker in workers}
        due = [host for host in hosts if self._is_release_due(host)]
        await asyncio.gather(*map(self._try_releases, due))

    async def refresh(self, patience: float) -> None:
        """Ask about all whose reading is due, and wait for those answers `patience` seconds at
        most.

        What was never read is worth waiting for, unless it is known why; of the rest the next
        refresh tells more.
        """
        started = [
            self._begin(group, members)
            for group, members in _grouped(self.services).items()
            if self._is_due(group)
        ]
        looks = {name: self._look(name) for name in self._machines.names() if self._is_worn(name)}
        tasks = [poll.task for poll in started]
        tasks += [task for name, task in looks.items() if not self._machines.has_told(name)]
        if not tasks:
            self._collect()
            return
        is_first = len(tasks) > len(started) or any(map(self._is_new, started))
        await self._wait(tasks, patience if is_first else min(patience, ROUTINE_PATIENCE))
        for poll in started:
            if not poll.task.done():
                self._mark_late(poll, patience if is_first else None)
        self._collect()

    async def close(self) -> None:
        """End what is still under way."""
        tasks = [*(poll.task for poll in self._polls.values()), *self._looks.values()]
        self._polls.clear()
        self._looks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_due(self, group: _Group) -> bool:
        if group in self._polls:
            return False
        polled_at = self._polled_at.get(group)
        return polled_at is None or self._clock.monotonic() - polled_at >= POLL_INTERVAL

    def _is_new(self, poll: _Poll) -> bool:
        services = [self.services[ref] for ref in poll.refs]
        return any(one.status is None and one.error is None for one in services)

    def _is_worn(self, name: str) -> bool:
        """Whether a host's facts are so old that it is to be asked again."""
        if name in self._looks:
            return False
        looked_at = self._looked_at.get(name)
        return looked_at is None or self._clock.monotonic() - looked_at >= FACTS_INTERVAL

    def _is_release_due(self, name: str) -> bool:
        """Whether a service began there of which it is not known yet what it runs."""
        asked_at = self._releases_at.get(name)
        is_early = asked_at is not None and self._clock.monotonic() - asked_at < RELEASES_INTERVAL
        return (
            self._hosts.release_layout(name) is not None
            and not is_early
            and any(
                service.release is None and service.status is not None and service.status.value.pid
                for ref, service in self.services.items()
                if ref.host == name
            )
        )

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
        for name, look in list(self._looks.items()):
            if look.done():
                del self._looks[name]
                look.result()

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
        with self._asking(host) as asked_at:
            try:
                supervisor = self._hosts.supervisor(kind)
                completed = await self._hosts.shell(host).run(
                    supervisor.status(refs), timeout=POLL_DEADLINE
                )
                at = self._clock.now()
                self._machines.answered(host, asked_at, at)
                statuses = supervisor.read_status(refs, completed)
                read = await self._with_arguments(host, statuses)
            except OpsError as error:
                self._fail(host, refs, error, asked_at)
                return
        for ref in refs:
            self._note(ref, read.get(ref), at)

    def _look(self, host: str) -> asyncio.Task[None]:
        """Begin to read a host's facts."""
        self._looked_at[host] = self._clock.monotonic()
        look = self._looks[host] = asyncio.ensure_future(self._read_host(host))
        return look

    async def _read_host(self, host: str) -> None:
        """Its facts, and which processes it has. After its services: their processes are part of
        it, and of a lost host they tell when it is back.
        """
        polls = [poll.task for group, poll in self._polls.items() if group[0] == host]
        if polls:
            await asyncio.wait(polls)
        if self._machines.is_lost(host) and any(ref.host == host for ref in self.services):
            return
        looked_at = self._processes_at.get(host)
        is_worn = looked_at is None or self._clock.monotonic() - looked_at >= PROCESSES_INTERVAL
        processes = [self._read_processes(host)] if is_worn else []
        await asyncio.gather(self._read_facts(host), *processes)

    async def _read_facts(self, host: str) -> None:
        with self._asking(host) as asked_at:
            try:
                reading = await self._hosts.facts(host, self._pids(host))
            except CommandFailed as error:
                self._machines.answered(host, asked_at, self._clock.now())
                self._machines.not_read(host, error)
                return
            except OpsError as error:
                self._machines.failed(host, asked_at, error)
                self._machines.not_read(host, error)
                return
            at = self._clock.now()
            self._machines.answered(host, asked_at, at)
        usages = self._machines.read(host, reading, at)
        for ref, service in self.services.items():
            status = service.status
            if ref.host == host and status is not None and status.value.pid is not None:
                self.services[ref] = replace(service, usage=usages.get(status.value.pid))
        await self._try_releases(host)

    async def read_processes(self) -> None:
        """Which processes of Celery's the hosts have; who does not tell is marked, and who is
        known to be away is not asked.
        """
        names = [name for name in self._machines.names() if not self._machines.is_lost(name)]
        await asyncio.gather(*map(self._read_processes, names))

    async def _read_processes(self, host: str) -> None:
        self._processes_at[host] = self._clock.monotonic()
        with self._asking(host) as asked_at:
            try:
                seen = await self._hosts.processes(host)
            except OpsError as error:
                self._machines.failed(host, asked_at, error)
                self._machines.processes_not_read(host, error)
                return
            at = self._clock.now()
            self._machines.answered(host, asked_at, at)
        self._machines.read_processes(host, Reading(seen, at))
        here = [service for ref, service in self.services.items() if ref.host == host]
        beats = [one for one in seen.processes if one.is_beat or one.has_beat]
        if any(owner(one, here) is None for one in beats):
            # It may have been started since the supervisors were asked.
            await self.read([service.ref for service in here])

    async def _try_releases(self, host: str) -> None:
        with suppress(OpsError):  # told with the host
            await self.read_releases(host)

    async def read_releases(self, host: str) -> str | None:
        """Which releases it has, and which ones its services run; the one that is current.

        None where it is not configured how they are kept. Raise CommandFailed or HostUnreachable.
        """
        layout = self._hosts.release_layout(host)
        if layout is None:
            return None
        self._releases_at[host] = self._clock.monotonic()
        with self._asking(host) as asked_at:
            try:
                completed = await self._hosts.shell(host).run(
                    layout.look(self._pids(host)), timeout=POLL_DEADLINE
                )
                self._machines.answered(host, asked_at, self._clock.now())
                reading = layout.read(completed)
            except OpsError as error:
                self._machines.failed(host, asked_at, error)
                self._machines.releases_not_read(host, error)
                raise
        at = self._clock.now()
        runs = self._releases.note(host, reading)
        self._machines.read_releases(host, Reading(reading.host, at))
        for ref, service in self.services.items():
            pid = service.status.value.pid if service.status is not None else None
            if ref.host == host and pid in reading.started:
                release = Reading(runs[pid], at) if pid in runs else None
                self.services[ref] = replace(service, release=release)
        return reading.host.current

    def _pids(self, host: str) -> set[int]:
        """Of the services of a host that run."""
        return {
            service.status.value.pid
            for ref, service in self.services.items()
            if ref.host == host and service.status is not None
            if service.status.value.pid is not None
        }

    @contextmanager
    def _asking(self, host: str) -> Iterator[datetime]:
        """While a host owes an answer; since when."""
        asked_at = self._clock.now()
        self._machines.asked(host, asked_at)
        try:
            yield asked_at
        finally:
            self._machines.forget_asked(host, asked_at)

    def _note(self, ref: ServiceRef, status: ServiceStatus | None, at: datetime) -> None:
        before = self.services[ref]
        if before.status is not None and before.status.at > at:
            return
        if status is None:
            says = "its supervisor did not mention it"
            self.services[ref] = Service(
                ref, before.status, says, restarted=before.restarted, release=before.release
            )
            return
        if before.status is not None and before.status.value.pid not in (None, status.pid):
            self._machines.processes_end(ref.host, before.status.value.pid)
        usage = before.usage if before.usage and before.usage.value.pid == status.pid else None
        life = None if before.status is None else _life(ref, before.status.value)
        self.services[ref] = Service(
            ref,
            Reading(status, at),
            usage=usage,
            restarted=self._restarts.note(ref, status, at),
            release=before.release if life == _life(ref, status) else None,
        )

    def _fail(
        self, host: str, refs: Iterable[ServiceRef], error: OpsError, asked_at: datetime
    ) -> None:
        for ref in refs:
            self.services[ref] = replace(self.services[ref], error=told(error))
        self._machines.failed(host, asked_at, error)

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


def _worth_asking(machines: Iterable[Host], used: Collection[str]) -> list[Host]:
    """The configured hosts. This machine is one of them only if it has services, or if there is no
    other: celery-ops may run anywhere.
    """
    found = list(machines)
    others = [one for one in found if one.name != LOCAL]
    return found if LOCAL in used or not (others or used) else others
