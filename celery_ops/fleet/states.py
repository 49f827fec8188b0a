"""The join: everything that is known of a fleet, told as one snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from celery_ops.fleet import beats, orphans
from celery_ops.fleet.matching import match, rivals
from celery_ops.fleet.verdicts import Known, is_busy_solo, judge
from celery_ops.model import (
    UNWATCHED,
    FleetSnapshot,
    Queue,
    Service,
    ServiceRef,
    TakenRecord,
    Worker,
    WorkerState,
)
from celery_ops.model.holding import hold_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.fleet.known import KnownNode
    from celery_ops.model import HeldMessage, Unproven

_MAY_BE_BUSY = frozenset({WorkerState.ONLINE, WorkerState.DRAINING, WorkerState.SILENT})
_CONSUMES_NOTHING = frozenset({WorkerState.DRAINED, WorkerState.DRAINING})


def join(known: Known) -> FleetSnapshot:
    """The snapshot of what is known."""
    nodes = [node for node in known.nodes.values() if not node.is_scheduler]
    services = match({node.name: node.pid for node in nodes}, known.services.values())
    matched = {service.ref for service in services.values()}
    doubled = rivals(known.services.values())
    taken: dict[str, list[TakenRecord]] = {}
    for record in known.taken:
        taken.setdefault(record.worker, []).append(record)
    workers = []
    for node in sorted(nodes, key=lambda one: one.name):
        service = services.get(node.name)
        if _is_shown(node, service, known.services.values(), matched):
            records = taken.get(node.name, ())
            workers.append(_worker(node, service, records, known, doubled.get(node.name, ())))
    bound_but_silent = tuple(sorted((known.bound or frozenset()) - known.nodes.keys()))
    proved, unproven = _orphans(known, workers, bound_but_silent)
    return FleetSnapshot(
        context=known.context,
        broker=known.broker,
        at=known.at,
        complete=known.unanswered == 0
        and not known.unasked
        and all(_has_told(one, known) for one in workers),
        workers=tuple(workers),
        queues=_queues(known, workers, bound_but_silent, proved, unproven),
        services=tuple(known.services.values()),
        hosts=known.hosts,
        beats=beats.found(known),
        beat_lock=known.queues.beat_lock if known.queues is not None else None,
        taken=known.taken,
        holder=known.holder,
        forwarder=known.forwarder,
        notes=_notes(known),
        bound_but_silent=bound_but_silent,
        protected=known.protected,
        orphans=proved,
        unasked=known.unasked,
        counted=known.counted,
        gives_back=known.queues is not None and not known.queues.keeps_held,
        delayed=known.queues.delayed if known.queues is not None else None,
        unproven=unproven,
    )


def _is_shown(
    node: KnownNode,
    service: Service | None,
    services: Iterable[Service],
    matched: set[ServiceRef],
) -> bool:
    """A name that was never seen is shown where a service of its own says it should be there.

    Not where that service was found to run a worker of another name: that mismatch shows there.
    """
    signs = (node.seen_at, node.goodbye_at, node.listens_at, service)
    if any(sign is not None for sign in signs):
        return True
    return any(one.ref.worker == node.name and one.ref not in matched for one in services)


def _worker(
    node: KnownNode,
    service: Service | None,
    records: Iterable[TakenRecord],
    known: Known,
    doubled: Sequence[Service],
) -> Worker:
    by_kind = {record.kind: record for record in records}
    queues_taken = by_kind.get("queues")
    if queues_taken is not None and not _owes(queues_taken, node):
        queues_taken = None
    paused = tuple(one.paused for one in records if one.paused is not None and _owes(one, node))
    verdict = judge(node, service, queues_taken, known, doubled)
    says = verdict.says
    if paused and queues_taken is None and verdict.state in _CONSUMES_NOTHING:
        says = f"paused: {', '.join(paused)}; {says}"
    pid = node.pid
    return Worker(
        name=node.name,
        state=verdict.state,
        says=says,
        heartbeat=node.heartbeat,
        stats=node.stats,
        consuming=node.consuming,
        active=node.active,
        reserved=node.reserved,
        scheduled=node.scheduled,
        registered=node.registered,
        replied_at=node.replied_at,
        pids=node.rival_pids(known.at) or (() if pid is None else (pid,)),
        service=service,
        taken=queues_taken or by_kind.get("service"),
        paused=paused,
        busy_solo=verdict.state in _MAY_BE_BUSY and is_busy_solo(node, service, known),
        mine=node.mine,
    )


def _owes(record: TakenRecord, node: KnownNode) -> bool:
    """A new incarnation is owed nothing; one that cannot be told apart may be the old one."""
    incarnation = node.incarnation
    if record.incarnation is None or incarnation is None:
        return True
    return record.incarnation.same_life_as(incarnation)


def _has_told(worker: Worker, known: Known) -> bool:
    """Whether a worker answered as expected.

    Of one that stops or is stopped nothing is expected.
    """
    if worker.state in (WorkerState.STOPPED, WorkerState.STOPPING):
        return True
    node = known.nodes[worker.name]
    return node.is_answering and worker.consuming is not None


def _orphans(
    known: Known, workers: Sequence[Worker], bound_but_silent: Sequence[str]
) -> tuple[tuple[HeldMessage, ...] | None, tuple[Unproven, ...]]:
    """The evidence is only gathered where there is something to judge: of a large fleet it is not
    free.
    """
    if known.suspects is None or not known.suspects.messages:
        return (None if known.suspects is None else ()), ()
    evidence = orphans.gather(
        workers,
        known.nodes,
        known.services,
        bound_but_silent=bound_but_silent,
        unanswered=known.unanswered,
        counted=known.counted,
        owed={queue.name for record in known.taken for queue in record.queues},
    )
    return orphans.judge(known.suspects, evidence)


def _queues(
    known: Known,
    workers: Sequence[Worker],
    bound_but_silent: Sequence[str],
    proved: Iterable[HeldMessage] | None,
    unproven: Iterable[Unproven],
) -> tuple[Queue, ...]:
    stuck = None if proved is None else orphans.count_by_queue(proved)
    in_doubt = {one.queue for one in unproven}
    consumers: Counter[str] = Counter()
    doubled: set[str] = set()
    everybody_told = known.unanswered == 0 and not known.unasked
    for worker in workers:
        if worker.state is WorkerState.CONFLICT and worker.queues is not None:
            doubled.update(worker.queues)
        elif worker.answers and worker.consuming is not None:
            consumers.update({queue.name for queue in worker.consuming.value})
        elif worker.consuming is None and worker.state not in (
            WorkerState.STOPPED,
            WorkerState.STOPPING,
        ):
            everybody_told = False
    reading = known.queues
    found = {queue.name: queue for queue in reading.queues} if reading is not None else {}
    queues = []
    hold = hold_of(known.taken)
    held = set() if hold is None else {queue.name for queue in hold.queues}
    lives = (one for one in workers if one.state is not WorkerState.STOPPED)
    paused = {name for worker in lives for name in worker.paused}
    for name in sorted(found.keys() | consumers.keys() | doubled | paused):
        size = found.get(name)
        told = consumers[name] if everybody_told and name not in doubled else None
        if told == 0 and bound_but_silent and not known.counted:
            told = None  # one that is bound and mute may consume it
        counted = size.consumers if size is not None else None
        queues.append(
            Queue(
                name=name,
                ready=size.ready if size is not None else None,
                unacked=size.unacked if size is not None else None,
                consumers=told if counted is None else counted,
                by_priority=size.by_priority if size is not None else (),
                seen_at=reading.at if reading is not None else None,
                paused=name in paused,
                held=hold.tasks if hold is not None and name in held else (),
                orphans=None if stuck is None or in_doubt & {name, None} else stuck[name],
                flow=known.flows.get(name, UNWATCHED),
                waits_since=known.waiting.since(name),
                bytes=size.bytes if size is not None else None,
            )
        )
    return tuple(queues)


def _notes(known: Known) -> tuple[str, ...]:
    notes = [known.unasked] if known.unasked else []
    notes += known.queues.notes if known.queues is not None else ()
    if known.unanswered:
        notes.append(f"{known.unanswered} listening nodes did not answer")
    return tuple(notes)
