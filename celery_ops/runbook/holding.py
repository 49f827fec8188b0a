"""The verb `hold: task`: no task of these names begins any more, until somebody releases them.

Workers are switched from their queues to queues of ours, which they consume in their place; what
comes into their own queues is carried on by this run, but for the messages of the tasks that are
held: these are parked. So nothing runs which this run has not let through, however quick a worker
is. Without this run workers get nothing of these queues: nothing is lost, and nothing held runs.

It goes on for a night, and others have to change the fleet meanwhile. So it has the lease of the
context only until all workers are switched. What it does from then on is under a lease of its own,
which whoever releases takes from it.
"""

from __future__ import annotations

import asyncio
import math
import shlex
from typing import TYPE_CHECKING

from celery_ops.errors import (
    BrokerUnreachable,
    LeaseBroken,
    LeaseHeld,
    LeaseLost,
    OpsError,
    PreconditionFailed,
)
from celery_ops.model import HELD, HOLD, TakenRecord
from celery_ops.model.holding import HOLDS, held_of, hold_of
from celery_ops.ports import Question
from celery_ops.runbook import held_queues, holding_plans, queue_judges
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.forwarding import Forwarding
from celery_ops.runbook.holding_plans import Held
from celery_ops.runbook.judges import Seen
from celery_ops.runbook.queue_switch import Switch
from celery_ops.runbook.recall import UNDO
from celery_ops.runbook.releasing import Release

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Broker
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.lease_keeper import LeaseKeeper
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.task_steps import HoldStep

LOOKS_EVERY = 0.5
"""Seconds between two looks at who consumes one of these queues itself; of a large fleet, where one
takes long, more: a third of the time at most is spent with looking.
"""
NODES_EVERY = 0.1
"""Seconds between two looks at who listens, which is told by one small read."""
BETWEEN_LOOKS, BETWEEN_TRIES = 0.25, 1.0
TOLD_EVERY = 60.0
REMINDED_EVERY = 5.0
_LOOKED_AT = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES)
_REPLY_TIMEOUT = 0.5


