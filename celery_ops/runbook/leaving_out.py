"""Steps that a run leaves out whatever the fleet is like, by their `when` and its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.plan import PlannedStep
from celery_ops.runbook.schema import ConfirmStep, NotifyStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.schema import Step, Value

_OTHERS = dict.fromkeys(("fleet", "targets"))
"""What a `when` may name beside parameters: unknown before the run is there."""


def is_left_out(step: Step, params: Mapping[str, Value]) -> bool:
    """It will not be done, with these parameters."""
    if isinstance(step, ConfirmStep | NotifyStep) or step.when is None:
        return False
    return step.when.evaluate({**_OTHERS, "params": params}).truth is Truth.FAILS


def left_out(step: Step) -> PlannedStep:
    """How it stands in a plan."""
    when = None if isinstance(step, ConfirmStep | NotifyStep) else step.when
    return PlannedStep(step.id, f"left out: {when.source if when else 'it'} does not hold")
