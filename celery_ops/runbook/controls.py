"""The verb `control`: a control command for one worker, and what it replied.

A reply is all that is known of its effect. Without one nobody knows whether it was done; it is
never sent a second time by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook import actions
from celery_ops.runbook.commands import was_done
from celery_ops.runbook.events import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.schema import ControlStep
    from celery_ops.runbook.stage import Stage

NEVER_REPLY = frozenset({"shutdown"})
"""Their silence is their answer."""
LONGEST_REPLY = 30.0
"""Seconds that a reply is waited for at most; a worker that is busy replies when it is free."""


async def send(
    stage: Stage, step: ControlStep, target: Target, scope: Mapping[str, object]
) -> None:
    """Send it; where that failed, or nobody knows, the target says so in `failed`."""
    action = actions.control(step, target.name, scope)
    past = stage.recall.next(step.id, target.name)
    if past is not None and past.outcome is not None:
        came = past.outcome
    else:
        if past is not None and await was_done(stage, step.id, target.name, str(action)):
            came = Outcome(Result.DONE, "done, says who resumed the run")
        else:
            stage.effects.intend(
                step.id, target.name, str(action), expect="it replies", undo=None, verb="control",
                worker=target.planned,
            )  # fmt: skip
            timeout = min(stage.value(step.timeout), LONGEST_REPLY)
            came = await stage.effects.command(action, timeout)
        was_sent = came.result is Result.UNKNOWN and not stage.effects.away
        if was_sent and step.method in NEVER_REPLY:
            came = Outcome(Result.DONE, "sent; it never replies, and what follows must prove it")
        stage.effects.conclude(step.id, target.name, came.result, came.says)
    if came.result is not Result.DONE:
        target.failed = f"control {step.method}: {came.says}"
