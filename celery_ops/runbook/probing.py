"""The verb `probe`: a harmless task is sent to a queue, and its end is proved.

By its result, or by the events of the worker that runs it; neither is guessed from the other's
silence. What nobody tells of is not known, which is no success.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable, PreconditionFailed, ResultsUnreachable
from celery_ops.model import TaskMessage, TaskState
from celery_ops.ports import Question
from celery_ops.runbook import probes
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.worker_verbs import all_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from celery_ops.model import TaskNews, Worker
    from celery_ops.ports import Followed
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.recall import Act
    from celery_ops.runbook.schema import ProbeStep
    from celery_ops.runbook.stage import Stage

POLL_SECONDS = 0.1
LINGER_SECONDS = 0.3
"""A result says seldom whose it is; the event that does comes along with it, if it comes."""
LOOK_TIMEOUT = 2.0
_ASKED = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES, Question.REGISTERED)
_SENT_AS = re.compile(r" as ([0-9a-f-]{36})$")


@dataclass(slots=True)
class _Trace:
    """What is known of one probe; moments are the run's own, in seconds."""

    sent: float
    worker: str = ""
    began: float | None = None
    runtime: float | None = None
    retried: str = ""
    end: TaskNews | None = None
    ended: float = 0.0

    def add(self, news: TaskNews, now: float) -> None:
        self.worker = news.worker or self.worker
        if news.state is TaskState.STARTED and self.began is None:
            self.began = now
        if news.state is TaskState.RETRY:
            self.retried = news.error
        if news.state.is_end and self.end is None:
            self.end, self.ended = news, now
        self.runtime = news.runtime if self.runtime is None else self.runtime

    def timing(self) -> str:
        """How long it waited and ran, as far as that was told."""
        took = self.ended - self.sent
        if self.runtime is None:
            return f"{as_duration(took)} after it was sent"
        waited = max(0.0, took - self.runtime)
        return f"after {as_duration(waited)} of waiting and {as_duration(self.runtime)} of running"


@dataclass(frozen=True, slots=True)
class _Asked:
    """One probe of one queue, and what the journal tells of it: how it went, or what was sent."""

    target: str
    queue: str
    came: Outcome | None
    earlier: Act | None


