"""A worker's turn: it is met as it is now, and passed over where a drain does not wait for whoever
cannot be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.model import WorkerState
from celery_ops.runbook.cutting_off import PASSED_OVER, recollect
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.orders import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.schema import WorkerStep
    from celery_ops.runbook.stage import Stage


def order_of(stage: Stage, step: WorkerStep) -> Order:
    """A step with its values resolved."""
    return Order(
        step.id,
        step.verb,
        stage.value(step.timeout),
        step.on_timeout,
        retries=stage.value(step.retries.times),
        pause=stage.value(step.retries.pause),
        for_good=step.for_good,
        passes_over=step.passes_over,
    )


def meet(
    stage: Stage, step: WorkerStep, targets: Sequence[Target], snapshot: FleetSnapshot
) -> list[Target]:
    """Those to whom the step can be done; why not to one, it says in `failed` or was concluded."""
    ready = []
    for target in targets:
        past = stage.recall.peek(step.id, target.name)
        if past is not None and past.outcome is not None and recollect(target, past.outcome):
            stage.recall.next(step.id, target.name)
            continue
        stage.refresh_target(step.id, target, step.verb, snapshot)
        is_there_twice = target.planned.state is WorkerState.CONFLICT
        if target.failed and step.passes_over and not is_there_twice:
            target.failed = ""
            told = Outcome(Result.SKIPPED, f"{PASSED_OVER}{_absence(target, snapshot)}")
            recollect(target, told)
            stage.effects.conclude(step.id, target.name, told.result, told.says)
        elif not target.failed:
            ready.append(target)
    return ready


def _absence(target: Target, snapshot: FleetSnapshot) -> str:
    worker = snapshot.worker(target.name)
    if worker is None:
        return "it was not seen any more"
    return f"it is {worker.state}" + (f", {worker.says}" if worker.says else "")
