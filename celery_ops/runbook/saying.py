"""Steps in words, for a plan. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.runbook.loader import render, resolve
from celery_ops.runbook.release_steps import WatchStep
from celery_ops.runbook.schema import (
    NO_RETRIES,
    CheckStep,
    ConfirmStep,
    ControlStep,
    NotifyStep,
    RunStep,
    ScaleStep,
    WaitStep,
    WorkerStep,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


Described = (
    WorkerStep
    | WaitStep
    | CheckStep
    | RunStep
    | ControlStep
    | ScaleStep
    | WatchStep
    | ConfirmStep
    | NotifyStep
)
_TRIED_AGAIN = (WorkerStep, CheckStep, RunStep)


def in_words(step: Described, scope: Mapping[str, object]) -> str:
    """What a step is about, in one line; its exact actions are told beside it."""
    retries = step.retries if isinstance(step, _TRIED_AGAIN) else NO_RETRIES
    times = resolve(retries.times, scope)
    again = f", tried again up to {counted(times, 'time')}" if times else ""
    return _does(step, scope) + again


def _does(step: Described, scope: Mapping[str, object]) -> str:
    match step:
        case WorkerStep():
            timeout = as_duration(resolve(step.timeout, scope))
            return f"{step.verb} (at most {timeout}, then {step.on_timeout})"
        case WaitStep():
            what = render(step.what, scope)
            return f"wait {what} (at most {as_duration(resolve(step.timeout, scope))})"
        case CheckStep():
            return f"check {step.that.source}"
        case ControlStep() | ScaleStep():
            return _asks(step, scope)
        case WatchStep():
            lasts, most = resolve(step.lasts, scope), resolve(step.max_failures, scope)
            return f"watch for {as_duration(lasts)} how tasks end: at most {most} may fail"
        case NotifyStep():
            return "notify, on this machine: " + " ".join(render(one, scope) for one in step.argv)
        case ConfirmStep():
            return f"confirm: {render(step.question, scope)}"
        case RunStep():
            argv = " ".join(render(part, scope) for part in step.argv)
            return f"run {argv}{', once a host' if step.once_per_host else ''}"


def _asks(step: ControlStep | ScaleStep, scope: Mapping[str, object]) -> str:
    match step:
        case ScaleStep():
            if step.to is not None:
                return f"scale its pool to {resolve(step.to, scope)} processes"
            by = 0 if step.by is None else resolve(step.by, scope)
            return f"scale its pool by {by:+} processes"
        case ControlStep():
            return f"control {step.method}, to each of them by name"


def rolled(workers: int, batches: int, size: int) -> str:
    """What a roll does as a whole; no batch is of more than `size` workers."""
    whom, turns = counted(workers, "worker"), counted(batches, "batch", "batches")
    return f"roll through {whom} in {turns} of at most {size}"
