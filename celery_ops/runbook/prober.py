"""A probe under way: what is sent, what is heard of it, and where it is.

By its result, or by the events of the worker that runs it; neither is guessed from the other's
silence. What nobody tells of is not known, which is no success.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import PreconditionFailed, ResultsUnreachable
from celery_ops.model import TaskMessage, TaskState
from celery_ops.ports import Question
from celery_ops.runbook import probes
from celery_ops.runbook.events import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, TaskNews, Worker
    from celery_ops.ports import Followed
    from celery_ops.runbook.schema import ProbeStep
    from celery_ops.runbook.stage import Stage

POLL_SECONDS = 0.1
LOOK_TIMEOUT = 2.0
_ASKED = (Question.PING, Question.STATS, Question.ACTIVE_QUEUES, Question.REGISTERED)


@dataclass(slots=True)
class Trace:
    """What is known of one probe; moments are the run's own, in seconds.

    `since` is when it began to be watched: when it was sent, unless it was found again.
    """

    since: float
    found_again: bool = False
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
        took = self.ended - self.since
        ran = "" if self.runtime is None else f"{as_duration(self.runtime)} of running"
        if self.found_again:
            return f"after {ran}" if ran else "as was seen when the run went on"
        if not ran or self.runtime is None:
            return f"{as_duration(took)} after it was sent"
        return f"after {as_duration(max(0.0, took - self.runtime))} of waiting and {ran}"


class Prober:
    """What probes of queues and of workers have in common: a task that is sent and watched."""

    def __init__(self, stage: Stage, step: ProbeStep) -> None:
        """Raise PreconditionFailed without a probe that is configured."""
        probe = stage.plan.where.probe
        if probe is None:
            raise PreconditionFailed(probes.UNCONFIGURED)
        self.stage = stage
        self.step = step
        self.task = probe.task
        scope = {"params": stage.params}
        self.queues = probes.queues_of(step, probe, scope, probes.planned_queues(step, stage.plan))
        self.timeout = probes.timeout_of(step, probe, scope)
        self.untold: dict[str, str] = {}
        """Why task events of a worker may be off, by worker."""
        self.results_away = ""

    def intend(self, target: str, queue: str) -> TaskMessage:
        """The next probe of a queue, which is in the journal and not sent yet."""
        id_ = str(uuid.uuid4())
        at = self.stage.effects.intend(
            self.step.id,
            target,
            f"send {self.task} to {queue} as {id_}",
            expect="it ends without an exception",
            undo=None,
            verb="probe",
        )
        return self.message(id_, queue, at)

    def message(self, id_: str, queue: str, at: datetime) -> TaskMessage:
        """The probe that was intended `at` that moment."""
        plan = self.stage.plan
        return TaskMessage(
            id_, self.task, queue, at + timedelta(seconds=self.timeout),
            origin=f"celery-ops run {plan.run} by {plan.operator}",
            first=self.step.first and self.stage.surveyor.broker.serves_first,
        )  # fmt: skip

    async def look(self) -> FleetSnapshot:
        """Who consumes what, and which tasks they know; and whether results can be read at all."""
        await self.stored(str(uuid.uuid4()))
        refresh = self.stage.surveyor.refresh
        return await refresh(questions=_ASKED, timeout=LOOK_TIMEOUT)

    def is_stored(self, consumers: Sequence[Worker]) -> bool:
        """Whether a result is to be expected of what these run."""
        is_read = self.stage.results is not None and not self.results_away
        return is_read and not probes.ignores_result(self.task, consumers)

    async def hear(
        self, message: TaskMessage, followed: Followed, trace: Trace, timeout: float
    ) -> None:
        for news in await followed.news(timeout):
            trace.add(news, self.stage.clock.monotonic())
        if trace.end is None:
            stored = await self.stored(message.id)
            if stored is not None:
                trace.add(stored, self.stage.clock.monotonic())

    async def stored(self, id_: str) -> TaskNews | None:
        results = self.stage.results
        if results is None:
            return None
        try:
            return await results.news(id_)
        except ResultsUnreachable as error:
            self.results_away = error.says
            return None

    async def whereabouts(self, message: TaskMessage) -> str:
        """Where it is, if it has not ended; nothing if it is nowhere to be found."""
        broker = self.stage.surveyor.broker
        ahead = await broker.ahead_of(message)
        if ahead is not None:
            return f"it still waits in {message.queue}, behind {counted(ahead, 'message')}"
        for worker in (await self.stage.look()).workers:
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


def ended(trace: Trace, end: TaskNews, consumers: Sequence[Worker]) -> Outcome:
    """What came of one that has ended."""
    names = [worker.name for worker in consumers]
    whose = probes.listed(names)
    where = f"at {trace.worker}" if trace.worker else f"at one of those that consume it ({whose})"
    if end.state is TaskState.SUCCESS:
        return Outcome(Result.DONE, f"ended {where}, {trace.timing()}")
    how = {TaskState.FAILURE: "failed", TaskState.REVOKED: "was revoked"}
    says = f"{how.get(end.state, 'was rejected')} {where}, {trace.timing()}"
    return Outcome(Result.FAILED, f"{says}: {end.error}" if end.error else says)
