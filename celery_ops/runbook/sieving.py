"""What a run parks since a release does not know it: begun by one step, ended by another or by the
end of the run, and told at its end with the command that gives it back.

While somebody still sends such messages the step that ends it puts that off to the end of the run:
workers would discard them, and whatever watches their failures would count them.

Where workers cannot be made to consume in another queue's place (any broker but Redis), what waits
is put aside by its own, twice: before they are switched, and after.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import LeaseHeld, OpsError
from celery_ops.model import HELD
from celery_ops.model.holding import HOLDS, held_of, through
from celery_ops.ports import AddConsumer, Transfer
from celery_ops.runbook import queue_judges, unknown_tasks
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.carrying import Carrier
from celery_ops.runbook.events import Owed, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.probes import listed
from celery_ops.runbook.recall import UNDO
from celery_ops.runbook.releasing import Release
from celery_ops.runbook.sieve import Sieve, switched
from celery_ops.runbook.unknown_tasks import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.model import FleetSnapshot, StoredMessage, TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.plan import PlannedSieve
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.task_steps import ReleaseStep, SieveStep

STILL_SENDS = 30.0
"""Seconds: who has sent one since is likely to send more; whoever has watched for less cannot tell.
"""
END_TIMEOUT = 60.0
"""Seconds, for workers to consume their own queues again, at the end of a run that failed."""


class Sieving:
    """That of one run: there is one at most."""

    def __init__(self, stage: Stage, broker: Broker, hands: Callable[..., Effects]) -> None:
        self._stage = stage
        self._broker = broker
        self._hands = hands
        self._sieve: Sieve | None = None
        self._queues: tuple[str, ...] = ()
        self._put_off: ReleaseStep | None = None
        self._aside: dict[str, dict[str, StoredMessage]] = {}
        """What this process has put aside, by place and id: a look would mark it."""

    async def begin(self, step: SieveStep) -> str:
        """What came of it."""
        planned = self._planned
        if planned is None:
            return ""
        if planned.idle:
            says = f"nothing is parked: {planned.idle}"
            self._stage.effects.conclude(planned.step, None, Result.SKIPPED, says)
            return ""
        beside = self._broker.beside(HOLDS)
        if beside is None:
            return await self._put_aside(planned, planned.step)
        sieve = Sieve(self._stage, planned, self._broker, beside, self._hands)
        try:
            await sieve.begin(self._stage.value(step.timeout))
        except LeaseHeld as held:
            says = f"{planned.name} is not parked: {held.says}"
            self._stage.effects.conclude(planned.step, planned.name, Result.FAILED, says)
            return says
        self._sieve = sieve
        return ""

    async def end(self, step: ReleaseStep) -> str:
        """Workers consume their own queues again; what is parked stays so. Where such messages
        still come, this is put off. Raise StepFailed.
        """
        still = self._still_come()
        if still:
            self._put_off = step
            says = f"{still}: parking goes on, to the end of the run"
            self._stage.say(None, says, step.id)
            return ""
        return await self._end(step)

    async def end_at_last(self) -> str:
        """Where it was put off. Raise StepFailed."""
        return "" if self._put_off is None else await self._end(self._put_off)

    async def _end(self, step: ReleaseStep) -> str:
        planned = self._planned
        if planned is None or planned.idle:
            return ""
        if self._broker.beside(HOLDS) is None:
            await self._put_aside(planned, step.id)
        else:
            await self._release(step.id, planned, self._stage.value(step.timeout))
        return "; ".join(await self._told())

    async def give_back(self) -> str:
        """The same at the end of a run that did not come to that step; why it failed."""
        planned = self._planned
        if planned is None or planned.idle or self._broker.beside(HOLDS) is None:
            return ""
        if not switched(await self._broker.taken(), self._stage.plan.run):
            return ""
        self._stage.brake.heed()
        try:
            await self._release(f"{UNDO}{planned.step}", planned, END_TIMEOUT)
        except (StepFailed, OpsError) as error:
            return error.says
        return ""

    async def stop(self) -> None:
        """Nothing is carried on any more: the process ends."""
        if self._sieve is not None:
            self._queues = tuple(dict.fromkeys((*self._queues, *self._sieve.queues)))
            await self._sieve.stop()

    async def left(self) -> tuple[Owed, ...]:
        """What is parked, queue by queue, and the command that gives it back. Raise
        BrokerUnreachable.
        """
        planned = self._planned
        if planned is None or planned.idle:
            return ()
        left = []
        for queue in self._places(planned):
            place = held_of(queue, self._stage.plan.run)
            waiting = await unknown_tasks.left(self._broker, place)
            moved = Waiting.of(self._aside.get(place, {}).values())
            waiting = moved if moved.count == waiting.count else waiting
            if waiting.count:
                says = f"{waiting.in_words} of {queue}, {planned.name}, in {place}"
                left.append(Owed(says, f"celery-ops queue unpark {place}"))
        return tuple(left)

    # --- the parts ---

    @property
    def _planned(self) -> PlannedSieve | None:
        return next(iter(self._stage.plan.sieves), None)

    def _places(self, planned: PlannedSieve) -> tuple[str, ...]:
        seen = self._sieve.queues if self._sieve is not None else self._queues
        return tuple(dict.fromkeys((*planned.queues, *seen)))

    async def _release(self, step: str, planned: PlannedSieve, timeout: float) -> None:
        stage = self._stage
        records = switched(await self._broker.taken(), stage.plan.run)
        beside = self._broker.beside(HOLDS)
        if not records or beside is None:
            await self.stop()
            return
        self._queues = tuple(
            dict.fromkeys((*self._queues, *(queue.name for one in records for queue in one.queues)))
        )
        if stage.recall.next(step, planned.name) is None:
            stage.effects.intend(
                step, planned.name, f"end the parking of {planned.name}",
                expect="workers consume their own queues, and all but what is parked waits there",
                undo=None, verb="release",
            )  # fmt: skip
        await self.stop()
        records = switched(await self._broker.taken(), stage.plan.run)
        snapshot = await stage.look()
        records = await self._owed(records, snapshot)
        # First, so that no queue is left without a consumer while the other one is taken away.
        await stage.effects.control(
            [
                ControlAction(record.worker, AddConsumer(record.queues[0]))
                for record in records
                if _consumes_in_its_place(record, snapshot)
            ]
        )
        try:
            says = await Release(stage, step, self._broker, beside).of(records, timeout=timeout)
        except (StepFailed, OpsError) as error:
            stage.effects.conclude(step, planned.name, Result.FAILED, error.says)
            raise
        stage.effects.conclude(step, planned.name, Result.DONE, says)

    async def _owed(self, records: list[TakenRecord], snapshot: FleetSnapshot) -> list[TakenRecord]:
        """Without those of workers that are not there: they consume their own once they start."""
        owed = []
        for record in records:
            worker = snapshot.worker(record.worker)
            is_gone = record.kind == HELD and (
                snapshot.counted if worker is None else queue_judges.is_absent(worker, snapshot)
            )
            if is_gone:
                await self._stage.effects.clear(record)
            else:
                owed.append(record)
        return owed

    async def _told(self) -> list[str]:
        left = [f"{one.says} ({one.mend}, once workers know it)" for one in await self.left()]
        still = self._senders()
        if still:
            tasks = shlex.join(sorted(self._sieve.tasks if self._sieve is not None else ()))
            left.append(
                f"{listed(still)} sent some until now: workers DISCARD what comes from now on; stop"
                f" that, or celery-ops task hold {tasks}"
            )
        discarded = Counter(self._sieve.discarded if self._sieve is not None else ())
        if discarded:
            names = ", ".join(f"{says} ({count})" for says, count in sorted(discarded.items()))
            total = counted(discarded.total(), "message")
            left.append(f"{total} that a worker got as it started DISCARDED by it: {names}")
        return left

    def _senders(self) -> list[str]:
        """Who has sent some a moment ago."""
        if self._sieve is None:
            return []
        since = self._stage.clock.monotonic() - STILL_SENDS
        return sorted(name for name, at in self._sieve.sent.items() if at > since)

    def _still_come(self) -> str:
        """That such messages come, or may do so; empty: they do not."""
        senders = self._senders()
        if senders:
            return f"{listed(senders)} sent some until now"
        has_just_begun = (
            self._sieve is not None
            and self._stage.recall.resumes
            and self._stage.clock.monotonic() - self._sieve.began < STILL_SENDS
        )
        return "whether such messages still come is not known yet" if has_just_begun else ""

    async def _put_aside(self, planned: PlannedSieve, step: str) -> str:
        """Of each queue, what waits there now; how many. Raise StepFailed."""
        stage, run, total = self._stage, self._stage.plan.run, 0
        for queue in planned.queues:
            past = stage.recall.next(step, queue)
            if past is not None and past.outcome is not None:
                continue
            place = held_of(queue, run)
            if past is None:
                stage.effects.intend(
                    step, queue, f"put {planned.name} aside, in {place}",
                    expect="it waits there, where nobody consumes",
                    undo=f"celery-ops queue unpark {place}", verb="hold",
                )  # fmt: skip
            aside = self._aside.setdefault(place, {})

            def goes(message: StoredMessage, aside: dict[str, StoredMessage] = aside) -> bool:
                if not planned.is_unknown(message.task):
                    return False
                aside[message.id or str(len(aside))] = replace(message, raw=b"", body=None)
                return True

            ticket = f"{run} {step} {queue}"
            carrier = Carrier(stage, step, "put aside")
            done = await carrier.transfer(Transfer(ticket, queue, place, choose=goes))
            total += done
            says = f"{counted(done, 'message')} put aside"
            stage.effects.conclude(step, queue, Result.DONE, says)
            await carrier.patiently(partial(stage.effects.forget, ticket))
        return f"{counted(total, 'message')} of {planned.name} put aside" if total else ""


def _consumes_in_its_place(record: TakenRecord, snapshot: FleetSnapshot) -> bool:
    """That worker gets what goes through the run, and can be told; nobody has drained it."""
    worker = snapshot.worker(record.worker)
    if worker is None or record.queue is None or worker.taken is not None:
        return False
    consumed = worker.queues or ()
    is_switched = through(record.queue) in consumed and record.queue not in consumed
    return is_switched and queue_judges.may_be_told(worker)
