"""What is left of a runbook when there is no broker: services are stopped and started by their
supervisors, and nothing is proved by anybody else. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import loads
from celery_ops.runbook.schema import (
    CheckStep,
    ConfirmStep,
    Roll,
    WaitStep,
    WorkerStep,
    WorkerVerb,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.runbook.schema import InnerStep, Runbook, Step

BY_SUPERVISOR = frozenset({WorkerVerb.STOP, WorkerVerb.START, WorkerVerb.RESTART})
SAYS = (
    "EMERGENCY, without the broker: no drain, so running tasks may be LOST; no guard, so queues may"
    " go unconsumed; no worker is asked whether it came back; no lease, so nobody else is kept out,"
    " and nobody else sees what is stopped"
)
_HEAD = """\
name: {name}
summary: "EMERGENCY, without the broker: by the supervisors alone."
risk: high
params:
  workers: {{type: workers, help: "Which workers, by the services of the configuration"}}
steps:
"""
_STEP = """\
  - {verb}: ${{{{ params.workers }}}}
    timeout: 2m
"""


class EmergencyLibrary(Library):
    """The same runbooks, each reduced to what needs no broker."""

    def get(self, name: str) -> Runbook:
        """Raise PreconditionFailed for one of which nothing is left."""
        return reduced(super().get(name))


def reduced(runbook: Runbook) -> Runbook:
    """Its stops, starts and restarts, of all named workers at once. Raise PreconditionFailed where
    it does anything else than that, and drain, ask and check.
    """
    verbs = []
    for step in _flat(runbook):
        match step:
            case WorkerStep(verb=verb) if verb in BY_SUPERVISOR:
                verbs.append(verb)
            case WorkerStep(verb=WorkerVerb.DRAIN) | CheckStep() | WaitStep() | ConfirmStep():
                continue
            case _:
                raise _not_without(runbook, f"step {step.id} cannot be done")
    if not verbs:
        raise _not_without(runbook, "nothing of it can be done")
    head = _HEAD.format(name=runbook.name)
    return loads(head + "".join(_STEP.format(verb=verb) for verb in verbs), runbook.file)


def _flat(runbook: Runbook) -> Iterator[Step | InnerStep]:
    for step in runbook.steps:
        yield from step.steps if isinstance(step, Roll) else (step,)


def _not_without(runbook: Runbook, why: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"{runbook.name} needs the broker: {why} by the supervisors alone.",
        fix="Without a broker there are: celery-ops worker stop|start|restart NAME --emergency",
    )
