"""The verb `retry: tasks`: sends tasks that have ended once more, each once.

What each was called with is read again right before, and only of an end that is the planned one: it
is in no plan and in no journal. What an executor that died may have sent is sent again under the
same names when the run is resumed, and the broker takes only what it has not taken before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import PreconditionFailed, ResultsUnreachable
from celery_ops.fleet.tracing import in_workers
from celery_ops.model import TaskMessage
from celery_ops.runbook.carrying import Carrier, burst
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.probes import listed
from celery_ops.runbook.resending import Wanted, by_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_ops.model import StoredMessage, StoredResult
    from celery_ops.ports import Results
    from celery_ops.runbook.plan import PlannedTask
    from celery_ops.runbook.schema import Param
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.task_steps import RetryStep

AT_ONCE = 100
"""Tasks in one step of the broker's."""


class Retrying:
    """One retry step of a run."""

    def __init__(self, stage: Stage, step: RetryStep, params: Sequence[Param]) -> None:
        self._stage = stage
        self._step = step
        self._wanted = Wanted.of(step, {"params": stage.params}, params)
        self._tasks = tuple(one for one in stage.plan.tasks if one.step == step.id)
        self._left: dict[str, list[str]] = {}

    async def go(self) -> str:
        """Do it and say what came of it. Raise StepFailed."""
        says = []
        for queue, tasks in by_queue(self._tasks).items():
            past = self._stage.recall.next(self._step.id, queue)
            if past is not None and past.outcome is not None:
                if past.outcome.result is Result.FAILED:
                    raise StepFailed(past.outcome.says)
                says.append(past.outcome.says)
                continue
            if past is None:
                self._stage.effects.intend(
                    self._step.id, queue, f"send {counted(len(tasks), 'task')} to {queue}",
                    expect="the broker has taken each once", undo=None, verb="retry",
                )  # fmt: skip
            says.append(await self._to_one(queue, tasks, resumed=past is not None))
        return "; ".join(says)

    async def _to_one(self, queue: str, tasks: Sequence[PlannedTask], *, resumed: bool) -> str:
        """Send those that go to one queue."""
        effects = self._stage.effects
        self._left = {}
        try:
            sent, before = await self._send(queue, tasks, resumed=resumed)
        except (StepFailed, PreconditionFailed, ResultsUnreachable) as error:
            says = f"{error.says}; what went to {queue} until then goes no second time"
            effects.conclude(self._step.id, queue, Result.FAILED, says)
            raise StepFailed(says) from error
        says = f"{counted(sent + before, 'task')} sent to {queue}"
        if before:
            says += f", {before} of them before this was resumed"
        for why, ids in self._left.items():
            says += f"; not sent again: {listed(ids)}: {why}"
        effects.conclude(self._step.id, queue, Result.DONE, says)
        return says

    async def _send(
        self, queue: str, tasks: Sequence[PlannedTask], *, resumed: bool
    ) -> tuple[int, int]:
        """How many were sent, and how many had been before; the others are in `_left`."""
        rate = self._wanted.rate
        carrier = Carrier(self._stage, self._step.id, f"sent to {queue}", of=len(tasks), rate=rate)
        busy = {one.id: one.worker for one in in_workers(await self._stage.look())}
        sent = before = 0
        await carrier.pace(0)
        most = burst(rate) or AT_ONCE
        for start in range(0, len(tasks), most):
            names = {self._name(one): one for one in tasks[start : start + most]}
            noted = await self._noted(carrier, names)
            if resumed:
                before += len(noted)
            else:
                self._leave("another run has sent it since", (names[one].id for one in noted))
            new = {name: one for name, one in names.items() if name not in noted}
            messages = await self._messages(new, queue, busy)
            if messages:
                await self._take(carrier, messages, queue)
            # One that was noted before this call, and after that look, was so by an attempt of
            # this run whose answer was lost: it has the lease.
            sent += len(messages)
            await carrier.pace(sent + before)
        return sent, before

    async def _messages(
        self, tasks: Mapping[str, PlannedTask], queue: str, busy: Mapping[str, str | None]
    ) -> dict[str, StoredMessage]:
        """By the names of their tasks; of those that are not to be sent any more, none."""
        stored = await self._results.stored_of([one.id for one in tasks.values()])
        found = {}
        for name, one in tasks.items():
            if one.id in busy:
                self._leave(f"{busy[one.id]} has it now", [one.id])
                continue
            try:
                found[name] = self._message(one, stored.get(one.id), queue)
            except PreconditionFailed as error:
                self._leave(error.says, [one.id])
        return found

    def _message(self, task: PlannedTask, stored: StoredResult | None, queue: str) -> StoredMessage:
        """Raise PreconditionFailed if it is not to be sent, or cannot be."""
        if stored is None:
            raise PreconditionFailed("nothing is stored of it any more")
        if stored.ended != task.ended:
            raise PreconditionFailed(f"its result has changed since, to {stored.state}")
        if stored.call is None:
            raise PreconditionFailed(stored.uncalled)
        plan = self._stage.plan
        message = TaskMessage(
            id=task.id,
            task=stored.call.task,
            queue=queue,
            expires=None,
            origin=f"celery-ops run {plan.run} by {plan.operator}",
            args=stored.call.args,
            kwargs=stored.call.kwargs,
        )
        return self._stage.effects.store.compose(message)

    async def _noted(self, carrier: Carrier, names: Mapping[str, PlannedTask]) -> list[str]:
        """Those of which the broker knows that they were sent, in their order."""
        known = await carrier.patiently(lambda: self._stage.effects.store.sent(names))
        return [name for name in names if name in known]

    async def _take(
        self, carrier: Carrier, messages: Mapping[str, StoredMessage], queue: str
    ) -> None:
        effects = self._stage.effects
        await carrier.patiently(lambda: effects.send_once(messages, queue=queue))

    def _name(self, task: PlannedTask) -> str:
        return self._wanted.name(task.id, task.ended)

    def _leave(self, why: str, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._left.setdefault(why, []).append(id_)

    @property
    def _results(self) -> Results:
        results = self._stage.results
        if results is None:
            raise StepFailed("no result backend is read here, as there was when it was planned")
        return results
