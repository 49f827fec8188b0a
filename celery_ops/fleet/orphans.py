"""Which held messages are orphans: proved to be held by nobody. Pure.

The broker tells which messages are unacknowledged, and not by whom. A message is nobody's if every
node that may hold one has told, after the delivery and in two rounds, all that it holds, and this
was not among it; or is proved dead by its supervisor. Silence proves nothing: a busy solo worker,
a frozen one and one in its warm shutdown are silent too, and run tasks. The last of these is not
even bound to the broker any more: only where supervisors tell of all workers is it known that there
is none. What a rate limit holds back is in no worker's answer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from celery_ops.model import HeldMessage, ServiceState, Unproven, WorkerState
from celery_ops.ports import Question

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from celery_ops.fleet.known import KnownNode
    from celery_ops.model import Service, ServiceRef, Worker
    from celery_ops.ports import QueuesReading

SETTLED = timedelta(seconds=5)
"""How long before a node told what it holds a message must have been delivered.

Deliveries are stamped by the workers' clocks, replies by ours.
"""
BETWEEN_ROUNDS = 1.0
"""Seconds between two rounds that are made for the proof: longer than any task changes lists."""
HELD_QUESTIONS = frozenset({Question.ACTIVE, Question.RESERVED, Question.SCHEDULED})
ANYBODY = "*"
"""Whom an operator vouches for where not even the workers' names are known."""
_NAME_LENGTH = 60
_DEAD = frozenset({ServiceState.STOPPED, ServiceState.FAILED})

_Delivery = tuple[str, datetime]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Held messages that no worker shows. `twice` are the deliveries of which the round before
    said the same.
    """

    messages: tuple[HeldMessage, ...] = ()
    twice: frozenset[_Delivery] = frozenset()

    def after(self, reading: QueuesReading, nodes: Iterable[KnownNode]) -> Suspects | None:
        """As they are after a round of everybody; None while the held messages are not known."""
        if not reading.keeps_held:
            return Suspects()
        if reading.unacked is None:
            return None
        # Of a silent node's older answer nothing is known to be true any more.
        visible = {
            task.id
            for node in nodes
            if node.is_answering
            for part in (node.active, node.reserved, node.scheduled)
            if part is not None
            for task in part.value
        }
        before = {(one.tag, one.since) for one in self.messages}
        found = tuple(
            HeldMessage(one.tag, one.task_id, one.task, one.queue, one.since)
            for one in reading.unacked
            if one.task_id not in visible and one.since + SETTLED < reading.at
        )
        now = ((one.tag, one.since) for one in found)
        return Suspects(found, frozenset(one for one in now if one in before))


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why somebody may hold any of them. `vouch_for`: the node, where an operator may know better.

    Nobody can know better of a process that listens.
    """

    why: str
    vouch_for: str | None = None


@dataclass(slots=True)
class Evidence:
    """What is known of everybody who may hold a message."""

    doubts: list[Doubt] = field(default_factory=list)
    told_at: datetime | None = None
    """Until when everybody has told what they hold; None where there is nobody."""
    last_to_tell: str = ""
    hidden: dict[str, str] = field(default_factory=dict)
    """Tasks of which a worker may hold messages unseen, and who that is and why."""
    queues: set[str] = field(default_factory=set)
    """Queues that workers which are known consume, did so in their last life, or are owed."""

    def doubts_of(self, queue: str) -> list[Doubt]:
        """All that is in doubt about messages of a queue."""
        if queue in self.queues:
            return self.doubts
        why = f"no worker that is known consumes {_cut(queue)}: who held them cannot be told"
        return [*self.doubts, Doubt(why, ANYBODY)]


def gather(
    workers: Sequence[Worker],
    nodes: Mapping[str, KnownNode],
    services: Mapping[ServiceRef, Service],
    *,
    bound_but_silent: Sequence[str],
    unanswered: int,
    counted: bool,
    owed: Collection[str] = (),
) -> Evidence:
    """The evidence of one moment. `owed` are queues that workers are to get back.

    `unanswered` listeners are known by number only; `counted` says whether the broker counted its
    listeners and all of them answered.
    """
    evidence = Evidence(queues=set(owed))
    if unanswered:
        evidence.doubts.append(
            Doubt(f"{unanswered} that listen have not answered, and their names are not known")
        )
    supervised = [service for service in services.values() if not service.ref.beat]
    if not supervised:
        why = (
            "no service is configured: whether a stopped worker still ends its tasks cannot be told"
        )
        evidence.doubts.append(Doubt(why, ANYBODY))
    shown = {worker.name for worker in workers}
    for worker in workers:
        _hear(evidence, worker, nodes[worker.name], counted=counted)
    matched = {worker.service.ref for worker in workers if worker.service is not None}
    for service in supervised:
        if service.ref not in matched:
            _look_at(evidence, service)
    for name in bound_but_silent:
        if name not in shown:
            why = f"{_cut(name)} is bound on the broker and does not answer"
            evidence.doubts.append(Doubt(why, name if counted else None))
    return evidence


def judge(
    suspects: Suspects, evidence: Evidence
) -> tuple[tuple[HeldMessage, ...], tuple[Unproven, ...]]:
    """The orphans, and what is not proved, with the reason."""
    proved: list[HeldMessage] = []
    open_: dict[Unproven, list[HeldMessage]] = {}
    for message in suspects.messages:
        doubt = _doubt(message, suspects, evidence)
        if doubt is None:
            proved.append(message)
        else:
            open_.setdefault(doubt, []).append(message)
    return tuple(proved), tuple(
        replace(doubt, messages=tuple(messages)) for doubt, messages in open_.items()
    )


def count_by_queue(messages: Iterable[HeldMessage]) -> Counter[str]:
    """How many there are of each queue."""
    return Counter(message.queue for message in messages if message.queue is not None)


