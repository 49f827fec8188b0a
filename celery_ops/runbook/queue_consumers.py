"""The verbs `pause: mail` and `resume: queue`: consumers are taken from workers, and given back.

Each is recorded in the broker, with all that a worker said of the queue, before it is taken; so
that it can be given back as it was, to that very life of the worker: the next one consumes its
queues by itself. What is true is what workers say: a run that is taken up again looks, and takes or
gives back what is still to be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from celery_ops.errors import (
    BrokerUnreachable,
    LeaseBroken,
    LeaseLost,
    OpsError,
    PreconditionFailed,
)
from celery_ops.ports import CancelConsumer, Question
from celery_ops.runbook import queue_judges, queue_plans
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.judges import Seen
from celery_ops.runbook.queue_returns import Returns
from celery_ops.runbook.recall import PAUSE_QUEUE, RESUME_QUEUE
from celery_ops.runbook.steps import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.model import FleetSnapshot, Incarnation, TakenRecord, Worker
    from celery_ops.ports import Broker
    from celery_ops.runbook.recall import Act
    from celery_ops.runbook.schema import QueueStep
    from celery_ops.runbook.stage import Stage

LOOKS_EVERY = 2.0
"""Seconds between two looks at who joins while a queue is kept paused."""
_KEPT_TIMEOUT = 30.0
_GIVE_BACK_TIMEOUT = 60.0
_LOOKED_AT = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES)
_UNKNOWN = "unknown whether"


class Pauses:
    """The queues that a run has paused. They are kept so while it lasts: who joins is paused too.

    `owed` is what it has recorded and not cleared, as far as this process knows; `given_up` are
    queues that could not be given back when it was tried.
    """

    def __init__(self, stage: Stage, broker: Broker) -> None:
        self.owed: dict[str, TakenRecord] = {}
        self.given_up: set[str] = set()
        self.returned: list[str] = []
        """Queues that were given back since the run did not come through."""
        self.unreturned: dict[str, TakenRecord] = {}
        """What could not be given back, by whatever run it was taken."""
        self._stage = stage
        self._returns = Returns(stage, broker)
        self._kept: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def queues(self) -> tuple[str, ...]:
        """Those that are owed back."""
        return tuple(sorted({one.paused for one in self.owed.values() if one.paused is not None}))

    def recollect(self, taken: Iterable[TakenRecord]) -> int:
        """What an interrupted run has paused, of the broker's records of this run; how many."""
        self.owed = {one.key: one for one in taken if one.paused is not None}
        return len(self.owed)

    async def pause(self, step: QueueStep) -> str:
        """Take the queue from everybody; say from whom. Raise PreconditionFailed or StepFailed."""
        queue = self._queue(step)
        past = self._past(step.id, queue)
        told = _told(past)
        is_last = self._is_last(queue)
        if told is not None and is_last and not self._taken_from(queue):
            says = "was given back by somebody else: it is taken anew"
            self._stage.say(queue, says, step.id)
            told, past = None, []
        if told is None:
            told = await self._take_from_all(step, queue, is_new=not past)
        if is_last:
            self._keep(queue, step.id)
        return told

    async def resume(self, step: QueueStep) -> str:
        """Give the queue back to all from whom it was taken, as it was; say to whom.

        Raise PreconditionFailed where nothing is to be given back, or StepFailed.
        """
        stage, queue = self._stage, self._queue(step)
        await self._let_go(queue)
        past = self._past(step.id, queue)
        told = _told(past)
        if told is not None:
            return told
        snapshot = await stage.look()
        records = queue_plans.owed(step, queue, snapshot, {"params": stage.params})
        if not records:
            if not past:
                raise PreconditionFailed(queue_plans.not_paused(queue))
            says = "nothing is left to give back"
            stage.effects.conclude(step.id, queue, Result.DONE, says)
            return f"{queue}: {says}"
        timeout = _GIVE_BACK_TIMEOUT if step.timeout is None else stage.value(step.timeout)
        failed = await self._give_back(step.id, queue, records, snapshot, timeout, is_new=not past)
        if failed:
            raise StepFailed(failed)
        return f"{queue} is resumed: {self._returns.said}"

    async def put_right(self, step: str, queue: str) -> None:
        """Give back what this run has taken of it. It is `given_up` where that cannot be done;
        raise BrokerUnreachable where it can be another time.
        """
        records = [one for one in self.owed.values() if one.paused == queue]
        snapshot = await self._stage.look()
        failed = await self._give_back(
            step, queue, records, snapshot, _GIVE_BACK_TIMEOUT, is_new=True
        )
        if not failed:
            self.returned.append(queue)
        elif not self._stage.effects.away:
            self.given_up.add(queue)

    async def stop(self) -> None:
        """Look for nobody any more: what is begun is ended first."""
        async with self._turn:
            self._kept.clear()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None

    # --- taking ---

    async def _take_from_all(self, step: QueueStep, queue: str, *, is_new: bool) -> str:
        stage = self._stage
        snapshot = await stage.look()
        seen = queue_judges.consumers(queue, snapshot)
        if is_new:
            hindered = queue_plans.pause_refusals(queue, snapshot)
            if hindered:
                raise PreconditionFailed("; ".join(hindered))
        timeout = DEFAULT_TIMEOUT if step.timeout is None else stage.value(step.timeout)
        until = stage.clock.monotonic() + timeout
        told: list[Incarnation] = []
        refused = await self._take(step.id, queue, _known(seen.workers), told)
        while True:
            judge = queue_judges.NobodyConsumes(queue, stage.clock.now(), told)
            came = await stage.watch.until(
                judge,
                worker=None,
                timeout=max(0.0, until - stage.clock.monotonic()),
                safe=True,
                progress=lambda says: stage.say(queue, says, step.id),
            )
            if not judge.newcomers or came.too_late:
                break
            refused |= await self._take(step.id, queue, judge.newcomers, told)
        if came.seen is Seen.DONE:
            names = (
                ", ".join(sorted(self._taken_from(queue))) or "nobody: none consumed it any more"
            )
            says = f"{came.says}: taken from {names}"
            stage.effects.conclude(step.id, queue, Result.DONE, says)
            return f"{queue} is paused: taken from {names}"
        replied = "".join(f" ({name} replied: {says})" for name, says in refused.items())
        says = f"not paused: {came.says}{replied}"
        stage.effects.conclude(step.id, queue, Result.FAILED, says)
        raise StepFailed(f"{queue}: {says}")

    async def _take(
        self, step: str, queue: str, workers: Sequence[Worker], told: list[Incarnation]
    ) -> dict[str, str]:
        """Intend it, record it, and tell each. Errors replied, by worker; who may not have got it
        is not among those who were `told`.
        """
        if not workers:
            return {}
        effects = self._stage.effects
        names = ", ".join(worker.name for worker in workers)
        effects.intend(
            step,
            queue,
            f"cancel_consumer {queue} to {names}",
            expect="nobody consumes it, and it stays so",
            undo=f"add_consumer {queue}, as each had declared it, to {names}",
            verb=PAUSE_QUEUE,
        )
        for worker in workers:
            for declared in worker.consuming.value if worker.consuming is not None else ():
                if declared.name == queue:
                    record = effects.paused(worker, declared)
                    await effects.take_down(record)
                    self.owed[record.key] = record
        sent = [ControlAction(worker.name, CancelConsumer(queue)) for worker in workers]
        refused = await effects.control(sent)
        told += [
            worker.incarnation
            for worker in workers
            if worker.incarnation is not None
            and not refused.get(worker.name, "").startswith(_UNKNOWN)
        ]
        return refused

    def _taken_from(self, queue: str) -> list[str]:
        return [one.worker for one in self.owed.values() if one.paused == queue]

    # --- keeping ---

    def _keep(self, queue: str, step: str) -> None:
        self._kept[queue] = step
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_all())

    async def _let_go(self, queue: str) -> None:
        async with self._turn:
            self._kept.pop(queue, None)

    async def _keep_all(self) -> None:
        """While the broker or the lease is away, it is tried again."""
        while True:
            await self._stage.clock.sleep(LOOKS_EVERY)
            async with self._turn:
                try:
                    if self._kept and not self._stage.brake.paused:
                        await self._look_for_newcomers()
                except (Aborted, LeaseBroken):
                    return
                except (BrokerUnreachable, LeaseLost):
                    continue
                except OpsError as error:
                    self._stage.say(None, f"who joins is not paused any more: {error.says}")
                    return

    async def _look_for_newcomers(self) -> None:
        stage = self._stage
        snapshot = await stage.surveyor.refresh(questions=_LOOKED_AT, timeout=1.0)
        for queue, step in self._kept.items():
            joined = _known(queue_judges.consumers(queue, snapshot).workers)
            if not joined:
                continue
            told: list[Incarnation] = []
            await self._take(step, queue, joined, told)
            came = await stage.watch.until(
                queue_judges.NobodyConsumes(queue, stage.clock.now(), told),
                worker=None,
                timeout=_KEPT_TIMEOUT,
                safe=False,
                progress=lambda _: None,
            )
            names = ", ".join(worker.name for worker in joined)
            result = Result.DONE if came.seen is Seen.DONE else Result.FAILED
            says = f"{names} had begun to consume it: {came.says}"
            stage.effects.conclude(step, queue, result, says)

    # --- giving back ---

    async def _give_back(
        self,
        step: str,
        queue: str,
        records: Sequence[TakenRecord],
        snapshot: FleetSnapshot,
        timeout: float,
        *,
        is_new: bool,
    ) -> str:
        """Why it failed of some; empty: all is given back."""
        effects = self._stage.effects
        if is_new:
            names = ", ".join(record.worker for record in records)
            effects.intend(
                step,
                queue,
                f"add_consumer {queue}, as each had declared it, to {names}",
                expect=f"each consumes {queue}",
                undo=None,
                verb=RESUME_QUEUE,
            )
        failed = await self._returns.of(records, snapshot, step, timeout)
        for record in records:
            if record.worker in failed:
                self.unreturned[record.key] = record
            else:
                self.owed.pop(record.key, None)
                self.unreturned.pop(record.key, None)
        says = "; ".join(f"{name} {why}" for name, why in failed.items())
        says = f"not given back: {says}" if failed else self._returns.said
        effects.conclude(step, queue, Result.FAILED if failed else Result.DONE, says)
        return f"{queue}: {says}" if failed else ""

    # --- what the journal tells ---

    def _queue(self, step: QueueStep) -> str:
        if step.queue is None:
            raise ValueError("the language requires a queue here")
        return self._stage.value(step.queue)

    def _past(self, step: str, queue: str) -> list[Act]:
        acts = []
        while (act := self._stage.recall.next(step, queue)) is not None:
            acts.append(act)
        return acts

    def _is_last(self, queue: str) -> bool:
        """No executor that died had begun to resume the queue later on."""
        acts = [act.verb for act in self._stage.recall.acts if act.target == queue]
        verbs = [verb for verb in acts if verb in {PAUSE_QUEUE, RESUME_QUEUE}]
        return not verbs or verbs[-1] == PAUSE_QUEUE


def _known(workers: Iterable[Worker]) -> tuple[Worker, ...]:
    """Those that may be told, and of which it is known which life it is: only that can be given
    anything back.
    """
    may_be = (one for one in workers if queue_judges.may_be_told(one))
    return tuple(worker for worker in may_be if worker.incarnation is not None)


def _told(past: Sequence[Act]) -> str | None:
    """What the journal says came of it; None: nothing for certain. Raise StepFailed."""
    outcomes = [act.outcome for act in past if act.outcome is not None]
    for outcome in outcomes:
        if outcome.result is Result.DONE:
            return f"{past[0].target}: {outcome.says}"
    if outcomes:
        raise StepFailed(f"{past[0].target}: {outcomes[-1].says}")
    return None
