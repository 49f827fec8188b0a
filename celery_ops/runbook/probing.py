"""The verb `probe`, of queues: a harmless task is sent to each, and its end is proved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.runbook import probes
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.priority_probing import PriorityProbing
from celery_ops.runbook.prober import POLL_SECONDS, Prober, Trace, ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import TaskMessage, Worker
    from celery_ops.ports import Followed
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.recall import Act
    from celery_ops.runbook.schema import ProbeStep
    from celery_ops.runbook.stage import Stage

LINGER_SECONDS = 0.3
"""A result says seldom whose it is; the event that does comes along with it, if it comes."""
_SENT_AS = re.compile(r" as ([0-9a-f-]{36})$")


@dataclass(frozen=True, slots=True)
class _Asked:
    """One probe of one queue, and what the journal tells of it: how it went, or what was sent."""

    target: str
    queue: str
    came: Outcome | None
    earlier: Act | None


class Probing(Prober):
    """One probe step of a run."""

    def __init__(self, stage: Stage, step: ProbeStep) -> None:
        super().__init__(stage, step)
        if not self.queues:
            raise PreconditionFailed(probes.no_queue(step))
        self._consumers: dict[str, tuple[Worker, ...]] = {}
        self._unconsumed: dict[str, str] = {}
        self._only: dict[str, str] = {}
        """The worker that consumes a queue alone, where that is known."""

    async def of_queues(self) -> str:
        """Each of the step's queues, all at once; what came of it. Raise StepFailed."""
        failed = await self._go({queue: (queue,) for queue in self.queues})
        if failed:
            raise StepFailed("; ".join(failed.values()))
        says = f"{self.task} ended in {', '.join(self.queues)}"
        if self.stage.value(self.step.priorities):
            says += f"; {await PriorityProbing(self.stage, self.step).of_queues()}"
        return says

    async def for_targets(self, targets: Sequence[Target]) -> None:
        """All of them for each of these targets of a roll; who fails says so in `failed`."""
        failed = await self._go({target.name: self.queues for target in targets})
        for target in targets:
            target.failed = failed.get(target.name, "")

    async def _go(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Each target's queues, one after the other; the first that failed, by target."""
        failed: dict[str, str] = {}
        asked = {
            name: [self._recollected(name, queue) for queue in queues]
            for name, queues in wanted.items()
        }
        if any(one.came is None for several in asked.values() for one in several):
            await self._make_them_tell()

        async def probe(name: str) -> None:
            for one in asked[name]:
                came = one.came or await self._probe(one)
                if came.result is not Result.DONE:
                    failed[name] = f"probe of {one.queue}: {came.says}"
                    return

        await all_of([probe(name) for name in asked])
        await self.stage.task_events.switch_off()
        return failed

    def _recollected(self, target: str, queue: str) -> _Asked:
        """What was begun without an end belongs to the same queue: the next one is not begun."""
        earlier = None
        while (act := self.stage.recall.next(self.step.id, target)) is not None:
            if act.outcome is not None:
                return _Asked(target, queue, act.outcome, None)
            earlier = act
        return _Asked(target, queue, None, earlier)

    async def _make_them_tell(self) -> None:
        """See who consumes what, and switch task events on where no result is to be expected."""
        snapshot = await self.look()
        silent: dict[str, None] = {}
        for queue in self.queues:
            consumers = self._consumers[queue] = snapshot.consumers_of(queue)
            self._unconsumed[queue] = probes.unconsumed(queue, snapshot)
            self._only[queue] = probes.only_consumer(queue, snapshot)
            if not self.is_stored(consumers):
                silent |= dict.fromkeys(worker.name for worker in consumers if worker.mine)
        self.untold = await self.stage.task_events.switch_on(self.step.id, silent)

    async def _probe(self, one: _Asked) -> Outcome:
        consumers = self._consumers[one.queue]
        came: Outcome | None = None
        try:
            if one.earlier is not None:
                came = await self._observed(one.queue, one.earlier, consumers)
            if came is None and not consumers:
                came = Outcome(Result.FAILED, self._unconsumed[one.queue])
            if came is None:
                came = await self._sent(one, consumers)
        except BrokerUnreachable as error:
            came = Outcome(Result.UNKNOWN, f"it is not known how it ended: {error.says}")
        self.stage.effects.conclude(self.step.id, one.target, came.result, came.says)
        return came

    async def _sent(self, one: _Asked, consumers: Sequence[Worker]) -> Outcome:
        message = self.intend(one.target, one.queue)
        async with self.stage.surveyor.broker.follow(message.id) as followed:
            await self.stage.effects.send(message)
            return await self._until_its_end(message, followed, consumers)

    async def _observed(self, queue: str, act: Act, consumers: Sequence[Worker]) -> Outcome | None:
        """What came of one that was sent before the run was interrupted; None if nobody knows: then
        another one does no harm.
        """
        found = _SENT_AS.search(act.intent)
        if found is None or act.at is None:
            return None
        message = self.message(found[1], queue, act.at)
        async with self.stage.surveyor.broker.follow(message.id) as followed:
            stored = await self.stored(message.id)
            if not (stored and stored.state.is_end) and not await self.whereabouts(message):
                return None
            return await self._until_its_end(message, followed, consumers, found_again=True)

    async def _until_its_end(
        self,
        message: TaskMessage,
        followed: Followed,
        consumers: Sequence[Worker],
        *,
        found_again: bool = False,
    ) -> Outcome:
        clock = self.stage.clock
        trace = Trace(clock.monotonic(), found_again)
        until = trace.since + self.timeout
        while trace.end is None and (left := until - clock.monotonic()) > 0:
            self.stage.brake.check(safe=True)
            await self.hear(message, followed, trace, min(left, POLL_SECONDS))
        where = ""
        if trace.end is None:
            where = await self.whereabouts(message)
            await self.hear(message, followed, trace, 0.0)
        elif not (trace.worker or self._only[message.queue]):
            await self.hear(message, followed, trace, LINGER_SECONDS)
        trace.worker = trace.worker or self._only[message.queue]
        if trace.end is None:
            return self._not_ended(message, trace, where, consumers)
        return ended(trace, trace.end, consumers)

    def _not_ended(
        self, message: TaskMessage, trace: Trace, where: str, consumers: Sequence[Worker]
    ) -> Outcome:
        within = f"not within {as_duration(self.timeout)}"
        if trace.retried:
            where = f"{where or 'it is to be tried again'}, after it failed: {trace.retried}"
        if where:
            return Outcome(Result.FAILED, f"{within}: {where}")
        if trace.began is not None:
            began = as_duration(trace.began - trace.since)
            says = f"it began at {trace.worker} after {began} and runs no more"
        else:
            says = f"it was taken from {message.queue}"
        return Outcome(
            Result.UNKNOWN, f"{says}, and how it ended is not known: {self._silence(consumers)}"
        )

    def _silence(self, consumers: Sequence[Worker]) -> str:
        """What did not tell of the end, and what would."""
        results = self.stage.results
        if self.results_away:
            told = self.results_away
        elif results is None:
            told = "the context names no result backend that is read here (`results`)"
        elif probes.ignores_result(self.task, consumers):
            told = f"{self.task} ignores its result"
        else:
            where = self.stage.plan.where.results
            told = f"{where} has no result of it (do the workers store theirs there?)"
        others = [worker.name for worker in consumers if not worker.mine]
        untold = [f"task events of {name} could not be switched on ({why})"
                  for name, why in self.untold.items()]  # fmt: skip
        if others:
            untold.append(f"those of {probes.listed(others)} are not ours to switch on")
        if not untold:
            untold.append("no task event told of it")
        return "; ".join([told, *untold])
