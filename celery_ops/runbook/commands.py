"""The verb `run`: an argv on a host, tried as often as its step says, and never blindly again."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING

from celery_ops.errors import ConfirmationNeeded
from celery_ops.ports import Command
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.loader import render, render_argument
from celery_ops.runbook.schema import CurrentWorker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.schema import RunStep
    from celery_ops.runbook.stage import Stage


async def run_on_host(
    stage: Stage, step: RunStep, target: Target | None, scope: Mapping[str, object]
) -> None:
    """A `run` step, on the host of the current worker or the named one.

    Raise StepFailed without a target, PreconditionFailed if something in the command is not known.
    """
    host = host_of(stage, step, target)
    name = target.name if target is not None else host
    command = Command(
        tuple(render_argument(part, scope) for part in step.argv),
        env=tuple((key, render_argument(part, scope)) for key, part in step.env),
    )
    undo = shlex.join(render(part, scope) for part in step.undo) or None
    for attempt in itertools.count(1):
        came = await _run_once(stage, step, name, host, command, undo)
        # Only what is known to have failed is tried again: the rest may have been done.
        if came.result is not Result.FAILED:
            break
        if not await stage.again(step.retries, attempt, step.id, name, came.says):
            break
    if came.result is Result.DONE:
        return
    if target is None:
        raise StepFailed(f"step {step.id}: {came.says}")
    target.failed = f"{command}: {came.says}"


async def _run_once(
    stage: Stage, step: RunStep, name: str, host: str, command: Command, undo: str | None
) -> Outcome:
    past = stage.recall.next(step.id, name)
    if past is not None and past.outcome is not None:
        return past.outcome
    if past is not None and await was_done(stage, step.id, name, str(command)):
        came = Outcome(Result.DONE, "done, says who resumed the run")
    else:
        stage.effects.intend(
            step.id, name, str(command), expect="ends with 0", undo=undo, verb="run"
        )
        came = await stage.effects.run(host, command, stage.value(step.timeout))
    stage.effects.conclude(step.id, name, came.result, came.says)
    return came


def host_of(stage: Stage, step: RunStep, target: Target | None) -> str:
    """Where it is run. Raise StepFailed for a worker without a host that is known."""
    if not isinstance(step.on, CurrentWorker):
        return stage.value(step.on)
    if target is None or target.planned.service is None:
        raise StepFailed(f"step {step.id} has no host to run on")
    return target.planned.service.host


async def was_done(stage: Stage, step: str, name: str, command: str) -> bool:
    """How a command ended that a run was interrupted in cannot be observed: it is asked.

    True: it was done; False: it is to be run again. Raise ConfirmationNeeded without anybody to
    ask, Aborted for any other answer.
    """
    says = f"{command} was begun on {name}, and it is not known how it ended"
    message = await stage.ask(step, "done, again or stop?", target=name, says=says)
    if message is None:
        raise ConfirmationNeeded(
            f"{says}. Nobody is there to say so.",
            fix="Resume it in a terminal, or give back what was taken: runs undo.",
        )
    if message.answer not in {"done", "again"}:
        raise Aborted(message.who)
    return message.answer == "done"
