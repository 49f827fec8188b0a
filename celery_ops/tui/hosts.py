"""The hosts, each with its services below it; last the workers that no service runs.

One row is one of the three. Every row tells its host, so that it can be read wherever a filter or
another order puts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_share, as_size
from celery_ops.fleet.matching import unmatched_workers, workers_by_service
from celery_ops.model import ServiceState, WorkerState
from celery_ops.tui import workers
from celery_ops.tui.columns import Column, natural
from celery_ops.tui.picture import Kind, Picture, Subject
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import (
    FRESH,
    NOTHING,
    UNKNOWN,
    Cell,
    Tone,
    age,
    age_of,
    counted,
    known,
    number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import (
        FleetSnapshot,
        Host,
        HostFacts,
        Reading,
        Service,
        ServiceRef,
        ServiceStatus,
        Usage,
        Worker,
    )

OLD = 12.0
"""Seconds: a host is asked every five, so what is older than this is late."""
_SIGNS = {
    ServiceState.FAILED: ("▲", Tone.BAD),
    ServiceState.UNKNOWN: ("?", Tone.WARN),
    ServiceState.STOPPED: ("■", Tone.WARN),
    ServiceState.STOPPING: ("◑", Tone.NOTE),
    ServiceState.STARTING: ("◔", Tone.NOTE),
    ServiceState.RUNNING: ("●", Tone.GOOD),
}
"""By state, the gravest first."""
_GRAVITY = {state: place for place, state in enumerate(_SIGNS)}


@dataclass(frozen=True, slots=True)
class Row:
    """A host (with all its services), one of its services, or a worker without one.

    `host` is None only for such a worker. `worker` is whom a service's process was found to be.
    """

    host: Host | None
    service: Service | None = None
    worker: Worker | None = None
    services: tuple[Service, ...] = ()

    @property
    def facts(self) -> HostFacts | None:
        """Of a host's own row."""
        if self.service is not None or self.host is None or self.host.facts is None:
            return None
        return self.host.facts.value

    @property
    def usage(self) -> Usage | None:
        """Of a service's row."""
        return self.service.usage.value if self.service and self.service.usage else None

    @property
    def subject(self) -> Subject:
        """What it is about."""
        if self.service is not None:
            return Subject(Kind.SERVICE, service_name(self.service.ref))
        if self.host is not None:
            return Subject(Kind.HOST, self.host.name)
        return Subject(Kind.WORKER, self.worker.name if self.worker else "")


def rows_of(shown: FleetSnapshot) -> list[Row]:
    """Every host followed by its services; then who has none."""
    found = workers_by_service(shown)
    by_host: dict[str, list[Service]] = {}
    for service in shown.services:
        by_host.setdefault(service.ref.host, []).append(service)
    rows = []
    for host in sorted(shown.hosts, key=lambda one: natural(one.name)):
        services = sorted(by_host.get(host.name, ()), key=lambda one: natural(one.ref.name))
        rows.append(Row(host, services=tuple(services)))
        rows += [Row(host, service, found.get(service.ref)) for service in services]
    return rows + [Row(None, worker=worker) for worker in unmatched_workers(shown)]


def service_name(ref: ServiceRef) -> str:
    """What a service is known by: of two supervisors on one host each has names of its own."""
    return str(ref) if ref.server is None else f"{ref} ({ref.server})"


def reach_cell(host: Host) -> Cell:
    """Whether a host answers, as a sign, a word and a colour."""
    if host.error is not None:
        return Cell("▲ unreachable", Tone.BAD)
    if host.silent_since is not None:
        return Cell("▲ no answer", Tone.BAD)
    if host.reachable is None:
        return Cell("? not read", Tone.WARN)
    return Cell("● reachable", Tone.GOOD)


def service_state_cell(service: Service) -> Cell:
    """A service's state; while its host or supervisor does not answer it is the last known one."""
    sign, tone = _SIGNS[service.state]
    if service.error is not None:
        return Cell(f"? {service.state}", Tone.WARN)
    return Cell(f"{sign} {service.state}", tone)


