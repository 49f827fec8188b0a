"""What pausing, resuming and draining a queue would do, and why it must not be done. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.ports import AddConsumer, CancelConsumer
from celery_ops.runbook import held_queues, queue_judges, queue_word
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import (
    ControlStep,
    QueueStep,
    QueueVerb,
    Roll,
    RunStep,
    WorkerStep,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import FleetSnapshot, Queue, TakenRecord, Worker
    from celery_ops.runbook.schema import Other, Runbook

OF_CONSUMERS = frozenset({QueueVerb.PAUSE, QueueVerb.RESUME})


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """A step, why it is refused, and what to know before agreeing."""

    planned: PlannedStep
    refusals: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()


def planned(
    step: Other, runbook: Runbook, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> QueuePlan:
    """Of a step that pauses, resumes or drains a queue."""
    if not isinstance(step, QueueStep) or step.queue is None:
        raise ValueError(f"step {step.id} names no queue")
    queue = resolve(step.queue, scope)
    match step.verb:
        case QueueVerb.PAUSE:
            return _pause(step, queue, snapshot, scope)
        case QueueVerb.RESUME:
            return _resume(step, queue, runbook, snapshot, scope)
        case QueueVerb.DRAIN:
            return _drain(step, queue, runbook, snapshot, scope)
        case _:
            raise ValueError(f"{step.verb} is not about consumers")


def in_words(step: QueueStep, queue: str, scope: Mapping[str, object]) -> str:
    """What it is about, in one line."""
    if step.timeout is None:
        return f"{step.verb} {queue}"
    return f"{step.verb} {queue}, for at most {as_duration(resolve(step.timeout, scope))}"


def owed(
    step: QueueStep, queue: str, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[TakenRecord, ...]:
    """What a resume step is to give back."""
    runs = resolve(step.owed_by, scope)
    records = [one for one in snapshot.pauses_of(queue) if fnmatchcase(one.run, runs)]
    return tuple(sorted(records, key=lambda one: one.worker))


def pause_refusals(queue: str, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Why a queue cannot be paused for certain: of somebody it is not known, or nobody's to say."""
    held = held_queues.in_the_way(queue, snapshot)
    if held:
        return held
    seen = queue_judges.consumers(queue, snapshot)
    found = [f"{doubt}, so {queue} cannot be proved to be paused" for doubt in seen.doubts]
    for worker in seen.workers:
        if not worker.mine:
            found.append(f"{worker.name} consumes {queue}, and is outside of this context's scope")
        elif not worker.answers:
            found.append(f"{worker.name} consumes {queue}, and is {worker.state}: {worker.says}")
    if not seen.workers:
        records = snapshot.pauses_of(queue)
        if snapshot.is_paused(queue) and records:
            found.append(f"{queue} is paused already, by run {records[0].run}: {records[0].mend}")
        elif not found:
            hint = queue_judges.likely_name(queue, snapshot)
            found.append(f"nobody consumes {queue}{hint}: there is nothing to pause")
    return tuple(found)


def not_paused(queue: str) -> str:
    return f"{queue} is not paused: no run has taken it from any worker"


