"""Snapshots as JSON: the shapes that scripts rely on. What is not known is `null`, never zero."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from celery_ops.cli import beats_text
from celery_ops.config.secret import masked
from celery_ops.doctor.beats import BEAT_RULES
from celery_ops.fleet import beats, waiting
from celery_ops.fleet.matching import unmatched_services, unmatched_workers, workers_by_service
from celery_ops.model import parked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import (
        Elsewhere,
        FleetSnapshot,
        HeldMessage,
        Holder,
        Host,
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
        "queues": _queues(snapshot),
        "problems": _problems(snapshot),
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
    return {**_head(snapshot), "queues": _queues(snapshot), "notes": list(snapshot.notes)}


def _problems(snapshot: FleetSnapshot, rules: frozenset[str] | None = None) -> list[Json]:
    return [
        {
            "rule": finding.rule,
            "level": finding.level.value,
            "subject": finding.subject,
            "says": masked(finding.says),
            "fix": masked(finding.fix),
        }
        for finding in snapshot.problems
        if rules is None or finding.rule in rules
    ]


def hosts(snapshot: FleetSnapshot) -> Json:
    """`celery-ops hosts --json`: the hosts with their services, and what does not fit together.

    `unmatched_services` are those for which no worker answers, `unmatched_workers` the names of
    workers that no configured service runs.
    """
    found = workers_by_service(snapshot)
    told = {
        one.ref: host_service(one, found.get(one.ref), snapshot.at) for one in snapshot.services
    }
    return {
        **_head(snapshot),
        "hosts": [
            {
                **host(one, snapshot.at),
                "services": [each for ref, each in told.items() if ref.host == one.name],
            }
            for one in snapshot.hosts
        ],
        "unmatched_services": [told[one.ref] for one in unmatched_services(snapshot)],
        "unmatched_workers": [one.name for one in unmatched_workers(snapshot)],
    }


def schedulers(snapshot: FleetSnapshot) -> Json:
    """`celery-ops beat --json`: `senders` is how many may send side by side."""
    return {
        **_head(snapshot),
        "beats": [beats_text.as_json(one, snapshot) for one in snapshot.beats],
        "senders": len(beats.senders(snapshot)),
        "lock_held_for": snapshot.beat_lock,
        "problems": _problems(snapshot, BEAT_RULES),
    }


def host(one: Host, now: datetime) -> Json:
    """A host. `reachable` is null while that is not known; `since` is from when on it is not, or
    since when it has not answered. `age` (seconds) is that of all below it; sizes are in bytes,
    `uptime` in seconds, `load` over 1, 5 and 15 minutes.
    """
    facts = None if one.facts is None else one.facts.value
    return {
        "name": one.name,
        "address": one.address,
        "reachable": one.reachable,
        "error": None if one.error is None else masked(one.error),
        "since": moment(one.since or one.silent_since),
        "reached_at": moment(one.reached_at),
        "unread": None if one.unread is None else masked(one.unread),
        "age": None if one.facts is None else round(one.facts.age(now), 3),
        "load": None if facts is None or facts.load is None else list(facts.load),
        "cpus": facts.cpus if facts else None,
        "memory": facts.memory if facts else None,
        "memory_available": facts.memory_available if facts else None,
        "disks": None
        if facts is None or facts.disks is None
        else [
            {"mount": disk.mount, "size": disk.size, "used": disk.used, "available": disk.available}
            for disk in facts.disks
        ],
        "uptime": facts.uptime if facts else None,
    }


def releases(snapshot: FleetSnapshot) -> Json:
    """What `releases --json` prints: of each host the release that services are started with, the
    one before, all there are from old to new, and what its workers run; null is not known.
    """
    return {**_head(snapshot), "hosts": [_releases_of(one, snapshot) for one in snapshot.hosts]}


def _releases_of(host: Host, snapshot: FleetSnapshot) -> Json:
    found = None if host.releases is None else host.releases.value
    known = None if found is None else found.known
    why = host.error or host.releases_unread
    return {
        "name": host.name,
        "current": found.current if found else None,
        "previous": found.previous if found else None,
        "known": None if known is None else list(known),
        "age": None if host.releases is None else round(host.releases.age(snapshot.at), 3),
        "error": None if why is None else masked(why),
        "workers": {
            worker.name: worker.release
            for worker in snapshot.workers
            if worker.service is not None and worker.service.ref.host == host.name
        },
    }


def host_service(one: Service, runs: Worker | None, now: datetime) -> Json:
    """A service with what its host tells of it. `worker` is whom its process was found to be, by
    its pid, `expected` whom the configuration says; `memory` (bytes) and `cpu` (cores) are of all
    its processes together, `restarts` those by the supervisor itself since its last start.
    """
    status = None if one.status is None else one.status.value
    usage = None if one.usage is None else one.usage.value
    return {
        **service(one),
        "says": None if status is None else masked(status.says),
        "error": None if one.error is None else masked(one.error),
        "age": None if one.status is None else round(one.status.age(now), 3),
        "worker": None if runs is None else runs.name,
        "worker_state": None if runs is None else runs.state.value,
        "expected": one.ref.worker,
        "beat": one.ref.beat,
        "pid": status.pid if status else None,
        "started_at": moment(status.started_at if status else None),
        "restarts": status.restarts if status else None,
        "release": None if one.release is None else one.release.value,
        "processes": usage.processes if usage else None,
        "memory": usage.memory if usage else None,
        "cpu": None if usage is None or usage.cores is None else round(usage.cores, 3),
    }


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
        "release": one.release,
        "service": None if one.service is None else service(one.service),
        "taken": None if one.taken is None else taken(one.taken),
        "mine": one.mine,
    }


def queue(one: Queue, consumed_by: Sequence[str], waits: Elsewhere) -> Json:
    """A queue; `oldest` is when its oldest message came, as far as the broker can tell.

    `waits_since` is when a message that still waits was first seen: the oldest is that old at
    least. `bytes` is about. Rates are in messages a second over the last `watched_for` seconds;
    `growth` is of ready and unacked together, `at_least`: arrivals and completions may be more.
    `rates_why` says why they are not known, or not in full. `drains_in` is in seconds, at the
    present growth. `elsewhere`: what waits for it in workers (`eta`, `limited`, both part of
    `unacked`) and in the broker's delayed queues, which all queues share.
    """
    flow, place = one.flow, parked(one.name)
    return {
        "name": one.name,
        "ready": one.ready,
        "unacked": one.unacked,
        "consumers": one.consumers,
        "oldest": moment(one.oldest),
        "orphans": one.orphans,
        "by_priority": {str(step): ready for step, ready in one.by_priority},
        "consumed_by": list(consumed_by),
        "waits_since": moment(one.waits_since),
        "bytes": one.bytes,
        "watched_for": round(flow.span, 1),
        "growth": _rate(flow.growth),
        "arrivals": _rate(flow.arrivals),
        "completions": _rate(flow.completions),
        "at_least": flow.at_least,
        "rates_why": flow.why or None,
        "drains_in": None if one.drains_in is None else round(one.drains_in, 1),
        "elsewhere": {
            "eta": waits.eta,
            "next_eta": moment(waits.next_eta),
            "limited": waits.limited,
            "delayed": waits.delayed,
        },
        "paused": one.paused,
        "held": list(one.held),
        "parked_from": None if place is None else place.queue,
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
        "step": one.step or None,
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
    # With an indent json.dumps writes in Python: as long as a look at 10,000 queues takes.
    return str(msgspec.json.format(json.dumps(document), indent=1))


def _head(snapshot: FleetSnapshot) -> Json:
    return {
        "context": snapshot.context,
        "broker": masked(snapshot.broker),
        "at": moment(snapshot.at),
        "complete": snapshot.complete,
    }


def _queues(snapshot: FleetSnapshot) -> list[Json]:
    consumed_by, waits = waiting.consumers(snapshot), waiting.elsewhere(snapshot)
    return [queue(one, consumed_by.get(one.name, ()), waits[one.name]) for one in snapshot.queues]


def _rate(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _held(reading: Reading[tuple[Task, ...]] | None) -> int | None:
    return None if reading is None else len(reading.value)