def _host(row: Row, _now: datetime) -> Cell:
    if row.host is None:
        return Cell(NOTHING, Tone.DIM)
    return Cell(row.host.name, Tone.DIM if row.service is not None else Tone.STRONG)


def _service(row: Row, _now: datetime) -> Cell:
    if row.service is not None:
        # Room is short, and systemd's units of this view are all of this kind.
        return Cell(row.service.ref.name.removesuffix(".service"))
    if row.host is None:
        return Cell("no service", Tone.WARN)
    running = sum(one.state is ServiceState.RUNNING for one in row.services if one.error is None)
    if not row.services:
        return Cell("no services", Tone.DIM)
    if any(one.error is not None for one in row.services):
        return Cell(f"{UNKNOWN} of {len(row.services)} run", Tone.WARN)
    is_well = running == len(row.services)
    return Cell(f"{running} of {len(row.services)} run", Tone.DIM if is_well else Tone.BAD)


def _state(row: Row, _now: datetime) -> Cell:
    if row.service is not None:
        return service_state_cell(row.service)
    if row.host is not None:
        return reach_cell(row.host)
    return workers.state_cell(row.worker.state) if row.worker is not None else Cell("")


def _gravity(row: Row) -> tuple[int, int]:
    """What is not there first; hosts before services."""
    if row.service is not None:
        gone = row.service.error is not None
        return (0 if gone else 1 + _GRAVITY[row.service.state], 1)
    if row.host is not None:
        return (len(_GRAVITY) if row.host.reachable else 0, 0)
    return (len(_GRAVITY) + 1, 2)


def _read(row: Row) -> Reading[ServiceStatus] | Reading[HostFacts] | None:
    if row.service is not None:
        return row.service.status
    return row.host.facts if row.host is not None else None


def _age(row: Row, now: datetime) -> Cell:
    """How old the reading is; of a host that does not answer, since when it does not."""
    if row.host is None:
        at = row.worker.seen_at if row.worker is not None else None
        return Cell(age_of(at, now), Tone.DIM)
    lost = row.host.since or row.host.silent_since
    if row.service is None and lost is not None:
        return Cell(age_of(lost, now), Tone.BAD)
    read = _read(row)
    if read is None:
        return Cell(UNKNOWN, Tone.DIM)
    fresh = FRESH if row.service is not None else OLD
    return Cell(age(read.age(now)), Tone.DIM if read.age(now) <= fresh else Tone.WARN)


def _read_at(row: Row) -> float | None:
    read = _read(row)
    return None if read is None else -read.at.timestamp()


def _worker(row: Row, _now: datetime) -> Cell:
    if row.worker is not None:
        if row.service is None or row.worker.state is WorkerState.ONLINE:
            return Cell(row.worker.name)
        _, tone = workers.state_cell(row.worker.state)
        return Cell(f"{row.worker.name} {row.worker.state}", tone)
    if row.service is None:
        return Cell("")
    if row.service.ref.beat:
        return Cell("beat", Tone.DIM)
    return Cell("none answers", Tone.WARN)


def _worker_name(row: Row) -> tuple[object, ...] | None:
    return None if row.worker is None else natural(row.worker.name)


def _memory(row: Row, _now: datetime) -> Cell:
    """What a service uses; of a host how much of its memory is used."""
    if row.service is not None:
        memory = row.usage.memory if row.usage is not None else None
        return known(None if memory is None else as_size(memory))
    if row.host is None:
        return Cell("")
    fullness = row.facts.memory_fullness if row.facts is not None else None
    if row.facts is None or fullness is None:
        return Cell(UNKNOWN, Tone.DIM)
    return _full(f"{as_share(fullness)} of {as_size(row.facts.memory or 0)}", fullness)


def _bytes(row: Row) -> int | None:
    facts = row.facts
    if facts is not None and facts.memory is not None and facts.memory_available is not None:
        return facts.memory - facts.memory_available
    return row.usage.memory if row.usage is not None else None


