"""The verb `probe`, of the worker whose turn it is: it is proved that just that one runs tasks.

Celery addresses no task to a worker. Where a worker is the only one that consumes some queue, what
ends there is its own. Of a queue that it shares, probes are sent until the worker itself announces
that it has one: nothing is taken from the others, and nothing stays behind. (A private queue, made
by `add_consumer`, would: in the worker's memory until it ends, and as a binding in the broker.)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable
from celery_ops.runbook import probes
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.prober import POLL_SECONDS, Prober, Trace, ended
from celery_ops.runbook.probing import Probing
from celery_ops.runbook.schema import CurrentWorker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import TaskMessage
    from celery_ops.ports import Followed
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.probes import WayIn
    from celery_ops.runbook.schema import ProbeStep
    from celery_ops.runbook.stage import Stage

ELSEWHERE_SECONDS = 0.4
"""What left its queue so long ago, and was not announced by the worker, another one has."""
MOST_TRIES = 200
_PASSED = frozenset({Result.DONE, Result.SKIPPED})


class WorkerProbing(Prober):
    """One probe step of a roll, for the workers of a batch."""

    async def for_targets(self, targets: Sequence[Target]) -> None:
        """All of them at once; who does not prove itself says so in `failed`."""
        waiting = [target for target in targets if not self._told(target)]
        ways: dict[str, WayIn] = {}
        if waiting:
            snapshot = await self.look()
            ways = {one.name: probes.way_in(one.name, snapshot) for one in waiting}
            silent = [
                name
                for name, way in ways.items()
                if way.queue and not (way.is_only and self.is_stored(way.consumers))
            ]
            self.untold = await self.stage.task_events.switch_on(self.step.id, silent)
        await all_of([self._probe(target, ways[target.name]) for target in waiting])
        await self.stage.task_events.switch_off()

    def _told(self, target: Target) -> bool:
        """Whether the journal says how it went. What was sent and not seen to end is sent anew."""
        while (act := self.stage.recall.next(self.step.id, target.name)) is not None:
            if act.outcome is not None:
                target.failed = "" if act.outcome.result in _PASSED else act.outcome.says
                return True
        return False

    async def _probe(self, target: Target, way: WayIn) -> None:
        try:
            came = await self._until_it_runs_one(target, way)
        except BrokerUnreachable as error:
            came = Outcome(Result.UNKNOWN, f"it is not known how it ended: {error.says}")
        target.failed = "" if came.result in _PASSED else f"probe: {came.says}"
        self.stage.effects.conclude(
            self.step.id, target.name, came.result, target.failed or came.says
        )

    async def _until_it_runs_one(self, target: Target, way: WayIn) -> Outcome:
        if not way.queue:
            return Outcome(Result.FAILED, "it consumes nothing that a probe could be sent to")
        why_not = self._why_not(target, way)
        if why_not:
            return Outcome(Result.SKIPPED, f"not probed: {why_not}")
        clock, broker = self.stage.clock, self.stage.surveyor.broker
        until = clock.monotonic() + self.timeout
        for tries in itertools.count(1):
            message = self.intend(target.name, way.queue)
            async with broker.follow(message.id) as followed:
                await self.stage.effects.send(message)
                came = await self._watch(message, followed, target, way, until)
            if came is not None:
                return came
            if clock.monotonic() >= until or tries == MOST_TRIES:
                break
        sent = counted(tries, "probe")
        says = f"{sent} of {way.queue} went to others, so it is not known whether it runs tasks"
        untold = self.untold.get(target.name)
        why = f": its task events could not be switched on ({untold})" if untold else ""
        fix = "; a queue of its own would tell (worker_direct)"
        return Outcome(Result.UNKNOWN, f"{says}{why or fix}")

    def _why_not(self, target: Target, way: WayIn) -> str:
        """Why a probe would tell nothing of this worker; empty: it would."""
        worker = next((one for one in way.consumers if one.name == target.name), None)
        if self.step.optional and worker is not None and probes.knows(worker, self.task) is False:
            return f"its release does not know the task {self.task}"
        if self.step.first and way.ready != 0 and not self.stage.surveyor.broker.serves_first:
            waiting = "what waits" if way.ready is None else counted(way.ready, "message")
            return f"it would come behind {waiting} in {way.queue}"
        return ""

    async def _watch(
        self, message: TaskMessage, followed: Followed, target: Target, way: WayIn, until: float
    ) -> Outcome | None:
        """What came of one; None if another worker has it."""
        clock = self.stage.clock
        trace = Trace(clock.monotonic())
        gone: float | None = None
        while clock.monotonic() < until:
            self.stage.brake.check(safe=True)
            others = await self._hear_of(message, followed, trace, target, way)
            if trace.end is not None:
                trace.worker = target.name
                return ended(trace, trace.end, way.consumers)
            if others:
                return None
            if trace.worker or way.is_only:
                continue
            if gone is None and await self.stage.surveyor.broker.ahead_of(message) is None:
                gone = clock.monotonic()
            if gone is not None and clock.monotonic() - gone >= ELSEWHERE_SECONDS:
                return None
        where = await self.whereabouts(message)
        if not where and not trace.worker:
            return None
        where = where or f"it began at {trace.worker}, and how it ended is not known"
        within = f"not within {as_duration(self.timeout)}"
        return Outcome(Result.FAILED, f"{within}: {where}")

    async def _hear_of(
        self,
        message: TaskMessage,
        followed: Followed,
        trace: Trace,
        target: Target,
        way: WayIn,
    ) -> bool:
        """What the worker itself announces, and the result, where nobody else could have it stored.
        True: another one announces that it has it.
        """
        now = self.stage.clock.monotonic
        told = await followed.news(POLL_SECONDS)
        for news in told:
            if news.worker == target.name:
                trace.add(news, now())
        stored = await self.stored(message.id) if way.is_only and trace.end is None else None
        if stored is not None:
            trace.add(stored, now())
        return any(news.worker not in {None, target.name} for news in told)


async def probe_targets(stage: Stage, step: ProbeStep, targets: Sequence[Target]) -> None:
    """A probe in a roll: of the workers themselves, or of queues once they had their turn."""
    if step.optional and stage.plan.where.probe is None:
        return
    of = WorkerProbing if isinstance(step.queues, CurrentWorker) else Probing
    await of(stage, step).for_targets(targets)
