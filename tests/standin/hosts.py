"""Hosts that obey `ports.Hosts` and show the services of a StandinFleet.

The supervisor's commands are `standin status|start|stop|log …`, understood by the shell; every
other command is looked up in `programs`, and succeeds silently where it is not there.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.model import (
    Disk,
    HostFacts,
    SeenProcess,
    SeenProcesses,
    ServiceRef,
    ServiceState,
    ServiceStatus,
)
from celery_ops.ports import Command, Completed, HostReading, ProcessTree
from tests.standin.fleet import SimulatedService, StandinFleet
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from celery_ops.errors import StreamFailed

    Program = Callable[[Command], Completed]

SECONDS_A_COMMAND = 0.01
FACTS_TIMEOUT = 10.0
FACTS = HostFacts(
    load=(0.5, 0.25, 0.125),
    cpus=4,
    memory=8_000_000_000,
    memory_available=6_000_000_000,
    disks=(Disk("/", 100_000_000_000, 50_000_000_000, 50_000_000_000),),
    uptime=3600.0,
)
"""Of a host that is well; its uptime grows with the clock."""


class StandinSupervisor:
    """Commands of an imaginary supervisor. All kinds are the same here."""

    def __init__(self, fleet: StandinFleet, kind: str) -> None:
        self._fleet = fleet
        self._kind = kind

    def status(self, services: Sequence[ServiceRef]) -> Command:
        return Command(("standin", "status", self._kind, *(service.name for service in services)))

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        if completed.code != 0:
            raise CommandFailed(completed.err.decode())
        known = json.loads(completed.out)
        return {ref: self._read(ref, known[ref.name]) for ref in services if ref.name in known}

    def start(self, service: ServiceRef) -> Command:
        return Command(("standin", "start", self._kind, service.name))

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        return Command(("standin", "stop", self._kind, service.name, expect or ""))

    def stop_for_good(self, service: ServiceRef, *, expect: str | None) -> Command:
        return Command(("standin", "disable", self._kind, service.name, expect or ""))

    def start_for_good(self, service: ServiceRef, *, at_boot: str) -> Command:
        return Command(("standin", "enable", self._kind, service.name, at_boot))

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        if completed.code != 0:
            raise CommandFailed(f"{service}: {completed.err.decode()}")

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        return Command(("standin", "log", self._kind, service.name, str(lines)))

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        return CommandFailed(f"{service}: {ended.says}")

    def _read(self, ref: ServiceRef, told: Mapping[str, object]) -> ServiceStatus:
        service = self._fleet.services[ref]
        pid, identity = told["pid"], told["identity"]
        return ServiceStatus(
            state=ServiceState(str(told["state"])),
            pid=pid if isinstance(pid, int) else None,
            identity=str(identity) if identity and service.tells_identity else None,
            started_at=service.started_at,
            clean_exit=service.clean_exit,
            says=service.says,
            stop_grace=service.stop_grace,
            restarts_itself=service.restarts_itself,
            signals_children=service.signals_children,
            stop_signal=service.stop_signal,
            restarts=service.restarts,
            retry=service.retry,
            startable=service.startable,
            hazards=service.hazards,
            at_boot=service.at_boot,
            comes_back=service.comes_back,
        )


class StandinShell:
    """One simulated host. `ran` are all commands it was given, in order."""

    def __init__(self, hosts: StandinHosts, name: str) -> None:
        self._hosts = hosts
        self._name = name
        self.ran: list[Command] = []

    async def run(self, command: Command, *, timeout: float) -> Completed:
        hosts = self._hosts
        clock = hosts.fleet.clock
        if self._name in hosts.unreachable:
            raise HostUnreachable(f"{self._name}: no route to host")
        is_effect = command.argv[1:2] in {("start",), ("stop",), ("enable",), ("disable",)}
        if hosts.refuses is not None and is_effect:
            raise hosts.refuses
        if self._name in hosts.swallowing and is_effect:
            raise HostUnreachable(f"{self._name}: the connection was lost")
        if self._name in hosts.hanging:
            await clock.sleep(timeout)
            raise HostUnreachable(f"{self._name} did not answer within {timeout:.0f} s")
        self.ran.append(command)
        await clock.sleep(min(hosts.seconds, timeout))
        if hosts.seconds > timeout:
            raise CommandFailed(f"{command} did not end within {timeout:.0f} s")
        hosts.fleet.settle()
        if command.argv[0] == "release" and hosts.layout is not None:
            return hosts.layout.obey(self._name, command)
        if command.argv[0] != "standin":
            program = hosts.programs.get(command.argv[0])
            return program(command) if program is not None else _completed()
        match command.argv[1:]:
            case ("enable", kind, name, at_boot):
                return self._enable(self._service(kind, name), at_boot)
            case ("disable", kind, name, expect):
                return self._disable(self._service(kind, name), expect)
            case ("status", kind, *names):
                return _completed(json.dumps(self._statuses(kind, names)))
            case ("start", kind, name):
                return self._start(self._service(kind, name))
            case ("stop", kind, name, expect):
                return self._stop(self._service(kind, name), expect)
        return _completed(err="unknown command", code=2)

    async def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        hosts = self._hosts
        if self._name in hosts.unreachable:
            raise HostUnreachable(f"{self._name}: no route to host")
        self.ran.append(command)
        written = hosts.written[self._name, command.argv[3]]
        hosts.following += 1
        try:
            while (said := await written.get()) is not None:
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            hosts.following -= 1

    def _statuses(self, kind: str, names: Sequence[str]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name in names:
            service = self._service(kind, name)
            if service is not None:
                found[name] = {
                    "state": service.state.value,
                    "pid": service.pid,
                    "identity": service.identity,
                }
        return found

    def _start(self, service: SimulatedService | None) -> Completed:
        if service is None:
            return _completed(err="no such service", code=1)
        self._hosts.fleet.start_service(service)
        return _completed()

    def _stop(self, service: SimulatedService | None, expect: str) -> Completed:
        if service is None:
            return _completed(err="no such service", code=1)
        if expect and service.identity != expect:
            return _completed(err=f"another life runs: {service.identity}, not {expect}", code=3)
        self._hosts.fleet.stop_service(service)
        return _completed()

    def _enable(self, service: SimulatedService | None, at_boot: str) -> Completed:
        if service is not None:
            service.at_boot = at_boot
        return self._start(service)

    def _disable(self, service: SimulatedService | None, expect: str) -> Completed:
        done = self._stop(service, expect)
        if service is not None and not done.code:
            service.at_boot = ""
        return done

    def _service(self, kind: str, name: str) -> SimulatedService | None:
        return next(
            (
                service
                for ref, service in self._hosts.fleet.services.items()
                if (ref.host, ref.supervisor, ref.name) == (self._name, kind, name)
            ),
            None,
        )


class StandinHosts:
    """All hosts of a simulated fleet.

    `unreachable` and `hanging` are names of hosts with that fault; those in `refusing` do not tell
    their facts; `swallowing` ones answer questions, and lose the connection instead of doing
    anything. `strays` are Celery's processes, by host, that no service of a scheduler stands for;
    `schedulers` are the classes that such services name; `blind` hosts do not show their processes.
    `written` is what services write to their
    logs, by host and name: an error is raised, None ends the log.
    """

    def __init__(self, fleet: StandinFleet) -> None:
        self.fleet = fleet
        self.unreachable: set[str] = set()
        self.hanging: set[str] = set()
        self.swallowing: set[str] = set()
        self.refuses: CommandFailed | None = None
        """What every effect is refused with."""
        self.seconds = SECONDS_A_COMMAND
        self.programs: dict[str, Program] = {}
        self.arguments_read: list[int] = []
        self.written: defaultdict[tuple[str, str], asyncio.Queue[bytes | Exception | None]] = (
            defaultdict(asyncio.Queue)
        )
        self.following = 0
        self.facts_of: dict[str, HostFacts] = {}
        self.facts_read: list[str] = []
        self.refusing: set[str] = set()
        self.blind: set[str] = set()
        self.strays: dict[str, tuple[SeenProcess, ...]] = {}
        self.schedulers: dict[str, str] = {}
        self.layout: StandinReleases | None = None
        self._shells: dict[str, StandinShell] = {}

    def shell(self, host: str) -> StandinShell:
        return self._shells.setdefault(host, StandinShell(self, host))

    def supervisor(self, kind: str) -> StandinSupervisor:
        return StandinSupervisor(self.fleet, kind)

    async def arguments(self, host: str, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        if host in self.unreachable:
            raise HostUnreachable(f"{host}: no route to host")
        self.arguments_read.extend(pids)
        return {
            service.pid: service.arguments
            for ref, service in self.fleet.services.items()
            if ref.host == host and service.pid is not None and service.pid in pids
        }

    async def facts(self, host: str, pids: Collection[int]) -> HostReading:
        """What `facts_of` has for the host; the trees of those of its services that run."""
        clock = self.fleet.clock
        self.facts_read.append(host)
        if host in self.unreachable:
            raise HostUnreachable(f"{host}: no route to host")
        if host in self.hanging:
            await clock.sleep(FACTS_TIMEOUT)
            raise HostUnreachable(f"{host} did not answer within {FACTS_TIMEOUT:.0f} s")
        if host in self.refusing:
            raise CommandFailed(f"{host}: sh: not found")
        await clock.sleep(self.seconds)
        self.fleet.settle()
        facts = self.facts_of.get(host, FACTS)
        if facts.uptime is not None:
            facts = replace(facts, uptime=facts.uptime + clock.monotonic())
        return HostReading(facts, {pid: self._tree(pid) for pid in pids if pid in self._pids(host)})

    def _tree(self, pid: int) -> ProcessTree:
        """Three processes that have been busy for a quarter of the time."""
        return ProcessTree(3, 90_000_000, self.fleet.clock.monotonic() / 4, pid)

    def _pids(self, host: str) -> set[int | None]:
        return {one.pid for ref, one in self.fleet.services.items() if ref.host == host}

    async def processes(self, host: str) -> SeenProcesses:
        """Those of its schedulers' services that run, and what else `strays` has for the host."""
        if host in self.unreachable:
            raise HostUnreachable(f"{host}: no route to host")
        if host in self.blind:
            raise CommandFailed(f"{host}: it has no /proc")
        await self.fleet.clock.sleep(self.seconds)
        self.fleet.settle()
        beats = [
            SeenProcess((one.pid,), is_beat=True, scheduler=self.schedulers.get(str(ref)))
            for ref, one in self.fleet.services.items()
            if ref.host == host and ref.beat and one.pid is not None
        ]
        return SeenProcesses(host, (*beats, *self.strays.get(host, ())))

    def release_layout(self, host: str) -> StandinReleases | None:
        del host
        return self.layout

    async def close(self) -> None:
        """There is nothing to close."""


def _completed(out: str = "", *, err: str = "", code: int = 0) -> Completed:
    return Completed(code, out.encode(), err.encode(), SECONDS_A_COMMAND)
