"""The verb `release: task`: workers consume their own queues again, as each had declared them, and
the messages that were held go back to these, before those that wait there.

It needs nothing of the run that holds, and works from any machine: what is taken stands in the
broker. It takes the lease of holds first, so that nobody carries on any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import PreconditionFailed
from celery_ops.model import HELD, HOLD, Holder
from celery_ops.model.holding import HOLDS, arrived, held_of, hold_of, through
from celery_ops.ports import IN_LINE_FOR, CancelConsumer, Question, Transfer
from celery_ops.runbook import holding_plans, queue_judges
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.carrying import Carrier, burst
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.holding_plans import Released
from celery_ops.runbook.lease_keeper import LeaseKeeper
from celery_ops.runbook.queue_returns import Returns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.task_steps import ReleaseStep

BETWEEN_LOOKS = 0.25
WHAT = "release"
"""What everybody is told that the lease of holds is held for."""
_LOOKED_AT = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES)


class Release:
    """Gives back what was taken for a hold. The lease of the context is held."""

    def __init__(self, stage: Stage, step: str, broker: Broker, beside: Broker) -> None:
        self._stage = stage
        self._step = step
        self._broker = broker
        self._beside = beside

    async def of(self, records: Sequence[TakenRecord], *, timeout: float) -> str:
        """Consumers and what waits for them; say what came of it. Raise StepFailed, when all that
        can be given back is.
        """
        stage, hold = self._stage, hold_of(records)
        held = [one for one in records if one.kind == HELD]
        queues = sorted({queue.name for record in records for queue in record.queues})
        keeper = await self._keeper(records)
        await keeper.acquire(timeout, lambda _: None, stage.brake.sleep)
        nobody_in_line = stage.clock.monotonic() + IN_LINE_FOR
        try:
            returns = Returns(stage, self._broker)
            # First: what is recorded is all that tells that somebody still consumes in its place.
            failed = await self._cancel(queues, timeout)
            ready = [one for one in held if one.worker not in failed]
            failed |= await returns.of(ready, await stage.look(), self._step, timeout)
            await stage.brake.sleep(max(0.0, nobody_in_line - stage.clock.monotonic()), safe=False)
            moved = sum([await self._carry_back(queue) for queue in queues])
            if hold is not None:
                await stage.effects.clear(hold)
        finally:
            await keeper.release()
        says = returns.said if ready else "nobody was given anything back"
        if moved:
            says += f"; {counted(moved, 'message')} on the way given back"
        if failed:
            why = "; ".join(f"{name} {why}" for name, why in sorted(failed.items()))
            raise StepFailed(f"not given back: {why}; {says}")
        return says

    async def unpark(self, place: str, queue: str, rate: float | None = None) -> int:
        """Give held messages back to their queue; how many."""
        return await self._transfer(place, queue, "given back", rate)

    async def _keeper(self, records: Sequence[TakenRecord]) -> LeaseKeeper:
        """Takes the lease of holds from whoever has it for this hold."""
        stage = self._stage
        now = await self._beside.holder()
        run, operator = (
            (records[0].run, records[0].operator) if now is None else (now.run, now.operator)
        )
        what = f"{WHAT} ({stage.plan.run}) by {stage.plan.operator}"
        return LeaseKeeper(
            self._beside.lease,
            Holder(operator, run, what, stage.clock.now()),
            stage.clock,
            stage.journal,
            broken_by=_by_nobody,
            halt=stage.brake.halt,
            takes_over=True,
        )

    async def _cancel(self, queues: Sequence[str], timeout: float) -> dict[str, str]:
        """Nobody consumes what goes through any more; who still does, when the time is over."""
        stage = self._stage
        until = stage.clock.monotonic() + timeout
        while True:
            snapshot = await stage.surveyor.refresh(questions=_LOOKED_AT, timeout=1.0)
            left = [
                (worker, through(queue))
                for queue in queues
                for worker in queue_judges.consumers(through(queue), snapshot).workers
            ]
            if not left:
                return {}
            if stage.clock.monotonic() > until:
                return {worker.name: f"still consumes {name}" for worker, name in left}
            await stage.effects.control(
                [
                    ControlAction(worker.name, CancelConsumer(name))
                    for worker, name in left
                    if queue_judges.may_be_told(worker)
                ]
            )
            await stage.brake.sleep(BETWEEN_LOOKS, safe=False)

    async def _carry_back(self, queue: str) -> int:
        """How many; those that came first are to be served first, so they go last."""
        places = (arrived(queue), through(queue))
        return sum([await self._transfer(place, queue, "on the way back") for place in places])

    async def _transfer(self, place: str, queue: str, does: str, rate: float | None = None) -> int:
        ticket = f"{self._stage.plan.run} {self._step} {place}"
        carrier = Carrier(self._stage, self._step, does, rate=rate)
        done = await carrier.transfer(
            Transfer(ticket, place, queue, first=True, portion=burst(rate))
        )
        await carrier.patiently(lambda: self._stage.effects.forget(ticket))
        return done


class Releasing:
    """One release step of a run."""

    def __init__(self, stage: Stage, step: ReleaseStep, broker: Broker) -> None:
        beside = broker.beside(HOLDS)
        if beside is None:
            raise PreconditionFailed(holding_plans.NOT_HERE)
        self._stage = stage
        self._step = step
        self._broker = broker
        self._wanted = Released.of(step, {"params": stage.params})
        self._release = Release(stage, step.id, broker, beside)
        self._places = {move.queue: move.to for move in stage.plan.moves if move.step == step.id}
        """Where held messages wait, and where they came from."""

    async def go(self) -> str:
        """Do it and say what came of it. Raise StepFailed or PreconditionFailed."""
        consumers = await self._consumers()
        return "; ".join((consumers, *await self._messages()))

    async def _consumers(self) -> str:
        stage, step = self._stage, self._step
        records = [one for one in await self._broker.taken() if one.kind in {HOLD, HELD}]
        target = ", ".join(records[0].tasks) if records else "tasks"
        for record in records:  # queues may have been added since the plan was made
            self._places |= {held_of(one.name, record.run): one.name for one in record.queues}
        if not records:
            if not stage.recall.knows(step.id):
                raise PreconditionFailed(holding_plans.NOTHING_HELD)
            return "nothing is held any more"
        if stage.recall.next(step.id, target) is None:
            stage.effects.intend(
                step.id, target, f"release {target}: workers consume their own queues again",
                expect="each consumes what it had declared, and nobody what goes through",
                undo=None, verb="release",
            )  # fmt: skip
        try:
            says = await self._release.of(records, timeout=stage.value(step.timeout))
        except StepFailed as failed:
            stage.effects.conclude(step.id, target, Result.FAILED, failed.says)
            raise
        stage.effects.conclude(step.id, target, Result.DONE, says)
        return f"{target} released: {says}"

    async def _messages(self) -> list[str]:
        stage, step, wanted = self._stage, self._step, self._wanted
        said = []
        for place, queue in self._places.items():
            past = stage.recall.next(step.id, place)
            if past is not None and past.outcome is not None:
                said.append(past.outcome.says)
                continue
            count = await Carrier(stage, step.id, "").size(place)
            if wanted.keeps or (past is None and not count):
                said += [f"{counted(count, 'message')} stay parked in {place}"] if count else []
                continue
            if past is None:
                stage.effects.intend(
                    step.id, place, f"move what is parked to {queue}",
                    expect=f"they wait in {queue}, to be served first", undo=None, verb="unpark",
                )  # fmt: skip
            done = await self._release.unpark(place, queue, wanted.rate)
            says = f"{counted(done, 'message')} that were held given back to {queue}"
            stage.effects.conclude(step.id, place, Result.DONE, says)
            said.append(says)
        return said


async def _by_nobody() -> str:
    return ""
