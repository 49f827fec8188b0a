"""Parks messages that a release does not know, beside the steps of a run that switch workers to it.

As while tasks are held, workers consume queues of ours in place of their own, and what comes into
their own is carried on by this run. Here workers are restarted meanwhile, all of them. One that
starts is told at once: it looks for its first message only after it listens to what it is told. It
finds nothing in its own queues, since they are kept empty, and is not the first in line there.

Those that run the release to be left know its tasks. That one of them cannot be switched is no
harm, and none is waited for in vain.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, LeaseBroken, LeaseHeld, LeaseLost
from celery_ops.model import HELD, HOLD, TakenRecord, Targets
from celery_ops.model.holding import hold_of, own_names
from celery_ops.ports import CancelConsumer, Question
from celery_ops.runbook import held_queues, queue_judges, unknown_tasks
from celery_ops.runbook.events import Result
from celery_ops.runbook.forwarding import Forwarding
from celery_ops.runbook.queue_switch import Switch, consume_through

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from celery_ops.model import FleetSnapshot, StoredMessage
    from celery_ops.ports import Broker
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.plan import PlannedSieve
    from celery_ops.runbook.stage import Stage

NODES_EVERY = 0.005
"""Seconds between two looks at who listens; four times as long as one of them takes, at least."""
LOOKS_EVERY = 0.5
TOLD_FIRST, TOLD_LATER, TOLD_FOR = 0.004, 0.05, 5.0
"""Seconds between two orders to a worker that starts, at first and later, and how long it gets
them: it is seen a moment before it listens.
"""
AWAITED_FOR = 60.0
"""Seconds for which one that was killed is awaited at a time."""
REMINDED_EVERY = 5.0
BETWEEN_LOOKS = 0.25
_LOOKED_AT = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES)
_REPLY_TIMEOUT, _MEET_TIMEOUT = 0.5, 0.2
_DISCARDED = "NotRegistered"
"""How the event begins of a message that a worker has discarded."""


class Sieve:
    """One of a run, from `begin` to `stop`. What it has parked and switched stays as it is then."""

    def __init__(
        self,
        stage: Stage,
        planned: PlannedSieve,
        broker: Broker,
        beside: Broker,
        hands: Callable[..., Effects],
    ) -> None:
        """`beside` is the broker under the lease of holds; `hands` makes effects for it."""
        self.queues: tuple[str, ...] = ()
        self.discarded: list[str] = []
        """What workers announced that they have discarded: the exception's text."""
        self.sent: dict[str, float] = {}
        """Who has sent what is unknown, and when it was seen last, on the clock of the run."""
        self.tasks: set[str] = set()
        """The names of what is unknown, as far as it was seen to come."""
        self.began = stage.clock.monotonic()
        self._stage = stage
        self._planned = planned
        self._broker = broker
        self._beside = beside
        self._keeper = held_queues.keeper(
            stage, beside, broken_by=self._ended_by, halt=self._end_early
        )
        self._effects = hands(broker=beside, keeper=self._keeper)
        self._forwarding = Forwarding(
            self._effects, stage.clock, self._is_unknown, run=stage.plan.run, say=self._say
        )
        self._switch = Switch(
            stage, self._effects, planned.step, (planned.name,), unknown_to=planned.release
        )
        self._switching = asyncio.Lock()
        self._nodes: frozenset[str] = frozenset()
        self._greeted: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, timeout: float) -> str:
        """Until workers that can be told are switched, at most `timeout` seconds; what came of it.
        Raise LeaseHeld: somebody else holds tasks.
        """
        stage, planned = self._stage, self._planned
        past = stage.recall.next(planned.step, planned.name)
        taken = await self._broker.taken()
        hold = hold_of(taken)
        if hold is not None and hold.run != stage.plan.run:
            raise LeaseHeld(held_queues.in_words(hold))
        if past is not None and past.outcome is not None and hold is None:
            return "was ended before this was resumed"
        records = switched(taken, stage.plan.run)
        await self._keeper.acquire(0.0, lambda _: None, stage.brake.sleep)
        try:
            await self._begin(records, resumes=past is not None)
        except BaseException:
            await self._keeper.release()
            raise
        for beside in (self._carry(), self._greet(), self._watch(), self._listen()):
            self._start(beside)
        says = await self._until_switched(timeout)
        if past is None or past.outcome is None:
            stage.effects.conclude(planned.step, planned.name, Result.DONE, says)
        return says

    async def stop(self) -> None:
        """Nothing is carried on any more, and nobody is switched."""
        beside = (*self._tasks, *self._greeted.values())
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self._tasks = []
        await self._keeper.release()

    # --- the beginning ---

    async def _begin(self, records: list[TakenRecord], *, resumes: bool) -> None:
        stage, planned = self._stage, self._planned
        snapshot = await stage.look()
        hold = hold_of(records)
        before = () if hold is None else [queue.name for queue in hold.queues]
        found = (*planned.queues, *before, *unknown_tasks.concerned(snapshot))
        self.queues = tuple(dict.fromkeys(found))
        self._switch.recollect(records)
        if resumes:
            self._say("gone on with")
        else:
            stage.effects.intend(
                planned.step, planned.name,
                f"park {planned.name} of {', '.join(self.queues) or 'no queue yet'}; whoever starts"
                " is told to consume in another queue's place",
                expect="workers get the others by way of this run",
                undo="all of it is given back, and what is parked stays so", verb="hold",
            )  # fmt: skip
        await self._note()
        for target in stage.targets.values():
            if not target.planned.is_beat:
                await self._switch.foresee(target.planned, self.queues)
        self._forwarding.add(self.queues)
        self._nodes = await self._broker.nodes() or frozenset()

    async def _note(self) -> None:
        """Record it where every operator can see it."""
        planned = self._planned
        record = held_queues.record(
            self._stage.plan, self.queues, (planned.name,), unknown_to=planned.release
        )
        await self._effects.take_down(record)

    async def _until_switched(self, timeout: float) -> str:
        """Nobody that can be told consumes its own queues; who does that cannot be told."""
        stage = self._stage
        until = stage.clock.monotonic() + timeout
        while True:
            snapshot = await stage.surveyor.refresh(questions=_LOOKED_AT, timeout=1.0)
            await self._switch_all(snapshot)
            left = self._consuming(snapshot)
            ours = [name for name, may_be_told in left.items() if may_be_told]
            behind = sorted(self._forwarding.behind)
            is_late = stage.clock.monotonic() > until
            if not (ours or behind) or not self._tasks or is_late:
                break
            await stage.brake.sleep(BETWEEN_LOOKS)
        says = f"{self._planned.name} is parked from now on"
        if behind:
            says += f"; more waits in {', '.join(behind)} than was carried on so far"
        if left:
            names = ", ".join(sorted(left))
            says += f"; {names} cannot be switched now, and goes on with what it gets by itself"
        return says

    # --- beside the steps ---

    def _start(self, beside: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(beside)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    async def _carry(self) -> None:
        await self._forwarding.go()

    async def _greet(self) -> None:
        """Tell whoever has just begun to listen."""
        clock = self._stage.clock
        while True:
            began = clock.monotonic()
            with suppress(BrokerUnreachable):
                nodes = await self._broker.nodes() or frozenset()
                for name in nodes - self._nodes - self._greeted.keys():
                    self._begin_to_tell(name, TOLD_FOR)
                self._nodes = nodes
            await clock.sleep(max(NODES_EVERY, 4 * (clock.monotonic() - began)))

    def _await_killed(self, snapshot: FleetSnapshot) -> None:
        """One that was killed is bound still: its next life is not seen to come, so it is told in
        advance.
        """
        for name in self._nodes - self._greeted.keys():
            worker = snapshot.worker(name)
            if worker is not None and not worker.answers and not worker.busy_solo:
                self._begin_to_tell(name, AWAITED_FOR)

    def _begin_to_tell(self, name: str, lasts: float) -> None:
        target = self._stage.targets.get(name)
        if target is None and not self._is_ours(name):
            return
        self._switch.begins_anew(name)
        known = None if target is None else target.planned.queues
        if known is None:
            telling = self._meet(name, lasts)
        else:
            own = own_names(one.name for one in known)
            telling = self._tell(name, [one for one in self.queues if one in own], lasts)
        self._greeted[name] = task = asyncio.create_task(telling)
        task.add_done_callback(lambda _: self._greeted.pop(name, None))

    async def _tell(self, name: str, queues: list[str], lasts: float) -> None:
        """Again and again, until it says of each queue that it has heard."""
        clock, pause = self._stage.clock, TOLD_FIRST
        until = clock.monotonic() + lasts
        deaf = set(queues)

        async def order(queue: str) -> None:
            if name in await self._effects.replies(CancelConsumer(queue), [name]):
                deaf.discard(queue)
                await self._effects.replies(consume_through(queue), [name])

        told: set[asyncio.Task[None]] = set()
        try:
            while deaf and clock.monotonic() < until:
                for queue in deaf:
                    told.add(task := asyncio.create_task(order(queue)))
                    task.add_done_callback(told.discard)
                await clock.sleep(pause)
                pause = min(pause * 1.3, TOLD_LATER)
        finally:
            # They end by themselves within a second; what they failed of is seen by the next look.
            await asyncio.gather(*told, return_exceptions=True)

    async def _meet(self, name: str, lasts: float) -> None:
        """One of which nobody knows what it consumes has to say that first."""
        clock, since = self._stage.clock, self._stage.clock.now()
        until = clock.monotonic() + lasts
        while clock.monotonic() < until:
            with suppress(BrokerUnreachable, LeaseLost):
                snapshot = await self._stage.surveyor.refresh(
                    questions=_LOOKED_AT, to=Targets((name,)), timeout=_MEET_TIMEOUT
                )
                await self._switch_all(snapshot)
                worker = snapshot.worker(name)
                told = None if worker is None else worker.consuming
                if told is not None and told.at >= since:
                    return
            await clock.sleep(TOLD_FIRST)

    async def _watch(self) -> None:
        """Whoever is missed by that, and new queues; and what the broker may have forgotten."""
        clock = self._stage.clock
        reminded = began = clock.monotonic()
        while True:
            await clock.sleep(max(LOOKS_EVERY, 2 * (clock.monotonic() - began)))
            began = clock.monotonic()
            with suppress(BrokerUnreachable, LeaseLost):
                snapshot = await self._stage.surveyor.refresh(
                    questions=_LOOKED_AT, timeout=_REPLY_TIMEOUT
                )
                await self._switch_all(snapshot)
                await self._switch.put_right(snapshot)
                self._await_killed(snapshot)
                if clock.monotonic() - reminded >= REMINDED_EVERY:
                    reminded = clock.monotonic()
                    await self._effects.remind()

    async def _listen(self) -> None:
        """What workers discard all the same, where task events are on."""
        while True:
            with suppress(BrokerUnreachable):
                async with self._broker.follow(None) as followed:
                    while True:
                        for news in await followed.news(1.0):
                            if news.error.startswith(_DISCARDED):
                                self.discarded.append(f"{news.worker}: {news.error}")
            await self._stage.clock.sleep(1.0)

    async def _switch_all(self, snapshot: FleetSnapshot) -> None:
        now = unknown_tasks.concerned(snapshot)
        new = [queue for queue in now if queue not in self.queues]
        if new:
            self._say(f"workers consume {', '.join(new)}, too")
            self.queues = (*self.queues, *new)
            await self._note()
            self._forwarding.add(new)
        async with self._switching:  # else one that two looks have found is told twice
            for queue in self.queues:
                joined = self._switch.newcomers(queue, snapshot)
                if joined:
                    await self._switch.over(queue, joined)
            self._switch.settle(snapshot)

    # --- what it goes by ---

    def _consuming(self, snapshot: FleetSnapshot) -> dict[str, bool]:
        """Who consumes one of these queues itself, and whether it can be told not to."""
        return {
            worker.name: queue_judges.may_be_told(worker)
            for queue in self.queues
            for worker in queue_judges.consumers(queue, snapshot).workers
        }

    def _is_ours(self, name: str) -> bool:
        scope = self._stage.plan.where.scope
        return not scope or any(fnmatchcase(name, one) for one in scope)

    def _is_unknown(self, message: StoredMessage) -> bool:
        is_unknown = self._planned.is_unknown(message.task)
        if is_unknown:
            self.sent[message.origin or "somebody"] = self._stage.clock.monotonic()
            self.tasks |= {message.task} if message.task else set()
        return is_unknown

    def _say(self, says: str) -> None:
        self._stage.say(None, says, self._planned.step)

    # --- the end ---

    async def _ended_by(self) -> str:
        """Who has taken the lease of holds, or released; empty: nobody."""
        holder = await self._beside.holder()
        if holder is not None:
            return "" if holder.run == self._stage.plan.run else str(holder)
        hold = hold_of(await self._broker.taken())
        return "somebody" if hold is None or hold.run != self._stage.plan.run else ""

    def _end_early(self, why: BaseException) -> None:
        """Somebody else has released: the run goes on without it."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._say(f"{why}: {self._planned.name} is not parked any more")

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeaseBroken | LeaseHeld):
            self._end_early(error)
        elif error is not None:
            self._stage.brake.halt(error)


def switched(records: Iterable[TakenRecord], run: str) -> list[TakenRecord]:
    """What is recorded of a hold of that run."""
    return [one for one in records if one.run == run and one.kind in {HOLD, HELD}]
