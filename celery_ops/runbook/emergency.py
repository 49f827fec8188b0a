"""What is left of a runbook when there is no broker: services are stopped and started by their
supervisors, and nothing is proved by anybody else. Pure.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import loads
from celery_ops.runbook.schema import (
    CheckStep,
    ConfirmStep,
    Constant,
    Reference,
    Roll,
    WaitStep,
    WorkerStep,
    WorkerVerb,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery_ops.runbook.schema import InnerStep, Runbook, Slot, Step

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
"""
_PARAM = """\
  {name}: {{type: workers, help: "Which workers, by the services of the configuration"}}
"""
_STEP = """\
  - {verb}: {workers}
    timeout: 2m
"""


class EmergencyLibrary(Library):
    """The same runbooks, each reduced to what needs no broker."""

    def get(self, name: str) -> Runbook:
        """Raise PreconditionFailed for one of which nothing is left."""
        return reduced(super().get(name))


def reduced(runbook: Runbook) -> Runbook:
    """Its stops, starts and restarts, each of all its workers at once; which ones has to be said,
    where they are a parameter. Raise PreconditionFailed where it does anything else than that, and
    drain, ask and check; or does it only on a condition, since few can be told without a broker.
    """
    kept: list[tuple[WorkerVerb, Slot[str]]] = []
    for step in _flat(runbook):
        match step:
            case WorkerStep(verb=verb, target=Constant() | Reference() as workers) if (
                verb in BY_SUPERVISOR
            ):
                if step.when is not None:
                    raise _not_without(runbook, f"the `when` of step {step.id} cannot be told")
                kept.append((verb, workers))
            case WorkerStep(verb=WorkerVerb.DRAIN) | CheckStep() | WaitStep() | ConfirmStep():
                continue
            case _:
                raise _not_without(runbook, f"step {step.id} cannot be done")
    if not kept:
        raise _not_without(runbook, "nothing of it can be done")
    return loads(_source(runbook.name, kept), runbook.file)


def _flat(runbook: Runbook) -> Iterator[Step | InnerStep]:
    """What is done to the worker whose turn it is in a roll is done to all of the roll's."""
    for step in runbook.steps:
        if not isinstance(step, Roll):
            yield step
            continue
        for one in step.steps:
            yield replace(one, target=step.workers) if isinstance(one, WorkerStep) else one


def _source(name: str, kept: Sequence[tuple[WorkerVerb, Slot[str]]]) -> str:
    params = {of.path[-1]: None for _, of in kept if isinstance(of, Reference)}
    lines = [_HEAD.format(name=name)]
    lines += ["params:\n", *(_PARAM.format(name=param) for param in params)] if params else ()
    lines += ["steps:\n", *(_STEP.format(verb=verb, workers=_written(of)) for verb, of in kept)]
    return "".join(lines)


def _written(workers: Slot[str]) -> str:
    if isinstance(workers, Reference):
        return str(workers)
    return json.dumps(workers.value, ensure_ascii=False)


def _not_without(runbook: Runbook, why: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"{runbook.name} needs the broker: {why} by the supervisors alone.",
        fix="Without a broker there are: celery-ops worker stop|start|restart NAME --emergency",
    )
