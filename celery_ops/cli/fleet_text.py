"""Snapshots as plain text for a terminal: what is wrong first, everything with its age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli.text import Column, table
from celery_ops.config.secret import masked
from celery_ops.model import Level, WorkerState
from celery_ops.tui.text import UNKNOWN, age, number, safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, Queue, Worker

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
_QUEUES = (
    Column("queue", gives=True),
    Column("ready", right=True),
    Column("unacked", right=True),
    Column("consumers", right=True),
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
    notes = [
        safe(
            f"note: {queue.name}: {queue.orphans} of the unacked lie where a dead worker left them"
        )
        for queue in snapshot.queues
        if queue.orphans
    ]
    notes += [f"note: {safe(note)}" for note in snapshot.notes]
    return _joined([_head(snapshot), _queue_table(snapshot, width), notes])


def _head(snapshot: FleetSnapshot) -> list[str]:
    parts = [snapshot.context, masked(snapshot.broker), f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"]
    if snapshot.protected:
        parts.append("PROTECTED")
    lines = [safe("  ".join(parts))]
    if not snapshot.complete:
        lines.append("incomplete: not every known worker answered in time")
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
    for record in snapshot.taken:
        by = f"{record.operator} ({record.run}) at {record.at:%H:%M:%S} UTC"
        lines.append(safe(f"taken: {record.worker}: {record.what} by {by}"))
        if snapshot.holder is None or snapshot.holder.run != record.run:
            lines.append(safe(f"  give it back: {record.mend}"))
    return lines


def _worker_table(snapshot: FleetSnapshot, width: int) -> list[str]:
    if not snapshot.workers:
        return ["no workers were seen"]
    rows = [_worker_row(worker, snapshot) for worker in snapshot.workers]
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


def _queue_table(snapshot: FleetSnapshot, width: int) -> list[str]:
    if not snapshot.queues:
        return ["no queues were seen"]
    return table(_QUEUES, [_queue_row(queue) for queue in snapshot.queues], width)


def _queue_row(queue: Queue) -> tuple[str, ...]:
    return (queue.name, number(queue.ready), number(queue.unacked), number(queue.consumers))


def _joined(blocks: Sequence[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        if block and lines:
            lines.append("")
        lines += block
    return lines
