"""The verb `probe` with `priorities`: several probes of each priority are sent to a queue in one
step, and the order in which its workers receive them is compared with what its broker promises.

Where it cannot be shown that is said, and is no failure: idle workers take each as it comes. What
contradicts the promise has to happen in every round: a message that a worker gives back meanwhile
changes places once.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.model import TaskState, WorkerState
from celery_ops.ports import Priorities
from celery_ops.runbook import priorities, probes
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.priorities import ROUNDS, Probed
from celery_ops.runbook.prober import POLL_SECONDS, Prober

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import FleetSnapshot, TaskMessage, TaskNews, Worker

_NONE = Priorities()
_PROVED = "priorities are served in order"


@dataclass(slots=True)
class _Case:
    """One queue: who consumes it, what was sent, and what was heard of that."""

    queue: str
    consumers: tuple[Worker, ...]
    priorities: Priorities = _NONE
    came: Outcome | None = None
    broken: list[str] = field(default_factory=list)
    sent: dict[str, Probed] = field(default_factory=dict)
    messages: dict[str, TaskMessage] = field(default_factory=dict)
    received: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    ended: set[str] = field(default_factory=set)
    failed: str = ""

    @property
    def is_heard(self) -> bool:
        return self.ended == self.sent.keys()

    def begin(self, sent: dict[str, Probed]) -> None:
        self.sent = sent
        self.received.clear()
        self.ended.clear()

    def hear(self, news: TaskNews) -> None:
        if news.state is TaskState.RECEIVED and news.worker is not None:
            self.received[news.worker].append(news.id)
        if news.state.is_end:
            self.ended.add(news.id)
            if news.state is not TaskState.SUCCESS:
                why = news.error or news.state.value.lower()
                self.failed = f"priority {self.sent[news.id].level} at {news.worker}: {why}"

    def judge(self, rounds: int) -> None:
        """What is known once a round was heard to its end."""
        seen = priorities.judge(self.priorities, self.sent, self.received)
        if self.failed:
            self.came = Outcome(Result.FAILED, f"a probe failed, of {self.failed}")
        elif seen.broken:
            self.broken.append(seen.broken)
        elif seen.proved:
            self.came = Outcome(Result.DONE, f"{_PROVED}: {seen.proved}")
        if self.came is None and rounds == ROUNDS:
            self.came = self._in_the_end()

    def _in_the_end(self) -> Outcome:
        if len(self.broken) == ROUNDS:
            first = self.priorities.levels[0]
            says = f"priorities are not served in order, of which {first} comes first"
            return Outcome(Result.FAILED, f"{says}: {self.broken[-1]}, in each of {ROUNDS} rounds")
        if self.broken:
            return _unproved(f"{self.broken[-1]}, but not in each of {ROUNDS} rounds")
        return _unproved("its workers took what came as it came: nothing had to wait for them")


class PriorityProbing(Prober):
    """The part of a probe step that is about the order of priorities, of all its queues at once."""

    @property
    def _step(self) -> str:
        """How the journal calls it."""
        return f"{self.step.id} priorities"

    async def of_queues(self) -> str:
        """What came of it, in words. Raise StepFailed."""
        snapshot = await self.look()
        cases = [await self._case(queue, snapshot) for queue in self.queues]
        await self._go([case for case in cases if case.came is None])
        told = {case.queue: case.came for case in cases if case.came is not None}
        failed = [
            f"{name}: {one.says}" for name, one in told.items() if one.result is Result.FAILED
        ]
        if failed:
            raise StepFailed("; ".join(failed))
        return _summed_up(told)

    async def _case(self, queue: str, snapshot: FleetSnapshot) -> _Case:
        """What the journal tells of it, and else what can be tried."""
        case = _Case(queue, snapshot.consumers_of(queue))
        while (act := self.stage.recall.next(self._step, queue)) is not None:
            case.came = act.outcome
        if case.came is None:
            try:
                case.priorities = await self.stage.effects.store.priorities(queue)
                unsuitable = priorities.unsuitable(case.priorities, case.consumers)
            except (PreconditionFailed, BrokerUnreachable) as error:
                unsuitable = error.says
            if why := unsuitable or _in_the_way(case, snapshot):
                self._end(case, why)
        return case

    def _end(self, case: _Case, why: str) -> None:
        case.came = _unproved(why)
        self.stage.effects.conclude(self._step, case.queue, case.came.result, case.came.says)

    async def _go(self, cases: Sequence[_Case]) -> None:
        names = dict.fromkeys(worker.name for case in cases for worker in case.consumers)
        self.untold = await self.stage.task_events.switch_on(self.step.id, names)
        for case in cases:
            mute = [one.name for one in case.consumers if one.name in self.untold]
            for name in mute[:1]:
                says = f"the task events of {name} could not be switched on ({self.untold[name]})"
                self._end(case, says)
        until = self.stage.clock.monotonic() + self.timeout
        for rounds in range(1, ROUNDS + 1):
            left = [case for case in cases if case.came is None]
            if left:
                await self._round(left, rounds, until)
        await self.stage.task_events.switch_off()

    async def _round(self, cases: Sequence[_Case], rounds: int, until: float) -> None:
        clock, brake = self.stage.clock, self.stage.brake
        try:
            async with self.stage.surveyor.broker.follow(None) as followed:
                for case in cases:
                    await self._send(case)
                of = {id_: case for case in cases for id_ in case.sent}
                while not all(case.is_heard for case in cases):
                    left = until - clock.monotonic()
                    if left <= 0:
                        break
                    brake.check(safe=True)
                    for news in await followed.news(min(left, POLL_SECONDS)):
                        if news.id in of:
                            of[news.id].hear(news)
        except BrokerUnreachable as error:
            for case in cases:
                case.came = _unproved(error.says)
        for case in cases:
            if case.came is None and case.is_heard:
                case.judge(rounds)
            elif case.came is None:
                case.came = await self._unheard(case)
            said = case.came or _unproved(case.broken[-1] if case.broken else "nothing had to wait")
            self.stage.effects.conclude(self._step, case.queue, said.result, said.says)

    async def _send(self, case: _Case) -> None:
        levels = priorities.sending(case.priorities, case.consumers)
        what = counted(len(levels), "probe")
        at = self.stage.effects.intend(
            self._step,
            case.queue,
            f"send {self.task} to {case.queue}, {what} of the priorities"
            f" {', '.join(map(str, dict.fromkeys(levels)))} at once",
            expect="they are received in the order of their priorities",
            undo=None,
            verb="probe priorities",
        )
        case.begin({str(uuid.uuid4()): Probed(level, n) for n, level in enumerate(levels)})
        case.messages = {
            id_: replace(self.message(id_, case.queue, at), priority=one.level, tag=id_)
            for id_, one in case.sent.items()
        }
        compose = self.stage.effects.store.compose
        stored = {id_: compose(message) for id_, message in case.messages.items()}
        try:
            await self.stage.effects.send_once(stored, queue=case.queue)
        except PreconditionFailed as error:
            case.sent = {}
            case.came = _unproved(error.says)

    async def _unheard(self, case: _Case) -> Outcome:
        """What came of a queue of which not every probe was heard to end in time."""
        within = f"not within {as_duration(self.timeout)}"
        waiting = await self._waiting(case)
        if waiting and await self._is_idle(case):
            # Still there behind the look: they were not taken in that moment.
            waiting &= await self._waiting(case)
            if waiting:
                says = f"nobody takes messages of priority {', '.join(map(str, sorted(waiting)))}"
                return Outcome(Result.FAILED, f"{says}: probes wait while the workers are idle")
        if waiting:
            return _unproved(f"{within}: probes of {', '.join(map(str, sorted(waiting)))} wait")
        missing = counted(len(case.sent) - len(case.ended), "probe")
        return _unproved(f"{within}: of {missing} no worker told")

    async def _waiting(self, case: _Case) -> set[int]:
        """The levels of which one that was not heard of is seen in the queue."""
        heard = case.ended.union(*case.received.values())
        last = {one.level: id_ for id_, one in case.sent.items() if id_ not in heard}
        ahead_of = self.stage.surveyor.broker.ahead_of
        return {
            level for level, id_ in last.items() if await ahead_of(case.messages[id_]) is not None
        }

    async def _is_idle(self, case: _Case) -> bool:
        snapshot = await self.stage.look()
        seen = [snapshot.worker(worker.name) for worker in case.consumers]
        return all(
            one is not None
            and one.active is not None
            and one.reserved is not None
            and not one.active.value
            and not one.reserved.value
            for one in seen
        )


def _summed_up(told: Mapping[str, Outcome]) -> str:
    """The queues in which the order was proved, and the others by what was said of them."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name, one in told.items():
        alike[_PROVED if one.says.startswith(_PROVED) else one.says].append(name)
    return "; ".join(f"{says} ({', '.join(names)})" for says, names in alike.items())


def _unproved(why: str) -> Outcome:
    """No failure: nothing speaks against it."""
    return Outcome(Result.DONE, f"order not proved: {why}")


def _in_the_way(case: _Case, snapshot: FleetSnapshot) -> str:
    """Why what is announced would not tell who has received what."""
    if not case.consumers:
        return probes.unconsumed(case.queue, snapshot)
    for worker in case.consumers:
        if not worker.mine:
            return f"the task events of {worker.name} are not ours to switch on"
        if worker.state is WorkerState.CONFLICT:
            return f"two processes call themselves {worker.name}"
    return ""
