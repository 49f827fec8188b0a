"""The verb `activate`: a release becomes the current one of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.recall import ACTIVATE
from celery_ops.runbook.schema import CurrentWorker

TOLD_APART = 2.0
"""Seconds: hosts tell in whole ones when they were switched and when a process began, and one that
begins too soon could not be told from one of before.
"""

if TYPE_CHECKING:
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import PlannedActivation
    from celery_ops.runbook.schema import ActivateStep
    from celery_ops.runbook.stage import Stage


async def activate_for(stage: Stage, step: ActivateStep, targets: list[Target]) -> None:
    """The hosts of these workers, or the one that the step names; what it fails of, they say."""
    timeout = stage.value(step.timeout)
    for target in targets:
        try:
            planned = _planned(stage, step, _host(stage, step, target))
            await _activate(stage, planned, target.name, timeout)
        except StepFailed as failed:
            target.failed = failed.says
    if targets:
        await stage.brake.sleep(TOLD_APART)


async def activate_on(stage: Stage, step: ActivateStep) -> str:
    """The host that a step outside of a roll names; what came of it. Raise StepFailed."""
    host = _host(stage, step, None)
    return await _activate(stage, _planned(stage, step, host), host, stage.value(step.timeout))


async def _activate(stage: Stage, one: PlannedActivation, target: str, timeout: float) -> str:
    """Doing it again changes nothing, so a gap in the journal is closed by that."""
    past = stage.recall.next(one.step, target)
    if past is not None and past.outcome is not None:
        if past.outcome.result is Result.FAILED:
            raise StepFailed(past.outcome.says)
        return past.outcome.says
    if past is None:
        stage.effects.intend(
            one.step,
            target,
            f"make {one.release} the current release of {one.host}",
            expect="it is the one that services are started with",
            undo=one.before,
            verb=ACTIVATE,
        )
    return await switch(
        stage, one.step, target, one.host, one.release, expect=one.before, timeout=timeout
    )


async def switch(
    stage: Stage,
    step: str,
    target: str,
    host: str,
    release: str,
    *,
    expect: str | None,
    timeout: float,
) -> str:
    """Make it current, and prove it by a look; the result of an intent. Raise StepFailed."""
    try:
        await stage.effects.activate(host, release, expect, timeout)
        seen = await stage.surveyor.current_release(host)
    except (CommandFailed, HostUnreachable) as error:
        stage.effects.conclude(step, target, Result.FAILED, error.says)
        raise StepFailed(f"{host}: {error.says}") from error
    if seen != release:
        says = f"{seen or 'none'} is the current release of {host}, and not {release}"
        stage.effects.conclude(step, target, Result.FAILED, says)
        raise StepFailed(says)
    says = f"{release} is the current release of {host}"
    stage.effects.conclude(step, target, Result.DONE, says)
    return says


def _host(stage: Stage, step: ActivateStep, target: Target | None) -> str:
    """Empty where it is not known."""
    if not isinstance(step.on, CurrentWorker):
        return stage.value(step.on)
    service = None if target is None else target.planned.service
    return "" if service is None else service.host


def _planned(stage: Stage, step: ActivateStep, host: str) -> PlannedActivation:
    for one in stage.plan.activations:
        if (one.step, one.host) == (step.id, host):
            return one
    raise StepFailed(f"step {step.id}: nothing was planned for the host {host or 'of it'}")
