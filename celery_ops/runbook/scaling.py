"""The verb `scale`: a pool grows at once, and shrinks by one idle process after the other. Of a
worker that scales itself (`--autoscale`) it is the most that changes.

Proved by the processes that the pool has. What was begun is settled by looking, and gone on with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import BrokerUnreachable
from celery_ops.model import Targets
from celery_ops.ports import Question
from celery_ops.runbook import actions, judges
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.hazards import scale_obstacles
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction
from celery_ops.runbook.targets import plan_worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.schema import ScaleStep
    from celery_ops.runbook.stage import Stage

BETWEEN_TRIES = 2.0
LATE = 10.0
REPLY_TIMEOUT = 2.0


def goal_of(step: ScaleStep, worker: PlannedWorker, scope: Mapping[str, object]) -> int | None:
    """The size it is to have; None where it is not known which it has."""
    if step.to is not None:
        return resolve(step.to, scope)
    if worker.size is None or step.by is None:
        return None
    return worker.size + resolve(step.by, scope)


def _does(worker: PlannedWorker, goal: int | None) -> str:
    if worker.autoscale is None:
        return f"scale its pool from {worker.size} to {goal} processes"
    return f"let it scale itself to at most {goal} processes instead of {worker.size}"


def planned_scale(
    step: ScaleStep, worker: PlannedWorker, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[PlannedAction, list[str]]:
    """What is done to a worker's pool, and why it cannot be."""
    goal = goal_of(step, worker, scope)
    undo = f"scale it back to {worker.size}"
    action = PlannedAction(step.id, worker.name, _does(worker, goal), undo)
    return action, scale_obstacles(worker, goal, snapshot)


async def scale(stage: Stage, step: ScaleStep, target: Target) -> None:
    """Do it; where it failed the target says so in `failed`."""
    past = stage.recall.next(step.id, target.name)
    if past is not None and past.outcome is not None:
        target.failed = past.outcome.says if past.outcome.result is Result.FAILED else ""
        return
    before = past.worker if past is not None else None
    if before is None:
        snapshot = await stage.look()
        before = _met(target, snapshot)
        goal = goal_of(step, before, {"params": stage.params})
        obstacles = scale_obstacles(before, goal, snapshot)
        if obstacles or goal is None:
            target.failed = "; ".join(obstacles)
            stage.effects.conclude(step.id, target.name, Result.FAILED, target.failed)
            return
    await _resize(
        stage, step.id, target, before, goal_of(step, before, {"params": stage.params}) or 1,
        timeout=stage.value(step.timeout), intended=past is not None,
    )  # fmt: skip


async def scale_back(
    stage: Stage, step: str, target: Target, processes: int, *, timeout: float
) -> None:
    """Give its pool the size it had, whatever it has now. Raise StepFailed."""
    snapshot = await stage.look()
    now = _met(target, snapshot)
    obstacles = scale_obstacles(now, processes, snapshot)
    if now.autoscale is not None and target.planned.autoscale is None:
        least, most = now.autoscale
        obstacles = [f"{now.name} scales itself between {least} and {most} processes since then"]
    if obstacles:
        raise StepFailed("; ".join(obstacles))
    kept = target.failed
    await _resize(stage, step, target, now, processes, timeout=timeout)
    failed, target.failed = target.failed, kept
    if failed:
        raise StepFailed(failed)


def _met(target: Target, snapshot: FleetSnapshot) -> PlannedWorker:
    worker = snapshot.worker(target.name)
    return plan_worker(worker, snapshot) if worker is not None else target.planned


async def _resize(
    stage: Stage, step: str, target: Target, before: PlannedWorker, goal: int,
    *, timeout: float, intended: bool = False,
) -> None:  # fmt: skip
    """Let a pool have so many processes. `intended`: the journal says already what is meant."""
    if not intended:
        stage.effects.intend(
            step, target.name, _does(before, goal),
            expect=f"its pool has {goal} processes", undo=f"scale it back to {before.size}",
            verb="scale", worker=before,
        )  # fmt: skip
    until = stage.clock.monotonic() + timeout
    if intended:  # what was sent may still be on its way: new processes take seconds to show
        await _seen(stage, step, target, before, goal, min(timeout, LATE))
    says = await _approach(stage, step, target, before, goal, until)
    target.failed = says
    stage.effects.conclude(
        step, target.name, Result.FAILED if says else Result.DONE,
        says or f"its pool has {'' if before.autoscale is None else 'at most '}{goal} processes",
    )  # fmt: skip


async def _approach(
    stage: Stage, step: str, target: Target, before: PlannedWorker, goal: int, until: float
) -> str:
    """Order by order, each seen before the next; why it was given up, or nothing."""
    refused = ""
    while True:
        has = await _size(stage, before)
        if has == goal:
            return ""
        left = until - stage.clock.monotonic()
        if left <= 0:
            return f"not within the step's time: {refused or f'its pool has {has} processes'}"
        stage.brake.check(safe=True)
        if has is None:
            await stage.brake.sleep(BETWEEN_TRIES)
            continue
        by = goal - has
        is_range = before.autoscale is not None
        action = actions.autoscale if is_range else actions.scale
        sent = action(target.name, goal if is_range else by)
        refusals = await stage.effects.control([sent])
        refused = refusals.get(target.name, "")
        if refused and stage.effects.away:  # it may be done all the same: it is looked for
            stage.say(target.name, refused, step)
        elif refused and (by > 0 or is_range):
            return f"it replied: {refused}"
        elif refused:  # all of its processes are busy: one of them will be free
            pause = as_duration(BETWEEN_TRIES)
            stage.say(target.name, f"it replied: {refused}; again in {pause}", step)
            await stage.brake.sleep(BETWEEN_TRIES)
            continue
        left = max(0.0, until - stage.clock.monotonic())
        left = min(left, LATE) if refused else left
        next_size = goal if by > 0 or is_range else has - 1
        seen = await _seen(stage, step, target, before, next_size, left)
        if seen.seen is not Seen.DONE and not (refused and seen.too_late):
            return seen.says


async def _seen(
    stage: Stage, step: str, target: Target, before: PlannedWorker, processes: int, timeout: float
) -> Judgement:
    return await stage.watch.until(
        judges.scaled(before, processes, stage.clock.now()),
        worker=target.name,
        timeout=timeout,
        safe=True,
        progress=lambda says: stage.say(target.name, says, step),
    )


async def _size(stage: Stage, before: PlannedWorker) -> int | None:
    """The size its pool has now, if it is still the process that was met."""
    try:
        snapshot = await stage.surveyor.refresh(
            questions=(Question.PING, Question.STATS),
            to=Targets((before.name,)),
            timeout=REPLY_TIMEOUT,
            services=(),
        )
    except BrokerUnreachable:
        return None
    worker = snapshot.worker(before.name)
    if worker is None:
        return None
    now = plan_worker(worker, snapshot)
    return now.size