def drain_refusals(queue: str, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Why a queue will not be worked off."""
    held = held_queues.in_the_way(queue, snapshot)
    if held:
        return held
    seen = queue_judges.consumers(queue, snapshot)
    if seen.workers or seen.doubts:
        return ()
    records = snapshot.pauses_of(queue)
    if records:
        return (f"{queue} is paused, so nobody works it off: {records[0].mend}",)
    hint = queue_judges.likely_name(queue, snapshot)
    return (f"nobody consumes {queue}{hint}: it would never be empty",)


def waits(queue: str, snapshot: FleetSnapshot) -> str:
    """How many messages of it wait, and are held, now."""
    one = next((one for one in snapshot.queues if one.name == queue), None)
    ready = "an unknown number of messages"
    if one is not None and one.ready is not None:
        ready = counted(one.ready, "message")
    verb = "waits" if one is not None and one.ready == 1 else "wait"
    held = "an unknown number are" if one is None or one.unacked is None else f"{one.unacked} are"
    held = "1 is" if one is not None and one.unacked == 1 else held
    return f"{ready} {verb} in it now, {held} held by workers"


def _pause(
    step: QueueStep, queue: str, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> QueuePlan:
    workers = queue_judges.consumers(queue, snapshot).workers
    does = [
        PlannedAction(
            step.id,
            worker.name,
            str(ControlAction(worker.name, CancelConsumer(queue))),
            f"add_consumer {queue}, as it had declared it, to {worker.name}",
        )
        for worker in workers
    ]
    refusals = pause_refusals(queue, snapshot)
    hazards = [
        f"nobody consumes {queue} while it is paused: {waits(queue, snapshot)}, and these run on",
        *_idle(queue, workers),
        *_drained(queue, snapshot),
    ]
    one = PlannedStep(step.id, in_words(step, queue, scope), actions=tuple(does))
    return QueuePlan(one, refusals, () if refusals else tuple(hazards))


def _idle(queue: str, workers: tuple[Worker, ...]) -> list[str]:
    names = [worker.name for worker in workers if worker.queues == (queue,)]
    consume = "consumes" if len(names) == 1 else "consume"
    return [f"{', '.join(names)} {consume} nothing else meanwhile"] if names else []


def _drained(queue: str, snapshot: FleetSnapshot) -> list[str]:
    """Whoever gets it back by another way."""
    return [
        f"{record.worker} is drained, and consumes {queue} again once it is resumed: {record.mend}"
        for record in snapshot.taken
        if record.kind == "queues" and queue in {one.name for one in record.queues}
    ]


def _resume(
    step: QueueStep,
    queue: str,
    runbook: Runbook,
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
) -> QueuePlan:
    says = in_words(step, queue, scope)
    if _is_paused_before(step, queue, runbook, scope):
        does = PlannedAction(step.id, queue, "give it back to all it was taken from", None)
        return QueuePlan(PlannedStep(step.id, says, actions=(does,)))
    records = owed(step, queue, snapshot, scope)
    if not records:
        return QueuePlan(PlannedStep(step.id, says), (not_paused(queue),))
    actions, hazards = [], [f"{waits(queue, snapshot)}: its workers begin with them at once"]
    for record in records:
        over = queue_judges.is_over(record, snapshot)
        worker = snapshot.worker(record.worker)
        give = str(ControlAction(record.worker, AddConsumer(record.queues[0])))
        if over:
            give = f"nothing to give back: it {over}"
        elif worker is None or not worker.answers:
            state = "not seen" if worker is None else worker.state
            hazards.append(f"{record.worker} is {state}: whether it can be given back is open")
        back = f"celery-ops queue pause {shlex.quote(queue)}"
        actions.append(PlannedAction(step.id, record.worker, give, back))
    return QueuePlan(PlannedStep(step.id, says, actions=tuple(actions)), (), tuple(hazards))


def _drain(
    step: QueueStep,
    queue: str,
    runbook: Runbook,
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
) -> QueuePlan:
    seen = queue_judges.consumers(queue, snapshot)
    refusals = drain_refusals(queue, snapshot)
    hazards = [f"{doubt}: {queue} is not called empty before it does" for doubt in seen.doubts]
    names = ", ".join(worker.name for worker in seen.workers) or "nobody"
    does = f"wait until it is empty, and stays so: {waits(queue, snapshot)}, consumed by {names}"
    one = next((one for one in snapshot.queues if one.name == queue), None)
    if one is not None and one.unacked is None:
        hazards.append(_held_unknown(one, snapshot))
    if snapshot.delayed and queue_word.may_be_delayed(queue, snapshot):
        hazards.append(
            f"{counted(snapshot.delayed, 'message')} in the broker's queues for delayed delivery,"
            f" for {queue} or for others: which cannot be told without taking them out, so it is"
            " not called empty before they are gone"
        )
    if one is not None and one.orphans:
        hazards.append(
            f"{one.orphans} of {queue} lie where a dead worker left them: it is not empty before "
            f"celery-ops runbook restore-orphans -p queue={shlex.quote(queue)}"
        )
    if refusals and _may_be_consumed_before(step, runbook):
        hazards, refusals = [*refusals, *hazards], ()
    action = PlannedAction(step.id, queue, does, "nothing to take back: its messages have run")
    planned_step = PlannedStep(step.id, in_words(step, queue, scope), actions=(action,))
    return QueuePlan(planned_step, refusals, tuple(hazards))


def _held_unknown(one: Queue, snapshot: FleetSnapshot) -> str:
    """What the broker's silence about held messages means for a drain."""
    begins = f"the broker does not tell how many messages of {one.name} are held"
    if not snapshot.gives_back:
        return f"{begins}: it may never end"
    doubts = queue_word.unproved(one, snapshot)[:-1]
    if doubts:
        return f"{begins}, and {'; '.join(doubts)}: it may never end"
    return f"{begins}: it is called empty by the word of {queue_word.consumers(one, snapshot)}"


def _is_paused_before(
    step: QueueStep, queue: str, runbook: Runbook, scope: Mapping[str, object]
) -> bool:
    before = [
        one for one in runbook.steps[: runbook.steps.index(step)] if isinstance(one, QueueStep)
    ]
    return any(
        one.verb is QueueVerb.PAUSE and one.queue is not None and resolve(one.queue, scope) == queue
        for one in before
    )


def _may_be_consumed_before(step: QueueStep, runbook: Runbook) -> bool:
    """A step before that one may bring it consumers."""
    return any(
        isinstance(one, WorkerStep | Roll | RunStep | ControlStep)
        or (isinstance(one, QueueStep) and one.verb is QueueVerb.RESUME)
        for one in runbook.steps[: runbook.steps.index(step)]
    )


def left_paused(runbook: Runbook, scope: Mapping[str, object]) -> set[str]:
    """The queues that a run leaves paused on purpose: its last word to them is pause."""
    left: set[str] = set()
    for step in runbook.steps:
        if isinstance(step, QueueStep) and step.queue is not None and step.verb in OF_CONSUMERS:
            queue = {resolve(step.queue, scope)}
            left = left | queue if step.verb is QueueVerb.PAUSE else left - queue
    return left
