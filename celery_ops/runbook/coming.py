"""The verb that is read and planned, and that this version cannot carry out: `activate`.

Pure. The plan shows what a step is about, and refuses the run before anything is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import CurrentWorker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.schema import ActivateStep


def refusal(step: ActivateStep) -> str:
    """Why a run with that step must not begin."""
    return f"step {step.id}: `activate` is planned, but this version cannot carry it out yet"


def planned(step: ActivateStep, scope: Mapping[str, object]) -> PlannedStep:
    """What it would do."""
    on = None if isinstance(step.on, CurrentWorker) else resolve(step.on, scope)
    says = f"activate {resolve(step.release, scope)} on {on or 'its host'}"
    return PlannedStep(step.id, says, actions=(activation(step, on, scope),))


def activation(
    step: ActivateStep, target: str | None, scope: Mapping[str, object]
) -> PlannedAction:
    """What is done for one worker of a roll, or on one host."""
    says = f"make {resolve(step.release, scope)} the current release of its host"
    return PlannedAction(step.id, target, says, "the one before is made current again")
