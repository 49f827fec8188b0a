"""Snapshots as JSON: the shapes that scripts rely on. What is not known is `null`, never zero."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery_ops.config.secret import masked

if TYPE_CHECKING:
    from celery_ops.model import (
        FleetSnapshot,
        HeldMessage,
        Holder,
        Queue,
        Reading,
        Service,
        TakenRecord,
        Task,
        Unproven,
        Worker,
    )

Json = dict[str, Any]


def status(snapshot: FleetSnapshot) -> Json:
    """Everything: `celery-ops status --json`."""
    return {
        **_head(snapshot),
        "workers": [worker(one, snapshot.at) for one in snapshot.workers],
        "queues": [queue(one) for one in snapshot.queues],
        "problems": [
            {
                "rule": finding.rule,
                "level": finding.level.value,
                "subject": finding.subject,
                "says": masked(finding.says),
                "fix": masked(finding.fix),
            }
            for finding in snapshot.problems
        ],
        "taken": [taken(record) for record in snapshot.taken],
        "holder": None if snapshot.holder is None else holder(snapshot.holder),
        "orphans": None
        if snapshot.orphans is None
        else [held(message) for message in snapshot.orphans],
        "unproven": [unproven(one) for one in snapshot.unproven if not one.settles],
        "notes": list(snapshot.notes),
    }


def workers(snapshot: FleetSnapshot) -> Json:
    """`celery-ops workers --json`."""
    return {**_head(snapshot), "workers": [worker(one, snapshot.at) for one in snapshot.workers]}


def queues(snapshot: FleetSnapshot) -> Json:
    """`celery-ops queues --json`."""
    return {**_head(snapshot), "queues": [queue(one) for one in snapshot.queues]}


def worker(one: Worker, now: datetime) -> Json:
    """A worker; `age` is in seconds since its last sign of life."""
    seen, stats, heartbeat = one.seen_at, one.stats, one.heartbeat
    known = stats.value if stats else None
    processed = known.processed if known else None
    if processed is None and heartbeat is not None:
        processed = heartbeat.value.processed
    return {
        "name": one.name,
        "state": one.state.value,
        "says": one.says,
        "age": None if seen is None else round(max(0.0, (now - seen).total_seconds()), 3),
        "pid": one.pid,
        "started_at": moment(one.started_at),
        "pool": known.pool if known else None,
        "concurrency": known.concurrency if known else None,
        "active": _held(one.active),
        "reserved": _held(one.reserved),
        "scheduled": _held(one.scheduled),
        "queues": None if one.queues is None else list(one.queues),
        "processed": processed,
        "version": heartbeat.value.version if heartbeat else None,
        "service": None if one.service is None else service(one.service),
        "taken": None if one.taken is None else taken(one.taken),
        "mine": one.mine,
    }


def queue(one: Queue) -> Json:
    """A queue; `oldest` is when its oldest message came, as far as the broker can tell."""
    return {
        "name": one.name,
        "ready": one.ready,
        "unacked": one.unacked,
        "consumers": one.consumers,
        "oldest": moment(one.oldest),
        "orphans": one.orphans,
    }


def held(one: HeldMessage) -> Json:
    """A message in the broker's list of the unacknowledged."""
    return {"id": one.task_id, "task": one.task, "queue": one.queue, "since": moment(one.since)}


def unproven(one: Unproven) -> Json:
    """Messages that may be orphans, and why that is not known."""
    return {
        "queue": one.queue,
        "messages": len(one.messages),
        "why": masked(one.why),
        "vouch_for": list(one.vouch_for),
    }


def service(one: Service) -> Json:
    """A service: its supervisor's kind is the key of its name there."""
    state = None if one.status is None else one.status.value.state.value
    return {"host": one.ref.host, one.ref.supervisor: one.ref.name, "state": state}


def taken(record: TakenRecord) -> Json:
    """What a run has taken away and owes back."""
    return {
        "kind": record.kind,
        "worker": record.worker,
        "queues": [one.name for one in record.queues],
        "mend": record.mend,
        "run": record.run,
        "operator": record.operator,
        "at": moment(record.at),
    }


def holder(one: Holder) -> Json:
    """Who holds the lease."""
    return {
        "operator": one.operator,
        "run": one.run,
        "what": one.what,
        "since": moment(one.since),
    }


def moment(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds: `2026-11-20T03:12:00.123Z`."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(document: Json) -> str:
    """One document on one line."""
    return json.dumps(document, separators=(",", ":"))


def page(document: Json) -> str:
    """One document for people who read JSON."""
    return json.dumps(document, indent=1)


def _head(snapshot: FleetSnapshot) -> Json:
    return {
        "context": snapshot.context,
        "broker": masked(snapshot.broker),
        "at": moment(snapshot.at),
        "complete": snapshot.complete,
    }


def _held(reading: Reading[tuple[Task, ...]] | None) -> int | None:
    return None if reading is None else len(reading.value)
