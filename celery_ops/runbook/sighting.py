"""What a plan has to see of tasks before it can say which of them a step is meant for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.fleet.tracing import Sightings
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.revocation import MOST, Wanted
from celery_ops.runbook.task_steps import RevokeStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.fleet.tracing import Tracer
    from celery_ops.model import FleetSnapshot, SeenTask
    from celery_ops.runbook.schema import Runbook, Value


async def look(
    tracer: Tracer, runbook: Runbook, params: Mapping[str, Value], snapshot: FleetSnapshot
) -> Sightings:
    """All tasks that the runbook's revoke steps may be meant for; nothing is read without one.

    Raise UsageError for a step that asks for what makes no sense, BrokerUnreachable.
    """
    wanted = [
        Wanted.of(step, {"params": params}, runbook.params)
        for step in runbook.steps
        if isinstance(step, RevokeStep)
    ]
    if not wanted:
        return Sightings()

    def is_wanted(seen: SeenTask) -> bool:
        return any(one.judge(seen) is not Truth.FAILS for one in wanted)

    only_ids = all(one.ids for one in wanted)
    ids = frozenset().union(*(one.ids for one in wanted)) if only_ids else frozenset[str]()
    looked = await tracer.look(snapshot, is_wanted, ids=ids, most=MOST)
    return replace(looked, keeps_revokes=await tracer.keeps_revokes(snapshot))