class Probing:
    """One probe step of a run."""

    def __init__(self, stage: Stage, step: ProbeStep) -> None:
        """Raise PreconditionFailed without a probe that is configured."""
        probe = stage.plan.where.probe
        if probe is None:
            raise PreconditionFailed(probes.UNCONFIGURED)
        scope = {"params": stage.params}
        self._stage = stage
        self._step = step
        self._task = probe.task
        self._queues = probes.queues_of(step, probe, scope)
        self._timeout = probes.timeout_of(step, probe, scope)
        self._consumers: dict[str, tuple[Worker, ...]] = {}
        self._unconsumed: dict[str, str] = {}
        self._untold: dict[str, str] = {}
        self._results_away = ""

    async def of_queues(self) -> str:
        """Each of the step's queues, all at once; what came of it. Raise StepFailed."""
        failed = await self._go({queue: (queue,) for queue in self._queues})
        if failed:
            raise StepFailed("; ".join(failed.values()))
        return f"{self._task} ended in {', '.join(self._queues)}"

    async def for_targets(self, targets: Sequence[Target]) -> None:
        """All of them for each of these targets of a roll; who fails says so in `failed`."""
        failed = await self._go({target.name: self._queues for target in targets})
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
        await self._stage.task_events.switch_off()
        return failed

    def _recollected(self, target: str, queue: str) -> _Asked:
        """What was begun without an end belongs to the same queue: the next one is not begun."""
        earlier = None
        while (act := self._stage.recall.next(self._step.id, target)) is not None:
            if act.outcome is not None:
                return _Asked(target, queue, act.outcome, None)
            earlier = act
        return _Asked(target, queue, None, earlier)

    async def _make_them_tell(self) -> None:
        """See who consumes what, and switch task events on where no result is to be expected."""
        snapshot = await self._stage.surveyor.refresh(questions=_ASKED, timeout=LOOK_TIMEOUT)
        results = self._stage.results
        await self._stored(str(uuid.uuid4()))  # nothing is there: whether it can be read at all
        silent: dict[str, None] = {}
        for queue in self._queues:
            consumers = self._consumers[queue] = snapshot.consumers_of(queue)
            self._unconsumed[queue] = probes.unconsumed(queue, snapshot)
            is_stored = results is not None and not self._results_away
            if not is_stored or probes.ignores_result(self._task, consumers):
                silent |= dict.fromkeys(worker.name for worker in consumers if worker.mine)
        self._untold = await self._stage.task_events.switch_on(self._step.id, silent)

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
        self._stage.effects.conclude(self._step.id, one.target, came.result, came.says)
        return came

    async def _sent(self, one: _Asked, consumers: Sequence[Worker]) -> Outcome:
        id_ = str(uuid.uuid4())
        at = self._stage.effects.intend(
            self._step.id,
            one.target,
            f"send {self._task} to {one.queue} as {id_}",
            expect="it ends without an exception",
            undo=None,
            verb="probe",
        )
        message = self._message(id_, one.queue, at)
        async with self._stage.surveyor.broker.follow(id_) as followed:
            await self._stage.effects.send(message)
            return await self._until_its_end(message, followed, consumers)

    async def _observed(self, queue: str, act: Act, consumers: Sequence[Worker]) -> Outcome | None:
        """What came of one that was sent before the run was interrupted; None if nobody knows: then
        another one does no harm.
        """
        found = _SENT_AS.search(act.intent)
        if found is None or act.at is None:
            return None
        message = self._message(found[1], queue, act.at)
        async with self._stage.surveyor.broker.follow(message.id) as followed:
            stored = await self._stored(message.id)
            if not (stored and stored.state.is_end) and not await self._whereabouts(message):
                return None
            return await self._until_its_end(message, followed, consumers)

    def _message(self, id_: str, queue: str, at: datetime) -> TaskMessage:
        plan = self._stage.plan
        return TaskMessage(
            id_, self._task, queue, at + timedelta(seconds=self._timeout),
            origin=f"celery-ops run {plan.run} by {plan.operator}",
        )  # fmt: skip

    async def _until_its_end(
        self, message: TaskMessage, followed: Followed, consumers: Sequence[Worker]
    ) -> Outcome:
        clock = self._stage.clock
        trace = _Trace(clock.monotonic())
        until = trace.sent + self._timeout
        while trace.end is None and (left := until - clock.monotonic()) > 0:
            self._stage.brake.check(safe=True)
            await self._hear(message, followed, trace, min(left, POLL_SECONDS))
        where = ""
        if trace.end is None:
            where = await self._whereabouts(message)
            await self._hear(message, followed, trace, 0.0)
        elif not trace.worker and len(consumers) > 1:
            await self._hear(message, followed, trace, LINGER_SECONDS)
        if not trace.worker and len(consumers) == 1:
            trace.worker = consumers[0].name
        if trace.end is None:
            return self._not_ended(message, trace, where, consumers)
        return _ended(trace, consumers)

    async def _hear(
        self, message: TaskMessage, followed: Followed, trace: _Trace, timeout: float
    ) -> None:
        for news in await followed.news(timeout):
            trace.add(news, self._stage.clock.monotonic())
        if trace.end is None:
            stored = await self._stored(message.id)
            if stored is not None:
                trace.add(stored, self._stage.clock.monotonic())

    async def _stored(self, id_: str) -> TaskNews | None:
        results = self._stage.results
        if results is None:
            return None
        try:
            return await results.news(id_)
        except ResultsUnreachable as error:
            self._results_away = error.says
            return None

    async def _whereabouts(self, message: TaskMessage) -> str:
        """Where it is, if it has not ended; nothing if it is nowhere to be found."""
        broker = self._stage.surveyor.broker
        ahead = await broker.ahead_of(message)
        if ahead is not None:
            return f"it still waits in {message.queue}, behind {counted(ahead, 'message')}"
        for worker in (await self._stage.look()).workers:
            for held, how in (
                (worker.active, "runs at"),
                (worker.reserved, "waits for a free slot at"),
                (worker.scheduled, "is to be tried again by"),
            ):
                if held is not None and any(task.id == message.id for task in held.value):
                    return f"it {how} {worker.name}"
        unacked = (await broker.queues([message.queue])).unacked or ()
        if any(one.task_id == message.id for one in unacked):
            return "it is held by a worker that does not tell"
        return ""

    def _not_ended(
        self, message: TaskMessage, trace: _Trace, where: str, consumers: Sequence[Worker]
    ) -> Outcome:
        within = f"not within {as_duration(self._timeout)}"
        if trace.retried:
            where = f"{where or 'it is to be tried again'}, after it failed: {trace.retried}"
        if where:
            return Outcome(Result.FAILED, f"{within}: {where}")
        if trace.began is not None:
            began = as_duration(trace.began - trace.sent)
            says = f"it began at {trace.worker} after {began} and runs no more"
        else:
            says = f"it was taken from {message.queue}"
        return Outcome(
            Result.UNKNOWN, f"{says}, and how it ended is not known: {self._silence(consumers)}"
        )

    def _silence(self, consumers: Sequence[Worker]) -> str:
        """What did not tell of the end, and what would."""
        results = self._stage.results
        if self._results_away:
            told = self._results_away
        elif results is None:
            told = "the context names no result backend that is read here (`results`)"
        elif probes.ignores_result(self._task, consumers):
            told = f"{self._task} ignores its result"
        else:
            where = self._stage.plan.where.results
            told = f"{where} has no result of it (do the workers store theirs there?)"
        others = [worker.name for worker in consumers if not worker.mine]
        untold = [f"task events of {name} could not be switched on ({why})"
                  for name, why in self._untold.items()]  # fmt: skip
        if others:
            untold.append(f"those of {probes.listed(others)} are not ours to switch on")
        if not untold:
            untold.append("no task event told of it")
        return "; ".join([told, *untold])


def _ended(trace: _Trace, consumers: Sequence[Worker]) -> Outcome:
    end = trace.end
    names = [worker.name for worker in consumers]
    where = f"at {trace.worker}" if trace.worker else f"at one of {probes.listed(names)}"
    if end is None or end.state is TaskState.SUCCESS:
        return Outcome(Result.DONE, f"ended {where}, {trace.timing()}")
    how = {TaskState.FAILURE: "failed", TaskState.REVOKED: "was revoked"}
    says = f"{how.get(end.state, 'was rejected')} {where}, {trace.timing()}"
    return Outcome(Result.FAILED, f"{says}: {end.error}" if end.error else says)