def _full(text: str, fullness: float) -> Cell:
    if fullness >= 0.97:
        return Cell(text, Tone.BAD)
    return Cell(text, Tone.WARN if fullness >= 0.9 else Tone.PLAIN)


def _cpu(row: Row, _now: datetime) -> Cell:
    """The cores a service uses; of a host how many processes want one (its load over a minute)."""
    if row.host is None:
        return Cell("")
    if row.service is not None:
        cores = row.usage.cores if row.usage is not None else None
        return known(None if cores is None else f"{cores:.2f}")
    facts = row.facts
    if facts is None or facts.load is None:
        return Cell(UNKNOWN, Tone.DIM)
    is_much = facts.cpus is not None and facts.load[0] > 2 * facts.cpus
    text = f"{facts.load[0]:.2f}/{number(facts.cpus)}"
    return Cell(text, Tone.WARN if is_much else Tone.PLAIN)


def _cores(row: Row) -> float | None:
    if row.facts is not None:
        return row.facts.load[0] if row.facts.load is not None else None
    return row.usage.cores if row.usage is not None else None


def _disk(row: Row, _now: datetime) -> Cell:
    if row.service is not None or row.host is None:
        return Cell("")
    disk = row.facts.fullest if row.facts is not None else None
    if disk is None:
        return Cell(UNKNOWN, Tone.DIM)
    return _full(f"{as_share(disk.fullness)} {disk.mount}", disk.fullness)


def _fullness(row: Row) -> float | None:
    disk = row.facts.fullest if row.facts is not None else None
    return None if disk is None else round(disk.fullness * 100, 1)


def _up(row: Row, now: datetime) -> Cell:
    seconds = _seconds_up(row, now)
    return Cell("") if row.host is None else known(None if seconds is None else age(seconds))


def _seconds_up(row: Row, now: datetime | None = None) -> float | None:
    if row.service is not None and row.service.status is not None:
        started = row.service.status.value.started_at
        at = now or row.service.status.at
        return None if started is None else (at - started).total_seconds()
    if row.facts is None or row.host is None or row.host.facts is None:
        return None
    grown = 0.0 if now is None else row.host.facts.age(now)
    return None if row.facts.uptime is None else row.facts.uptime + grown


def _restarts(row: Row) -> int | None:
    """By the supervisor itself; where it does not count, as many as were seen lately."""
    if row.service is None or row.service.status is None:
        return None
    counted = row.service.status.value.restarts
    if counted is not None:
        return counted
    seen = row.service.restarted
    return seen.count if seen is not None and seen.count else None


def _restarts_cell(row: Row, _now: datetime) -> Cell:
    if row.service is None:
        return Cell("")
    recent = row.service.restarted
    loops = recent is not None and recent.count > 2
    return Cell(number(_restarts(row)), Tone.BAD if loops else Tone.PLAIN)


def _release(row: Row) -> str | None:
    """A host's current one, or what a service runs."""
    if row.service is not None:
        return None if row.service.release is None else row.service.release.value
    if row.host is None or row.host.releases is None:
        return None
    return row.host.releases.value.current


def _release_cell(row: Row, _now: datetime) -> Cell:
    """One that its host would not be started with any more stands out."""
    if row.host is None:
        return Cell("")
    told, current = _release(row), _release(Row(row.host))
    is_another = row.service is not None and None not in {told, current} and told != current
    return Cell(told, Tone.WARN) if told is not None and is_another else known(told)


def _pid(row: Row) -> int | None:
    if row.service is not None and row.service.status is not None:
        return row.service.status.value.pid
    return row.worker.pid if row.worker is not None else None


def _pid_cell(row: Row, _now: datetime) -> Cell:
    pid = _pid(row)
    if row.service is None and row.worker is None:
        return Cell("")
    return known(None if pid is None else str(pid))


