"""Snapshots as plain text for a terminal: what is wrong first, everything with its age."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from celery_ops.cli import beats_text, queues_text
from celery_ops.cli.text import Column, table
from celery_ops.config.secret import masked
from celery_ops.config.units import as_share, as_size, counted
from celery_ops.fleet.matching import unmatched_services, unmatched_workers, workers_by_service
from celery_ops.model import HostFacts, Level, ServiceState, WorkerState
from celery_ops.tui.text import UNKNOWN, age, number, safe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, Host, Service, Worker

_WORKERS = (
    Column("worker", gives=True),
    Column("state"),
    Column("age", right=True),
    Column("pid", right=True),
    Column("pool", optional=True),
    Column("slots", right=True, optional=True),
    Column("active", right=True),
    Column("reserved", right=True, optional=True),
    Column("eta", right=True, optional=True),
    Column("queues", gives=True),
    Column("service", gives=True, optional=True),
)
_RELEASE = Column("release")
_QUEUES = (
    Column("queue", gives=True),
    Column("ready", right=True),
    Column("unacked", right=True),
    Column("consumers", right=True),
)
_HOSTS = (
    Column("host / service", gives=True),
    Column("state"),
    Column("age", right=True),
    Column("load, cpu", right=True),
    Column("memory", right=True),
    Column("up", right=True),
    Column("worker", gives=True),
    Column("disk", optional=True),
    Column("restarts", right=True, optional=True),
    Column("pid", right=True, optional=True),
)
_UNANSWERED = "not every known worker answered in time"
_RELEASES = (
    Column("host", gives=True),
    Column("current"),
    Column("age", right=True),
    Column("previous"),
    Column("can be switched to", gives=True),
    Column("workers run", gives=True),
)
_LEVELS = {Level.ERROR: "ERROR", Level.WARNING: "warning", Level.INFO: "note"}
_WORST_FIRST = tuple(_LEVELS)
_WELL = frozenset({WorkerState.ONLINE})


def status(snapshot: FleetSnapshot, width: int) -> list[str]:
    """Head, problems, what is taken, workers, queues."""
    blocks = [_head(snapshot), _problems(snapshot), _away(snapshot), _worker_table(snapshot, width)]
    blocks += [_explanations(snapshot.workers), _queue_table(snapshot, width)]
    blocks.append([f"note: {safe(note)}" for note in snapshot.notes])
    return _joined(blocks)


def workers(snapshot: FleetSnapshot, width: int) -> list[str]:
    blocks = [_head(snapshot), _worker_table(snapshot, width), _explanations(snapshot.workers)]
    return _joined(blocks)


def queues(snapshot: FleetSnapshot, width: int) -> list[str]:
    notes = [f"note: {safe(note)}" for note in snapshot.notes]
    return _joined([_head(snapshot), queues_text.lines(snapshot, width), notes])


def hosts(snapshot: FleetSnapshot, width: int) -> list[str]:
    """The hosts, each with its services below it; what is wrong with them; what does not fit."""
    found = workers_by_service(snapshot)
    rows = []
    for host in snapshot.hosts:
        rows.append(_host_row(host, snapshot.at))
        rows += [
            _service_row(service, found.get(service.ref), snapshot.at)
            for service in snapshot.services
            if service.ref.host == host.name
        ]
    has_releases = any(host.releases is not None for host in snapshot.hosts)
    columns: tuple[Column, ...] = (*_HOSTS, _RELEASE) if has_releases else _HOSTS
    rows = [row[: len(columns)] for row in rows]
    lines = table(columns, rows, width) if rows else ["no hosts are configured"]
    return _joined([_head(snapshot), lines, _host_explanations(snapshot), _unmatched(snapshot)])


def schedulers(snapshot: FleetSnapshot, width: int) -> list[str]:
    """The schedulers, and what is wrong with them."""
    return _joined([_head(snapshot), beats_text.lines(snapshot, width)])


def releases(snapshot: FleetSnapshot, width: int) -> list[str]:
    """What each host would start its services with, what else it has, and what its workers run."""
    rows, lines = [], []
    for host in snapshot.hosts:
        if host.releases is None:
            why = host.error or host.releases_unread or "not configured (`release:` in the context)"
            lines.append(safe(f"{host.name}: its releases are not known: {masked(why)}"))
            continue
        found = host.releases.value
        rows.append(
            (
                host.name,
                found.current or "none",
                age(host.releases.age(snapshot.at)),
                found.previous or UNKNOWN,
                UNKNOWN if found.known is None else ", ".join(reversed(found.known)) or "nothing",
                _run_on(host.name, snapshot),
            )
        )
    shown = table(_RELEASES, rows, width) if rows else []
    return _joined([_head(snapshot), shown, lines or ([] if rows else ["no hosts are configured"])])


def _run_on(host: str, snapshot: FleetSnapshot) -> str:
    """`v2 (3 workers), not known (1 worker)`."""
    counts = Counter(
        worker.release or "not known"
        for worker in snapshot.workers
        if worker.service is not None and worker.service.ref.host == host
    )
    return ", ".join(f"{name} ({counted(number, 'worker')})" for name, number in counts.items())


def _head(snapshot: FleetSnapshot) -> list[str]:
    parts = [snapshot.context, masked(snapshot.broker), f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"]
    if snapshot.protected:
        parts.append("PROTECTED")
    lines = [safe("  ".join(parts))]
    if not snapshot.complete:
        says = "no worker can be asked" if snapshot.unasked else _UNANSWERED
        lines.append(f"incomplete: {says}")
    if snapshot.broker_error is not None:
        since = (
            "" if snapshot.broker_lost_at is None else f" since {snapshot.broker_lost_at:%H:%M:%S}"
        )
        lines.append(safe(f"broker lost{since}: {masked(snapshot.broker_error)}"))
    return lines


def _problems(snapshot: FleetSnapshot) -> list[str]:
    lines = []
    for finding in sorted(snapshot.problems, key=lambda one: _WORST_FIRST.index(one.level)):
        lines.append(safe(f"{_LEVELS[finding.level]}: {finding.subject}: {masked(finding.says)}"))
        if finding.fix:
            lines.append(safe(f"       {masked(finding.fix)}"))
    return lines


def _away(snapshot: FleetSnapshot) -> list[str]:
    lines = []
    if snapshot.holder is not None:
        lines.append(safe(f"lease: {snapshot.holder}"))
    for record in snapshot.taken_at_a_glance:
        by = f"{record.operator} ({record.run}) at {record.at:%H:%M:%S} UTC"
        lines.append(safe(f"taken: {record.says} by {by}"))
        if snapshot.holder is None or snapshot.holder.run != record.run:
            lines.append(safe(f"  give it back: {record.mend}"))
    return lines


def _worker_table(snapshot: FleetSnapshot, width: int) -> list[str]:
    if not snapshot.workers:
        return ["no workers were seen"]
    rows = [_worker_row(worker, snapshot) for worker in snapshot.workers]
    if any(host.releases is not None for host in snapshot.hosts):
        told = [(*row, one.release or UNKNOWN)
                for row, one in zip(rows, snapshot.workers, strict=True)]  # fmt: skip
        return table((*_WORKERS, _RELEASE), told, width)
    return table(_WORKERS, rows, width)


def _worker_row(worker: Worker, snapshot: FleetSnapshot) -> tuple[str, ...]:
    seen = worker.seen_at
    stats = worker.stats.value if worker.stats else None
    service = worker.service.ref if worker.service else None
    consumed = UNKNOWN if worker.queues is None else ",".join(worker.queues) or "none"
    return (
        worker.name if worker.mine else f"({worker.name})",
        worker.state.value,
        age(None if seen is None else max(0.0, (snapshot.at - seen).total_seconds())),
        UNKNOWN if worker.pid is None else str(worker.pid),
        stats.pool or UNKNOWN if stats else UNKNOWN,
        number(stats.concurrency if stats else None),
        number(len(worker.active.value) if worker.active else None),
        number(len(worker.reserved.value) if worker.reserved else None),
        number(len(worker.scheduled.value) if worker.scheduled else None),
        consumed,
        "" if service is None else f"{service.name} on {service.host}",
    )


def _explanations(found: Sequence[Worker]) -> list[str]:
    return [
        safe(f"{worker.name} is {worker.state}: {worker.says}")
        for worker in found
        if worker.says and worker.state not in _WELL
    ]


def _host_row(host: Host, now: datetime) -> tuple[str, ...]:
    facts = host.facts.value if host.facts is not None else HostFacts()
    load = UNKNOWN if facts.load is None else f"{facts.load[0]:.2f}"
    used, disk = facts.memory_fullness, facts.fullest
    return (
        host.name,
        {True: "reachable", False: "UNREACHABLE", None: UNKNOWN}[host.reachable],
        age(None if host.facts is None else host.facts.age(now)),
        f"{load}/{number(facts.cpus)}",
        UNKNOWN if used is None else f"{as_share(used)} of {as_size(facts.memory or 0)}",
        age(facts.uptime),
        "",
        UNKNOWN if disk is None else f"{disk.mount} {as_share(disk.fullness)}",
        "",
        "",
        "" if host.releases is None else host.releases.value.current or "none",
    )


def _service_row(service: Service, worker: Worker | None, now: datetime) -> tuple[str, ...]:
    status = service.status.value if service.status is not None else None
    usage = service.usage.value if service.usage is not None else None
    started = status.started_at if status is not None else None
    memory = usage.memory if usage is not None else None
    cores = usage.cores if usage is not None else None
    runs = "beat" if service.ref.beat else "none answers"
    if worker is not None:
        runs = worker.name if worker.state in _WELL else f"{worker.name} ({worker.state})"
    return (
        f"  {service.ref.name}",
        service.state.value if status is not None else UNKNOWN,
        age(None if service.status is None else service.status.age(now)),
        UNKNOWN if cores is None else f"{cores:.2f}",
        UNKNOWN if memory is None else as_size(memory),
        age(None if started is None else (now - started).total_seconds()),
        runs,
        "",
        number(status.restarts if status is not None else None),
        UNKNOWN if status is None or status.pid is None else str(status.pid),
        UNKNOWN if service.release is None else service.release.value,
    )


def _host_explanations(snapshot: FleetSnapshot) -> list[str]:
    lines = []
    for host in snapshot.hosts:
        if host.error is not None:
            lines.append(f"{host.name} is not reachable{_since(host.since)}: {masked(host.error)}")
        elif host.silent_since is not None:
            lines.append(f"{host.name} has not answered{_since(host.silent_since)}")
        if host.unread is not None:
            lines.append(f"{host.name} does not tell how it is doing: {masked(host.unread)}")
        if host.releases_unread is not None and host.error is None:
            lines.append(f"{host.name} does not tell its releases: {masked(host.releases_unread)}")
    lost = {host.name for host in snapshot.hosts if host.error is not None}
    for service in snapshot.services:
        if service.error is not None and service.ref.host not in lost:
            lines.append(f"{service.ref}: {masked(service.error)}")
        elif service.status is not None and service.state is not ServiceState.RUNNING:
            lines.append(f"{service.ref} is {service.state}: {masked(service.status.value.says)}")
    return [safe(line) for line in lines]


def _since(moment: datetime | None) -> str:
    return "" if moment is None else f" since {moment:%H:%M:%S} UTC"


def _unmatched(snapshot: FleetSnapshot) -> list[str]:
    lines = [f"no worker answers for {one.ref}" for one in unmatched_services(snapshot)]
    lines += [f"no service runs {one.name}" for one in unmatched_workers(snapshot)]
    return [safe(line) for line in lines]


def _queue_table(snapshot: FleetSnapshot, width: int) -> list[str]:
    if not snapshot.queues:
        return ["no queues were seen"]
    rows = [
        (one.name, number(one.ready), number(one.unacked), queues_text.consumers(one))
        for one in snapshot.queues
    ]
    return table(_QUEUES, rows, width)


def _joined(blocks: Sequence[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if block and lines:
            lines.append("")
        lines += block
    return lines
