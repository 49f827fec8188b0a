"""Verbs that are read and planned, and that this version cannot carry out: queues and releases.

Pure. The plan shows what a step is about, and refuses the run before anything is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.moves import as_it_is
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import ActivateStep, CurrentWorker, QueueStep, QueueVerb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import FleetSnapshot

Coming = QueueStep | ActivateStep

_UNDO = {
    QueueVerb.PAUSE: "its consumers are given back",
    QueueVerb.RESUME: "its consumers are taken again",
    QueueVerb.DRAIN: "nothing to take back: its messages have run",
}


def refusal(step: Coming) -> str:
    """Why a run with that step must not begin."""
    verb = step.verb if isinstance(step, QueueStep) else "activate"
    return f"step {step.id}: `{verb}` is planned, but this version cannot carry it out yet"


def planned(step: Coming, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> PlannedStep:
    """What it would do, and to what as it is now."""
    says = in_words(step, scope)
    if isinstance(step, ActivateStep):
        on = None if isinstance(step.on, CurrentWorker) else resolve(step.on, scope)
        return PlannedStep(step.id, says, actions=(activation(step, on, scope),))
    done = []
    for slot, undo in ((step.queue, _UNDO[step.verb]), (step.to, _UNDO[step.verb])):
        if slot is not None:
            queue = resolve(slot, scope)
            done.append(PlannedAction(step.id, queue, as_it_is(queue, snapshot), undo))
    return PlannedStep(step.id, says, actions=tuple(done))


def activation(
    step: ActivateStep, target: str | None, scope: Mapping[str, object]
) -> PlannedAction:
    """What is done for one worker of a roll, or on one host."""
    says = f"make {resolve(step.release, scope)} the current release of its host"
    return PlannedAction(step.id, target, says, "the one before is made current again")


def in_words(step: Coming, scope: Mapping[str, object]) -> str:
    """What it is about, in one line."""
    if isinstance(step, ActivateStep):
        on = "its host" if isinstance(step.on, CurrentWorker) else resolve(step.on, scope)
        return f"activate {resolve(step.release, scope)} on {on}"
    does = [str(step.verb)]
    if step.queue is not None:
        does.append(resolve(step.queue, scope))
    if step.to is not None:
        does.append(f"to {resolve(step.to, scope)}")
    bounds = []
    if step.rate is not None:
        bounds.append(f"at most {resolve(step.rate, scope)}")
    if step.timeout is not None:
        bounds.append(f"for at most {as_duration(resolve(step.timeout, scope))}")
    return ", ".join([" ".join(does), *bounds])
