"""What a run tells every operator through the broker: that it runs, and how it ended; and what they
tell it there: that they broke its lease.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked
from celery_ops.errors import BrokerUnreachable
from celery_ops.model import RunRecord

if TYPE_CHECKING:
    from celery_ops.model import Holder
    from celery_ops.ports import Broker, Clock
    from celery_ops.runbook.conclusion import Course
    from celery_ops.runbook.plan import Plan


class Notice:
    """One run's record among all that the broker keeps."""

    def __init__(self, plan: Plan, broker: Broker, clock: Clock) -> None:
        self._plan = plan
        self._broker = broker
        self._clock = clock
        self._broken_by = ""

    async def begins(self, *, resumes: bool) -> None:
        """Tell that it runs. Who broke its lease before it was resumed stays told."""
        if resumes:
            await self._learn()
        await self._write(self._record())

    async def ended(self, course: Course) -> None:
        """Tell how it ended; and still who broke its lease, if that was before it could be seen."""
        await self._learn()
        await self._write(
            replace(
                self._record(),
                ended_at=self._clock.now(),
                state=course.state.value,
                says=masked(course.says),
            )
        )

    async def broken_by(self) -> str:
        """Who broke the lease that was lost, and when; empty: nobody did. Raise
        BrokerUnreachable.
        """
        before = self._broken_by
        await self._look()
        return self._broken_by if self._broken_by != before else ""

    async def _learn(self) -> None:
        try:
            await self._look()
        except BrokerUnreachable:
            return

    async def _look(self) -> None:
        for record in await self._broker.noted_runs():
            if record.run == self._plan.run:
                self._broken_by = record.broken_by
                return

    async def _write(self, record: RunRecord) -> None:
        """A broker that does not take it down is no reason to fail: the journal tells."""
        try:
            await self._broker.note_run(record)
        except BrokerUnreachable:
            return

    def _record(self) -> RunRecord:
        plan = self._plan
        return RunRecord(
            run=plan.run,
            runbook=plan.runbook,
            operator=plan.operator,
            params=tuple((name, masked(value)) for name, value in plan.params.items()),
            began_at=plan.at,
            broken_by=self._broken_by,
        )


async def break_lease(broker: Broker, holder: Holder, *, by: str, clock: Clock) -> bool:
    """Take the lease from its holder, who is told by whom. False: it is not theirs any more.

    Raise BrokerUnreachable; nothing was changed then.
    """
    noted = {one.run: one for one in await broker.noted_runs()}
    record = noted.get(holder.run) or RunRecord(
        holder.run, holder.what, holder.operator, (), holder.since
    )
    said = f"{by} at {clock.now():%Y-%m-%d %H:%M:%S} UTC"
    return await broker.break_lease(holder, replace(record, broken_by=said))