def _doubt(message: HeldMessage, suspects: Suspects, evidence: Evidence) -> Unproven | None:
    """What is missing in the proof of one message; what no word can mend comes first."""
    queue, is_new = message.queue, (message.tag, message.since) not in suspects.twice
    if queue is None:
        return Unproven(None, (), "the queue they came from cannot be told")
    if message.task_id is None:
        return Unproven(queue, (), "they carry no task id by which a worker could show them")
    hidden = evidence.hidden.get(message.task or "")
    if message.task is None and evidence.hidden:
        hidden = next(iter(evidence.hidden.values()))
    if hidden is not None:
        return Unproven(queue, (), hidden, expected=True)
    doubts = evidence.doubts_of(queue)
    if doubts:
        why, names = _summed(doubts)
        return Unproven(queue, (), why, names, settles=is_new)
    if evidence.told_at is not None and message.since + SETTLED >= evidence.told_at:
        why = f"{_cut(evidence.last_to_tell)} has not told what it holds since they were delivered"
        return Unproven(queue, (), why, settles=True)
    if is_new:
        return Unproven(queue, (), "a second round has to say the same", settles=True)
    return None


def _summed(doubts: Sequence[Doubt]) -> tuple[str, tuple[str, ...]]:
    """Doubts in a sentence, and whom an operator has to vouch for: nobody's word helps where one
    of them is hard.
    """
    hard = [doubt for doubt in doubts if doubt.vouch_for is None]
    (first, *_), others = hard or doubts, len(doubts) - 1
    more = f" (and {others} more {'reason' if others == 1 else 'reasons'})" if others else ""
    names = () if hard else tuple(one.vouch_for for one in doubts if one.vouch_for is not None)
    return first.why + more, (ANYBODY,) if ANYBODY in names else names


def _hear(evidence: Evidence, worker: Worker, node: KnownNode, *, counted: bool) -> None:
    """What one node says, or that it does not."""
    evidence.queues.update(queue.name for queue in node.consumed_before)
    if worker.state is WorkerState.STOPPED:
        return  # Its supervisor says so, later than any sign of life.
    doubt = _doubt_about(worker, node, counted=counted)
    if doubt is not None:
        evidence.doubts.append(doubt)
    parts = (worker.active, worker.reserved, worker.scheduled)
    told = min((part.at for part in parts if part is not None), default=None)
    if told is not None and (evidence.told_at is None or told < evidence.told_at):
        evidence.told_at, evidence.last_to_tell = told, worker.name
    for task in worker.registered.value if worker.registered is not None else ():
        if task.may_hide:
            what = "gathers batches of" if task.batched else "has a rate limit on"
            why = f"{_cut(worker.name)} {what} {_cut(task.name)} and may hold them back, unseen"
            evidence.hidden.setdefault(task.name, why)


def _doubt_about(worker: Worker, node: KnownNode, *, counted: bool) -> Doubt | None:
    name = _cut(worker.name)
    if worker.state is WorkerState.CONFLICT:
        return Doubt(f"two processes share the name {name}, and one may answer for both")
    if worker.state is WorkerState.UNREADABLE:
        return Doubt(f"{name} answers in a format that is not read")
    if worker.state is WorkerState.STOPPING or not node.is_answering:
        gone = worker.name if _nobody_can_tell(worker, counted=counted) else None
        if worker.state is WorkerState.STOPPING or _is_being_stopped(worker.service):
            return Doubt(f"{name} is stopping and may still run tasks", gone)
        return Doubt(f"{name} has not answered" + (f": {worker.says}" if worker.says else ""), gone)
    for part, what in (
        (worker.active, "runs"),
        (worker.reserved, "has reserved"),
        (worker.scheduled, "holds until its ETA"),
    ):
        if part is None:
            return Doubt(f"{name} has not told what it {what}")
    if worker.registered is None:
        return Doubt(f"{name} has not told which of its tasks have a rate limit")
    if not worker.mine:
        return Doubt(f"{name} is outside of this context, so who runs beside it is not known")
    return _doubt_about_service(worker)


def _doubt_about_service(worker: Worker) -> Doubt | None:
    """An earlier process of that worker, one that is still ending its tasks, only its supervisor
    could tell of.
    """
    name, service = _cut(worker.name), worker.service
    if service is None:
        why = (
            f"no service is configured for {name}: whether an earlier process of it still ends "
            "its tasks cannot be told"
        )
        return Doubt(why, worker.name)
    if service.error is not None or service.status is None:
        return Doubt(f"the supervisor of {name} cannot be asked: {service.error or 'no answer'}")
    status = service.status.value
    if status.state is not ServiceState.RUNNING or status.told_pid not in (None, worker.pid):
        says = status.says or status.state.value
        return Doubt(f"{service.ref} does not run the process that answers as {name} ({says})")
    return None


def _is_being_stopped(service: Service | None) -> bool:
    status = service.status if service is not None else None
    return status is not None and status.value.state is ServiceState.STOPPING


def _nobody_can_tell(worker: Worker, *, counted: bool) -> bool:
    """Whether an operator's word may stand for it: no supervisor speaks, and it does not listen."""
    service = worker.service
    is_mute = service is None or service.error is not None or service.status is None
    return is_mute and counted


def _look_at(evidence: Evidence, service: Service) -> None:
    """A service whose worker was not seen at all."""
    ref = service.ref
    if service.error is not None or service.status is None:
        why = f"{ref} cannot be asked: {service.error or 'no answer'}"
        evidence.doubts.append(Doubt(why, ref.worker))
    elif service.status.value.state not in _DEAD:
        evidence.doubts.append(Doubt(f"{ref} runs, and its worker was not seen"))


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