def _note(row: Row, now: datetime) -> Cell:
    host = row.host
    if row.service is None and host is not None:
        if host.error is None and host.silent_since is not None:
            return Cell(f"asked {age_of(host.silent_since, now)} ago", Tone.BAD)
        return Cell(_why(row), Tone.BAD if host.error is not None else Tone.WARN)
    is_well = row.service is None or row.service.state is ServiceState.RUNNING
    return Cell(_why(row), Tone.DIM if is_well else Tone.WARN)


def _why(row: Row) -> str:
    """Why it is so; nothing where all is well."""
    host, service = row.host, row.service
    if host is None:
        return "cannot be restarted from here"
    if service is None:
        return host.error or host.unread or ""
    if host.error is not None:
        return "its host is not reachable: as last known"
    if service.error is not None:
        return service.error
    if service.status is not None and service.state is not ServiceState.RUNNING:
        return service.status.value.says
    return row.worker.says if row.worker is not None else ""


COLUMNS: tuple[Column[Row], ...] = (
    Column("host", _host, lambda one: natural(one.host.name) if one.host else None, 12, grow=2),
    Column("service", _service, lambda one: natural(one.service.ref.name) if one.service else None,
           20, grow=4),
    Column("state", _state, _gravity, 13),
    Column("age", _age, _read_at, 4, right=True),
    Column("worker", _worker, _worker_name, 14, grow=3),
    Column("cpu", _cpu, _cores, 8, drop=2, right=True, counts=True),
    Column("memory", _memory, _bytes, 11, drop=3, right=True),
    Column("disk", _disk, _fullness, 10, grow=1, drop=4),
    Column("up", _up, _seconds_up, 4, drop=6, right=True),
    Column("restarts", _restarts_cell, _restarts, 8, drop=5, right=True, counts=True),
    Column("release", _release_cell, _release, 8, drop=5),
    Column("pid", _pid_cell, _pid, 7, drop=7, right=True, counts=True),
    Column("note", _note, lambda one: _why(one) or None, 12, grow=3, drop=1),
)  # fmt: skip


class HostsView(TableView["Row"]):
    """Every host with its services, and the workers that no service runs."""

    noun = "host"
    kind = Kind.HOST
    has_logs = True

    def __init__(self, picture: Picture) -> None:
        super().__init__(picture, COLUMNS, id="hosts")

    @property
    def subject(self) -> Subject | None:
        row = self.table.row
        return None if row is None else row.subject

    def log_of(self, row: Row) -> ServiceRef | str:
        if row.service is not None:
            return row.service.ref
        if row.worker is not None:
            return workers.log_of(row.worker)
        return "A host has no log of its own here: its services, below it, have."

    def rows(self, picture: Picture) -> Sequence[Row]:
        return rows_of(picture.shown) if picture.shown else ()

    def key(self, row: Row) -> str:
        return row.subject.title

    def counted(self, rows: Sequence[Row]) -> str:
        services = sum(row.service is not None for row in rows)
        hosts = sum(row.service is None and row.host is not None for row in rows)
        return f"{counted(hosts, 'host')}, {counted(services, 'service')}"

    def is_wrong(self, row: Row, troubled: frozenset[str]) -> bool:
        """A host stays with a service of it that is wrong, or nobody would know where that is."""
        if row.host is not None and not row.host.reachable:
            return True
        if row.service is not None:
            return _is_amiss(row.service, troubled) or _is_unheard(row)
        if row.host is None:
            return True
        amiss = any(_is_amiss(one, troubled) for one in row.services)
        return row.host.name in troubled or amiss

    def nothing(self, picture: Picture) -> str:
        return "no host is configured" if picture.shown else "no snapshot yet"


def _is_amiss(service: Service, troubled: frozenset[str]) -> bool:
    gone = service.error is not None or service.state is not ServiceState.RUNNING
    return gone or str(service.ref) in troubled


def _is_unheard(row: Row) -> bool:
    """A worker's service whose worker is not online."""
    if row.service is None or row.service.ref.beat:
        return False
    return row.worker is None or row.worker.state is not WorkerState.ONLINE
