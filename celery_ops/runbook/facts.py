"""The names that conditions can use, as dataclasses: their annotations are the types checked at
load.

Unknown is None here as everywhere; a condition that rests on it does not hold (Kleene).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.fleet import beats
from celery_ops.model import WorkerState, parked
from celery_ops.model.holding import own_names
from celery_ops.runbook.targets import processes_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from celery_ops.model import FleetSnapshot, Reading, StoredMessage, Task, Worker
    from celery_ops.runbook.plan import PlannedTask, PlannedWorker


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """`worker.…` and `before.worker.…`. `queues` compares as a set."""

    name: str
    state: WorkerState
    online: bool
    drained: bool
    answers: bool
    supervised: bool
    pid: int | None
    started_at: datetime | None
    queues: frozenset[str] | None
    active: int | None
    reserved: int | None
    scheduled: int | None
    processed: int | None
    concurrency: int | None
    processes: int | None
    pool: str | None
    version: str | None
    release: str | None
    tells_queues: bool = False
    """What it consumes is known."""


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """`fleet.…`: counts over the workers in scope."""

    workers: int
    online: int
    silent: int
    conflicts: int
    unsupervised: int
    left_drained: int | None
    ready: int | None
    unacked: int | None
    orphans: int | None
    """Messages that are proved to be held by nobody; unknown while of any that is not known."""
    senders: int
    """Schedulers that were seen to run and may send side by side; there may be more."""
    complete: bool


@dataclass(frozen=True, slots=True)
class MessageFacts:
    """What a `filter` sees of a message that waits; `retries` are those behind it, `age` is how
    long it has been known to wait, in seconds.
    """

    id: str | None
    task: str | None
    retries: int | None
    eta: datetime | None
    age: float | None
    origin: str | None
    priority: int | None
    redelivered: bool | None


@dataclass(frozen=True, slots=True)
class ResultFacts:
    """What a `filter` sees of a task that has ended: `age` is how long ago, in seconds, and
    `exception` the name of the type of what it failed of.
    """

    id: str | None
    task: str | None
    state: str | None
    exception: str | None
    retries: int | None
    queue: str | None
    worker: str | None
    age: float | None


@dataclass(frozen=True, slots=True)
class TargetsFacts:
    """`targets.…`: what the runbook's first roll or worker step resolved to, how many messages its
    restore steps, and how many tasks its revoke and retry steps; each also as a question tells it.
    """

    count: int
    names: frozenset[str]
    messages: int = 0
    tasks: int = 0
    workers_in_words: str = ""
    messages_in_words: str = ""
    tasks_in_words: str = ""
    """`3 tasks (2 of them seen nowhere)`."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """`step.…`: the steps of the current target began at this moment, and whether they are those of
    the first batch of a roll that has a canary.
    """

    started_at: datetime
    canary: bool = False


@dataclass(frozen=True, slots=True)
class BeforeFacts:
    """`before.…`: as it was when the run began, or as an earlier run recorded it."""

    worker: WorkerFacts


def of_targets(
    names: Collection[str], messages: int, tasks: Collection[PlannedTask]
) -> TargetsFacts:
    """What conditions and questions see of all that a plan is about."""
    lost = sum(one.is_unseen for one in tasks)
    nowhere = f" ({lost} of them seen nowhere)" if lost < len(tasks) else " (seen nowhere)"
    return TargetsFacts(
        len(names),
        frozenset(names),
        messages,
        len(tasks),
        counted(len(names), "worker"),
        counted(messages, "message"),
        counted(len(tasks), "task") + (nowhere if lost else ""),
    )


def of_worker(worker: Worker) -> WorkerFacts:
    """What conditions see of a worker."""
    return WorkerFacts(
        name=worker.name,
        state=worker.state,
        online=worker.state is WorkerState.ONLINE,
        drained=worker.state is WorkerState.DRAINED,
        answers=worker.answers or worker.busy_solo,  # which will, when its task has ended
        supervised=worker.service is not None,
        pid=worker.pid,
        started_at=worker.started_at,
        queues=None if worker.queues is None else own_names(worker.queues),
        active=_length(worker.active),
        reserved=_length(worker.reserved),
        scheduled=_length(worker.scheduled),
        processed=worker.stats.value.processed if worker.stats else None,
        concurrency=worker.stats.value.concurrency if worker.stats else None,
        processes=processes_of(worker),
        pool=worker.stats.value.pool if worker.stats else None,
        version=worker.heartbeat.value.version if worker.heartbeat else None,
        release=worker.release,
        tells_queues=worker.queues is not None,
    )


def next_life(before: WorkerFacts, target: PlannedWorker) -> WorkerFacts:
    """The same, as its next life must be: that knows nothing of queues that are paused."""
    queues = before.queues
    return before if queues is None else replace(before, queues=queues.union(target.paused))


def of_planned(target: PlannedWorker) -> WorkerFacts:
    """A worker as its plan recorded it; `queues` is what it must consume again."""
    life = target.incarnation
    return WorkerFacts(
        name=target.name,
        state=target.state,
        online=target.state is WorkerState.ONLINE,
        drained=target.state is WorkerState.DRAINED,
        answers=target.active is not None,
        supervised=target.service is not None,
        pid=life.pid if life else None,
        started_at=life.started_at if life else None,
        queues=None if target.queues is None else own_names(one.name for one in target.queues),
        active=target.active,
        reserved=target.reserved,
        scheduled=target.scheduled,
        processed=None,
        concurrency=None,
        processes=target.processes,
        pool=None,
        version=None,
        release=target.release,
        tells_queues=target.queues is not None,
    )


def of_fleet(snapshot: FleetSnapshot) -> FleetFacts:
    """What conditions see of the fleet."""
    workers = [worker for worker in snapshot.workers if worker.mine]
    return FleetFacts(
        workers=len(workers),
        online=sum(worker.state is WorkerState.ONLINE for worker in workers),
        silent=sum(worker.state is WorkerState.SILENT for worker in workers),
        conflicts=sum(worker.state is WorkerState.CONFLICT for worker in workers),
        unsupervised=sum(worker.service is None for worker in workers),
        senders=len(beats.senders(snapshot)),
        left_drained=_left_drained(snapshot),
        ready=_total(queue.ready for queue in snapshot.queues if parked(queue.name) is None),
        unacked=_total(queue.unacked for queue in snapshot.queues),
        orphans=_orphans(snapshot),
        complete=snapshot.complete,
    )


def message_facts(message: StoredMessage, now: datetime) -> MessageFacts:
    """What conditions see of a message that waits."""
    return MessageFacts(
        id=message.id,
        task=message.task,
        retries=message.retries,
        eta=message.eta,
        age=message.age(now),
        origin=message.origin,
        priority=message.priority,
        redelivered=message.redelivered,
    )


def scope_of_message(
    message: StoredMessage, now: datetime, params: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    """What a `filter` is judged by: the facts by their names, and the runbook's params."""
    facts = message_facts(message, now)
    return {name: getattr(facts, name) for name in _OF_A_MESSAGE} | {"params": params or {}}


_OF_A_MESSAGE = tuple(entry.name for entry in fields(MessageFacts))


def _orphans(snapshot: FleetSnapshot) -> int | None:
    is_open = any(not one.expected for one in snapshot.unproven)
    if snapshot.orphans is None or is_open or snapshot.broker_error is not None:
        return None
    return len(snapshot.orphans)


def _left_drained(snapshot: FleetSnapshot) -> int | None:
    if snapshot.broker_error is not None:
        return None
    left = 0
    for record in snapshot.taken:
        worker = snapshot.worker(record.worker)
        left += record.kind == "queues" and not (worker is not None and _owes_nothing(worker))
    return left


def _owes_nothing(worker: Worker) -> bool:
    """It is another incarnation than the one that something was taken from; of two, who knows."""
    is_told = worker.incarnation is not None and worker.state is not WorkerState.CONFLICT
    return is_told and worker.taken is None


def _length(reading: Reading[tuple[Task, ...]] | None) -> int | None:
    return None if reading is None else len(reading.value)


def _total(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)
