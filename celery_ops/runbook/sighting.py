"""What a plan has to see of tasks before it can say which of them a step is meant for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.fleet import endings
from celery_ops.fleet.endings import Endings
from celery_ops.fleet.tracing import Sightings
from celery_ops.runbook import resending, revocation
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.leaving_out import is_left_out
from celery_ops.runbook.task_steps import RetryStep, RevokeStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.fleet.tracing import Tracer
    from celery_ops.model import FleetSnapshot, SeenTask
    from celery_ops.ports import Broker, Clock, Results
    from celery_ops.runbook.plan import Where
    from celery_ops.runbook.schema import Runbook, Value


async def look(
    tracer: Tracer, runbook: Runbook, params: Mapping[str, Value], snapshot: FleetSnapshot
) -> Sightings:
    """All tasks that the runbook's revoke steps may be meant for; nothing is read without one.

    Raise UsageError for a step that asks for what makes no sense, BrokerUnreachable.
    """
    wanted = [
        revocation.Wanted.of(step, {"params": params}, runbook.params)
        for step in runbook.steps
        if isinstance(step, RevokeStep)
    ]
    if not wanted:
        return Sightings()

    def is_wanted(seen: SeenTask) -> bool:
        return any(one.judge(seen) is not Truth.FAILS for one in wanted)

    only_ids = all(one.ids for one in wanted)
    ids = frozenset().union(*(one.ids for one in wanted)) if only_ids else frozenset[str]()
    looked = await tracer.look(snapshot, is_wanted, ids=ids, most=revocation.MOST)
    return replace(looked, keeps_revokes=await tracer.keeps_revokes(snapshot))


class EndingsLook:
    """Looks for what the retry steps of a runbook may be meant for; likewise."""

    def __init__(
        self, broker: Broker, tracer: Tracer, results: Results | None, clock: Clock, where: Where
    ) -> None:
        self._broker = broker
        self._tracer = tracer
        self._results = results
        self._clock = clock
        self._where = where

    async def look(
        self, runbook: Runbook, params: Mapping[str, Value], snapshot: FleetSnapshot
    ) -> dict[str, Endings]:
        """By the ids of the steps. Raise UsageError or BrokerUnreachable."""
        return {
            step.id: await self._of(
                resending.Wanted.of(step, {"params": params}, runbook.params), snapshot
            )
            for step in runbook.steps
            if isinstance(step, RetryStep) and not is_left_out(step, params)
        }

    async def _of(self, wanted: resending.Wanted, snapshot: FleetSnapshot) -> Endings:
        if self._results is None:
            return Endings(unread=resending.unread(self._where))
        if self._broker.store is None:
            return Endings(unread="tasks cannot be sent to this kind of broker here")
        now = self._clock.now()
        meant = endings.Meant(
            judge=lambda id_, stored: wanted.judge(id_, stored, now),
            name=lambda id_, stored: wanted.name(id_, stored.ended),
            ids=wanted.chosen.ids,
            most=resending.MOST,
            first=wanted.limit is not None,
        )
        return await endings.look(
            self._tracer, self._broker, self._results, self._clock, snapshot, meant
        )