class Holding:
    """One hold step of a run. `lease` is the context's own."""

    def __init__(
        self,
        stage: Stage,
        step: HoldStep,
        broker: Broker,
        lease: LeaseKeeper,
        hands: Callable[..., Effects],
    ) -> None:
        """`hands` makes those for a `broker` under a `keeper`."""
        beside = broker.beside(HOLDS)
        if beside is None:
            raise PreconditionFailed(holding_plans.NOT_HERE)
        self._stage = stage
        self._step = step
        self._broker = broker
        self._beside = beside
        self._lease = lease
        self._wanted = Held.of(step, {"params": stage.params})
        self._keeper = held_queues.keeper(
            stage, beside, broken_by=self._released_by, halt=self._halt
        )
        self._effects = hands(broker=beside, keeper=self._keeper)
        self._forwarding = Forwarding(
            self._effects, stage.clock, self._wanted.is_held, run=stage.plan.run,
            say=lambda says: stage.say(None, says, step.id),
        )  # fmt: skip
        self._switch = Switch(stage, self._effects, step.id, self._wanted.tasks)
        self._queues: tuple[str, ...] = ()
        self._left_out: set[str] = set()
        self._nodes: frozenset[str] = frozenset()
        self._by = ""
        """Who has released, as it ends what is said of it; empty while nobody has."""
        self._stands = False
        """The lease of the context is given back: it is held by what this run does beside."""
        self._halted: BaseException | None = None

    async def go(self) -> str:
        """Until it is released; say by whom. Raise StepFailed, PreconditionFailed or Aborted."""
        if await self._is_over():
            return self._over("released before this was resumed")
        carrying: asyncio.Task[None] | None = None
        try:
            await self._begin()
        except BaseException:
            await self._keeper.release()
            raise
        try:
            carrying = asyncio.create_task(self._forwarding.go())
            await self._until_switched(carrying)
            await self._stand()
            await self._keep(carrying)
        except (LeaseBroken, LeaseHeld) as lost:
            if not await self._is_released():
                raise StepFailed(f"{lost.says} {self._left}") from lost
        except (Aborted, StepFailed, PreconditionFailed) as ended:
            await self._end(carrying)
            failed = await self._give_back() if self._stage.brake.stage < 2 else ""
            if failed and not isinstance(ended, Aborted):
                raise StepFailed(f"{ended}; {failed}") from ended
            raise
        finally:
            await self._end(carrying)
        return self._over(f"released{self._by}")

    # --- the beginning ---

    async def _begin(self) -> None:
        """Take the lease of holds, and record that these tasks are held."""
        stage, step = self._stage, self._step
        snapshot = await stage.look()
        self._queues = holding_plans.concerned(self._wanted, snapshot)
        resumes = stage.recall.next(step.id, self._wanted.name) is not None
        if not resumes:
            hindered = holding_plans.refusals(self._queues, snapshot)
            if hindered:
                raise PreconditionFailed("; ".join(hindered))
        try:
            await self._keeper.acquire(0.0, lambda _: None, stage.brake.sleep)
        except LeaseHeld as held:
            raise PreconditionFailed(f"tasks are held already: {held.says}") from held
        if resumes:
            records = [one for one in await self._broker.taken() if one.run == stage.plan.run]
            self._switch.recollect(records)
            self._queues = tuple(dict.fromkeys((*self._queues, *_queues_of(hold_of(records)))))
            stage.say(None, "gone on with", step.id)
        else:
            stage.effects.intend(
                step.id,
                self._wanted.name,
                f"hold {self._wanted.name} in {', '.join(self._queues)}",
                expect="no worker consumes these queues; what is let through it gets elsewhere",
                undo=f"celery-ops task release {self._wanted.name}",
                verb="hold",
            )
        await self._note()
        self._forwarding.add(self._queues)

    async def _note(self) -> None:
        """Record the hold where every operator can see it."""
        record = held_queues.record(self._stage.plan, self._queues, self._wanted.tasks)
        await self._effects.take_down(record)

    async def _until_switched(self, carrying: asyncio.Task[None]) -> None:
        """Nobody consumes one of these queues, and it stays so. Raise StepFailed."""
        stage, clock = self._stage, self._stage.clock
        until = clock.monotonic() + stage.value(self._step.timeout)
        judges = {queue: self._judge(queue) for queue in self._queues}
        waits_for: dict[str, str] = dict.fromkeys(self._queues, "")
        while waits_for:
            self._check(carrying)
            try:
                snapshot = await stage.surveyor.refresh(questions=_LOOKED_AT, timeout=1.0)
                for queue in list(waits_for):
                    came = judges[queue](snapshot)
                    waits_for[queue] = came.says
                    joined = self._switch.newcomers(queue, snapshot)
                    if joined:
                        await self._switch.over(queue, joined)
                        judges[queue] = self._judge(queue)
                    elif came.seen is Seen.DONE:
                        del waits_for[queue]
                self._switch.settle(snapshot)
            except LeaseBroken:
                raise
            except (BrokerUnreachable, LeaseLost) as error:
                stage.say(None, error.says, self._step.id)
            if waits_for and clock.monotonic() > until:
                says = "; ".join(f"{queue}: {why}" for queue, why in waits_for.items())
                says = f"not held: {says}"
                stage.effects.conclude(self._step.id, self._wanted.name, Result.FAILED, says)
                raise StepFailed(says)
            await stage.brake.sleep(BETWEEN_LOOKS)

    def _judge(self, queue: str) -> queue_judges.NobodyConsumes:
        return queue_judges.NobodyConsumes(
            queue, self._stage.clock.now(), self._switch.told.get(queue, [])
        )

    async def _stand(self) -> None:
        """It is held from now on: say so, and let others change the fleet."""
        stage = self._stage
        try:
            before = holding_plans.in_workers(self._wanted, await stage.look())
        except BrokerUnreachable:
            before = "an unknown number"
        says = f"{self._wanted.name} held: no worker begins one that is sent from now on"
        if before:
            says += f"; {before} had been taken by workers before, and run"
        says += f"; celery-ops task release {shlex.join(self._wanted.tasks)} ends it"
        outcome = Outcome(Result.DONE, says)
        await self._lease.release()
        self._stands = True
        stage.journal.append(EventKind.STANDS, step=self._step.id, outcome=outcome)

    # --- for as long as it is held ---

    async def _keep(self, carrying: asyncio.Task[None]) -> None:
        """Until somebody releases, aborts, or nothing can be carried on."""
        clock = self._stage.clock
        told = reminded = clock.monotonic()
        while True:
            self._check(carrying)
            began = clock.monotonic()
            try:
                await self._look()
                if clock.monotonic() - reminded >= REMINDED_EVERY:
                    reminded = clock.monotonic()
                    await self._effects.remind()
            except LeaseBroken:
                raise
            except (BrokerUnreachable, LeaseLost):
                pass  # it is said by whoever carries on, and tried again
            if clock.monotonic() - told >= TOLD_EVERY:
                told = clock.monotonic()
                self._stage.say(None, self._so_far, self._step.id)
            await self._until_due(max(LOOKS_EVERY, 2 * (clock.monotonic() - began)))

    async def _until_due(self, seconds: float) -> None:
        """Until the next look, or until a worker is there that was not: it consumes at once."""
        until = self._stage.clock.monotonic() + seconds
        while self._stage.clock.monotonic() < until:
            await self._stage.brake.sleep(NODES_EVERY)
            try:
                nodes = await self._broker.nodes()
            except BrokerUnreachable:
                continue
            is_new = nodes is not None and not nodes <= self._nodes
            self._nodes = nodes or frozenset()
            if is_new:
                return

    async def _look(self) -> None:
        """Switch whoever consumes one of these queues itself, and new queues that somebody does."""
        stage = self._stage
        snapshot = await stage.surveyor.refresh(questions=_LOOKED_AT, timeout=_REPLY_TIMEOUT)
        now = holding_plans.concerned(self._wanted, snapshot)
        new = [
            queue
            for queue in now
            if queue not in self._queues and self._may_hold_in(queue, snapshot)
        ]
        if new:
            stage.say(None, f"workers consume {', '.join(new)}, too", self._step.id)
            self._queues = (*self._queues, *new)
            await self._note()
            self._forwarding.add(new)
        for queue in self._queues:
            joined = self._switch.newcomers(queue, snapshot)
            if joined:
                names = ", ".join(worker.name for worker in joined)
                stage.say(None, f"{names} had begun to consume {queue}", self._step.id)
                await self._switch.over(queue, joined)
        self._switch.settle(snapshot)
        await self._switch.put_right(snapshot)

    def _may_hold_in(self, queue: str, snapshot: FleetSnapshot) -> bool:
        """Of a queue that somebody has begun to consume; it is said where it cannot be."""
        if not holding_plans.expires(queue, snapshot):
            return True
        if queue not in self._left_out:
            self._left_out.add(queue)
            says = f"{queue}, which workers consume now, expires (x-expires)"
            self._stage.say(None, f"{says}: what is sent there is not held", self._step.id)
        return False

    @property
    def _so_far(self) -> str:
        return (
            f"{self._wanted.name} held: {self._forwarding.parked:,} messages parked,"
            f" {self._forwarding.passed:,} of others let through by this process"
        )

    def _check(self, carrying: asyncio.Task[None]) -> None:
        if self._halted is not None:
            raise self._halted
        if carrying.done():
            error = carrying.exception()
            raise error if error is not None else AssertionError("it goes on until cancelled")
        self._stage.brake.check(safe=True)

    def _halt(self, why: BaseException) -> None:
        self._halted = why

    # --- the end ---

    async def _is_over(self) -> bool:
        """It was begun before, and somebody has released since."""
        past = self._stage.recall.peek(self._step.id, self._wanted.name)
        if past is None:
            return False
        hold = hold_of(await self._broker.taken())
        return hold is None or hold.run != self._stage.plan.run

    async def _released_by(self) -> str:
        """Who has taken the lease of holds to release, or has done so; empty: nobody."""
        holder = await self._beside.holder()
        if holder is not None and holder.what != self._stage.plan.runbook:
            self._by = f": {holder.what}"
        if holder is not None:
            return str(holder) if self._by else ""
        hold = hold_of(await self._broker.taken())
        return "somebody" if hold is None or hold.run != self._stage.plan.run else ""

    async def _is_released(self) -> bool:
        """Whoever releases comes to the end of it, or dies and leaves that to others."""
        while True:
            try:
                records = await self._broker.taken()
                if not any((one.kind, one.run) == (HOLD, self._stage.plan.run) for one in records):
                    return True
                holder = await self._beside.holder()
                if holder is None or holder.what == self._stage.plan.runbook:
                    return False
            except BrokerUnreachable as error:
                self._stage.say(None, error.says, self._step.id)
            await self._stage.brake.sleep(BETWEEN_TRIES)

    def _over(self, says: str) -> str:
        said = f"{self._wanted.name} {says}"
        self._stage.effects.conclude(self._step.id, self._wanted.name, Result.DONE, said)
        return said

    async def _end(self, carrying: asyncio.Task[None] | None) -> None:
        if carrying is not None and not carrying.done():
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)
        await self._keeper.release()

    async def _give_back(self) -> str:
        """All as it was, as an abort means; why that failed. It waits until nobody else changes the
        fleet.
        """
        stage = self._stage
        stage.brake.heed()
        if self._stands:
            await self._lease.acquire(math.inf, self._waits, stage.brake.sleep)
        step, name = f"{UNDO}{self._step.id}", self._wanted.name
        stage.effects.intend(
            step, name, f"release {name}, and give back what was held",
            expect="workers consume their own queues, and all messages wait there",
            undo=None, verb="release",
        )  # fmt: skip
        release = Release(stage, step, self._broker, self._beside)
        try:
            records = await self._broker.taken()
            ours = [one for one in records if one.kind in {HOLD, HELD}]
            says = await release.of(ours, timeout=stage.value(self._step.timeout))
            for queue in self._queues:
                await release.unpark(held_of(queue, stage.plan.run), queue)
        except (StepFailed, OpsError) as error:
            stage.effects.conclude(step, name, Result.FAILED, error.says)
            return error.says
        stage.effects.conclude(step, name, Result.DONE, says)
        return ""

    def _waits(self, says: str) -> None:
        self._stage.say(None, f"waits to release: {says}", self._step.id)

    @property
    def _left(self) -> str:
        return f"still held: celery-ops task release {self._wanted.name}"


def _queues_of(hold: TakenRecord | None) -> Sequence[str]:
    return () if hold is None else [queue.name for queue in hold.queues]
