"""The verb `drain: queue`: waits until a queue is worked off, and says at any moment for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.ports import Question
from celery_ops.runbook import queue_plans, queue_word
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.queue_emptying import Emptying, Progress
from celery_ops.runbook.stage import LOOK_TIMEOUT, LOOKED_AT
from celery_ops.runbook.steps import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from celery_ops.runbook.schema import QueueStep
    from celery_ops.runbook.stage import Stage

LOOKS_EVERY = 1.0
TOLD_EVERY = 5.0
"""Seconds between two lines that differ in numbers only."""
_EVERYTHING = tuple(question for question in Question if question is not Question.CONF)
"""Once: what is registered tells whether a message can be held unseen, and by whom."""


class Draining:
    """One drain step of a run. It changes nothing."""

    def __init__(self, stage: Stage, step: QueueStep) -> None:
        if step.queue is None:
            raise ValueError("the language requires a queue here")
        self._stage = stage
        self._step = step
        self._queue = stage.value(step.queue)
        self._told = ("", 0.0)
        self._asks_all = False

    async def go(self) -> str:
        """Until it is empty; say so. Raise StepFailed when the time is up, PreconditionFailed where
        nobody consumes it to begin with.
        """
        stage, step, queue = self._stage, self._step, self._queue
        past = stage.recall.next(step.id, queue)
        if past is not None and past.outcome is not None:
            if past.outcome.result is Result.FAILED:
                raise StepFailed(f"{queue}: {past.outcome.says}")
            return f"{queue} is drained: {past.outcome.says}"
        timeout = DEFAULT_TIMEOUT if step.timeout is None else stage.value(step.timeout)
        until = stage.clock.monotonic() + timeout
        emptying = Emptying(queue)
        is_first = True
        while True:
            progress = await self._look(emptying, refuse=is_first)
            is_first = False
            if progress.is_empty:
                stage.effects.conclude(step.id, queue, Result.DONE, progress.says)
                return f"{queue} is drained: {progress.says}"
            self._tell(progress)
            if stage.clock.monotonic() >= until:
                says = f"not drained within {as_duration(timeout)}: {progress.says}"
                stage.effects.conclude(step.id, queue, Result.FAILED, says)
                raise StepFailed(f"{queue}: {says}")
            await stage.brake.sleep(LOOKS_EVERY)
            await stage.safe_point()

    async def _look(self, emptying: Emptying, *, refuse: bool) -> Progress:
        """A broker that is away for a moment is waited for; what it says then begins anew."""
        stage = self._stage
        since = stage.clock.now()
        try:
            snapshot = await stage.surveyor.refresh(
                questions=_EVERYTHING if refuse or self._asks_all else LOOKED_AT,
                timeout=LOOK_TIMEOUT,
            )
        except BrokerUnreachable as error:
            emptying.forget()
            return Progress(False, f"not known: {error.says}", "away")
        self._asks_all = queue_word.asks_for_registered(snapshot)
        if refuse:
            refusals = queue_plans.drain_refusals(self._queue, snapshot)
            if refusals:
                raise PreconditionFailed("; ".join(refusals))
        return emptying.look(snapshot, since, stage.clock.monotonic())

    def _tell(self, progress: Progress) -> None:
        kind, at = self._told
        now = self._stage.clock.monotonic()
        if progress.kind != kind or now - at >= TOLD_EVERY:
            self._told = (progress.kind, now)
            self._stage.say(self._queue, progress.says, self._step.id)
