"""How the steps that are about tasks are planned, on what was seen of these tasks. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.fleet.endings import Endings
from celery_ops.runbook import resending, revocation
from celery_ops.runbook.task_steps import RetryStep, RevokeStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.fleet.tracing import Sightings
    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.plan import PlannedStep, PlannedTask
    from celery_ops.runbook.schema import Runbook


@dataclass(frozen=True, slots=True)
class Made:
    """A step as it is planned, the tasks that it is about, and what has to be known of it."""

    planned: PlannedStep
    tasks: tuple[PlannedTask, ...]
    refusals: Sequence[str]
    hazards: Sequence[str]
    irreversible: str


def plan(
    step: RevokeStep | RetryStep,
    runbook: Runbook,
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
    *,
    traced: Sightings,
    ended: Mapping[str, Endings],
    workers: Sequence[str],
) -> Made:
    """`traced` is where tasks are that are revoked, `ended` what was found of those that are sent
    again, by step; `workers` are those that are told of a revoke.
    """
    match step:
        case RevokeStep():
            to_revoke = revocation.Wanted.of(step, scope, runbook.params)
            chosen = revocation.choose(step, to_revoke, traced)
            return Made(
                revocation.planned(step, chosen, workers, scope),
                chosen.tasks,
                revocation.obstacles(step, chosen, traced, snapshot, scope),
                revocation.hazards(step, chosen, traced, snapshot),
                revocation.IRREVERSIBLE,
            )
        case RetryStep():
            wanted = resending.Wanted.of(step, scope, runbook.params)
            found = ended.get(step.id, Endings())
            choice = resending.choose(step, wanted, found, snapshot)
            return Made(
                resending.planned(step, choice, snapshot),
                choice.tasks,
                resending.obstacles(choice, found),
                resending.hazards(wanted, choice, found, snapshot),
                resending.IRREVERSIBLE,
            )
