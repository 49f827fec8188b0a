"""The verb `notify`: tells somebody, by a command on the operator's own machine.

Whatever comes of it is journalled, and nothing else depends on it. Nobody is told twice: what was
begun when the executor died may have been told, and is left at that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.contexts import LOCAL
from celery_ops.config.secret import masked
from celery_ops.errors import BrokerUnreachable, OpsError
from celery_ops.ports import Command
from celery_ops.runbook.events import Result
from celery_ops.runbook.loader import render_argument
from celery_ops.runbook.recall import NOTIFY

if TYPE_CHECKING:
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.schema import NotifyStep
    from celery_ops.runbook.stage import Stage

NOTIFY_TIMEOUT = 10.0
PERHAPS_TOLD = (
    "it is not known whether this was told before the run was interrupted: not told again"
)


async def notify(
    stage: Stage, step: NotifyStep, state: str, says: str, *, at_end: bool = False
) -> None:
    """Run it once; its environment tells of the run. Raises nothing of ours.

    `at_end`: what is told of an end is told of each, if the run was gone on with after one.
    """
    past = stage.recall.next(step.id, None)
    while at_end and past is not None and past.ended:
        past = stage.recall.next(step.id, None)
    if past is not None:
        if past.is_open:
            stage.effects.conclude(step.id, None, Result.SKIPPED, PERHAPS_TOLD)
        return
    scope = await _scope(stage)
    if step.when is not None and not step.when.evaluate(scope).holds:
        stage.effects.conclude(step.id, None, Result.SKIPPED, f"{step.when.source} does not hold")
        return
    try:
        env = [(key, render_argument(text, scope)) for key, text in step.env]
        argv = tuple(render_argument(part, scope) for part in step.argv)
        command = Command(argv, env=(*_about(stage.plan, state, says).items(), *env))
        shell = stage.hosts.shell(LOCAL)
        stage.effects.intend(
            step.id, None, f"tell: {command}", expect="ends with 0", undo=None, verb=NOTIFY
        )
        completed = await shell.run(command, timeout=NOTIFY_TIMEOUT)
    except OpsError as error:
        stage.effects.conclude(step.id, None, Result.FAILED, f"nobody was told: {error.says}")
        return
    if completed.code:
        last = "\n".join(completed.err.decode(errors="replace").strip().splitlines()[-5:])
        says = f"{command} ended with {completed.code}: {last}"
        stage.effects.conclude(step.id, None, Result.FAILED, says)
        return
    stage.effects.conclude(step.id, None, Result.DONE, f"told: {command}")


def _about(plan: Plan, state: str, says: str) -> dict[str, str]:
    return {
        "CELERY_OPS_RUN": plan.run,
        "CELERY_OPS_RUNBOOK": plan.runbook,
        "CELERY_OPS_CONTEXT": plan.where.context,
        "CELERY_OPS_STATE": state,
        "CELERY_OPS_SAYS": masked(says),
    }


async def _scope(stage: Stage) -> dict[str, object]:
    """Without a broker, what is known without one."""
    try:
        return stage.scope(await stage.look())
    except BrokerUnreachable:
        return {"params": stage.params}
