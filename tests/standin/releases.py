"""Releases of a simulated fleet's hosts: `release look PID…`, `release activate NAME EXPECTED`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.model import HostReleases
from celery_ops.ports import Command, Completed, ReleasesReading

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.model import ServiceRef
    from tests.standin.fleet import StandinFleet


class StandinReleases:
    """The ReleaseLayout port. `known` and `current` are by host; `switched` are all switches, in
    order. `tells`: what a process runs is seen, and does not follow from when it began alone.
    Workers of those in `crashing` never come up.
    `unreached` are workers that a start does not bring to another release, and why.
    """

    def __init__(self, fleet: StandinFleet, hosts: Collection[str], *known: str) -> None:
        self.known = dict.fromkeys(hosts, known)
        self.current = dict.fromkeys(hosts, known[-1])
        self.switched: list[tuple[str, str]] = []
        self.tells = True
        self.crashing: set[str] = set()
        self.registers: dict[str, tuple[str, ...]] = {}
        self.unreached: dict[str, str] = {}
        self._fleet = fleet
        self._since: dict[str, list[tuple[float, str]]] = {
            host: [(-1.0, known[-1])] for host in hosts
        }

    def look(self, pids: Collection[int]) -> Command:
        return Command(("release", "look", *map(str, sorted(pids))))

    def read(self, completed: Completed) -> ReleasesReading:
        if completed.code:
            raise CommandFailed(completed.err.decode())
        told = json.loads(completed.out)
        return ReleasesReading(
            HostReleases(told["current"], tuple(told["known"])),
            at=told["at"],
            started={int(pid): began for pid, began in told["started"].items()},
            runs={int(pid): name for pid, name in told["runs"].items()},
        )

    def why_not(self, service: ServiceRef) -> str:
        return self.unreached.get(service.worker or "", "")

    def activate(self, release: str, *, expect: str | None) -> Command:
        return Command(("release", "activate", release, expect or ""))

    def read_activated(self, release: str, completed: Completed) -> None:
        if completed.code:
            raise CommandFailed(f"{release}: {completed.err.decode()}")

    def tasks(self, release: str, *, pid: int | None) -> Command | None:
        return Command(("release", "tasks", release, str(pid)))

    def read_tasks(self, release: str, completed: Completed) -> frozenset[str]:
        if completed.code:
            raise CommandFailed(f"{release}: {completed.err.decode()}")
        return frozenset(completed.out.decode().split())

    def obey(self, host: str, command: Command) -> Completed:
        """As the host does."""
        match command.argv[1:]:
            case ("look", *pids):
                return _completed(json.dumps(self._look(host, {int(pid) for pid in pids})))
            case ("activate", release, expect):
                return self._activate(host, release, expect)
            case ("tasks", release, _) if release in self.registers:
                return _completed(" ".join(self.registers[release]))
        return _completed(err="unknown command")

    def _look(self, host: str, pids: Collection[int]) -> dict[str, object]:
        now = self._fleet.clock.monotonic()
        started = {
            service.pid: service.began
            for service in self._fleet.services.values()
            if service.pid in pids and service.started_at is not None
        }
        runs = {
            pid: next(name for since, name in reversed(self._since[host]) if since <= began)
            for pid, began in started.items()
        }
        return {
            "current": self.current[host],
            "known": self.known[host],
            "at": now,
            "started": started,
            "runs": runs if self.tells else {},
        }

    def _activate(self, host: str, release: str, expect: str) -> Completed:
        if release not in self.known[host]:
            return _completed(err=f"there is no release {release}")
        if release == self.current[host]:
            return _completed()
        if expect and expect != self.current[host]:
            return _completed(err=f"the current release is {self.current[host]}")
        self.current[host] = release
        self.switched.append((host, release))
        for worker in self._fleet.workers:
            if worker.service is not None and worker.service.ref.host == host:
                worker.faults.crash_loops = release in self.crashing
        self._since[host].append((self._fleet.clock.monotonic(), release))
        return _completed()


def _completed(out: str = "", *, err: str = "") -> Completed:
    return Completed(int(bool(err)), out.encode(), err.encode(), 0.0)
