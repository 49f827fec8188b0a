"""The verb `watch`: how the tasks of workers end is counted for a while, from their own events.

A worker that is started anew meanwhile fails it, whatever its tasks did. What nobody tells of is no
pass: task events that may be off, and a time in which no task ended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.errors import BrokerUnreachable
from celery_ops.model import TaskState
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.probes import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.config.units import Count
    from celery_ops.model import Incarnation, TaskNews
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.release_steps import WatchStep
    from celery_ops.runbook.stage import Stage

POLL_SECONDS = 1.0
LOOKS_EVERY = 5.0
"""Seconds between two looks whether a worker was started anew."""
TOLD_EVERY = 15.0
ENOUGH = 20
"""So many tasks must have ended before a share of them ends the watch before its time."""
PATIENCE = 60.0
"""Seconds for which the broker may be away; what it did not tell meanwhile is watched for later."""
_SHOWN = 3


@dataclass(slots=True)
class Tally:
    """How tasks ended, by worker, and what failures said."""

    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, news: TaskNews) -> None:
        """Retries, and what was revoked or rejected, are neither."""
        if news.worker is None:
            return
        if news.state is TaskState.SUCCESS:
            self.succeeded[news.worker] += 1
        elif news.state is TaskState.FAILURE:
            self.failed[news.worker] += 1
            self.errors[news.error or "no reason told"] += 1

    @property
    def failures(self) -> int:
        return self.failed.total()

    @property
    def ended(self) -> int:
        return self.failures + self.succeeded.total()

    def exceeds(self, most: Count, *, at_end: bool) -> bool:
        """More failed than may. Before the end a share is judged of no fewer than `ENOUGH`."""
        if not self.failures:
            return False
        if not most.percent:
            return self.failures > most.number
        return (at_end or self.ended >= ENOUGH) and self.failures * 100 > most.number * self.ended

    def __str__(self) -> str:
        if not self.ended:
            return "no task ended"
        share = f"{100 * self.failures / self.ended:.1f}".removesuffix(".0")
        says = f"{counted(self.ended, 'task')} ended, {self.failures} of them failed ({share}%)"
        if not self.failures:
            return says
        worst = ", ".join(f"{count} in {name}" for name, count in self.failed.most_common(_SHOWN))
        why = "; ".join(f"{count}x {error}" for error, count in self.errors.most_common(_SHOWN))
        return f"{says}: {worst}: {why}"


async def watch_targets(stage: Stage, step: WatchStep, targets: Sequence[Target]) -> None:
    """Those whose turn it is in a roll, judged together; what it fails of, they all say."""
    told = [target for target in targets if _told(stage, step, target)]
    left = [target for target in targets if target not in told]
    if not left:
        return
    failed = ""
    try:
        says = await Watching(stage, step, [one.name for one in left]).go()
    except StepFailed as error:
        failed = says = error.says
    for target in left:
        target.failed = failed
        result = Result.FAILED if failed else Result.DONE
        stage.effects.conclude(step.id, target.name, result, says)


async def watch_workers(stage: Stage, step: WatchStep, names: Sequence[str]) -> str:
    """A step outside of a roll; what came of it. Raise StepFailed."""
    past = stage.recall.next(step.id, None)
    if past is not None and past.outcome is not None:
        if past.outcome.result is Result.FAILED:
            raise StepFailed(past.outcome.says)
        return past.outcome.says
    try:
        says = await Watching(stage, step, names).go()
    except StepFailed as failed:
        stage.effects.conclude(step.id, None, Result.FAILED, failed.says)
        raise
    stage.effects.conclude(step.id, None, Result.DONE, says)
    return says


class Watching:
    """One watch over some workers, for the seconds that its step says."""

    def __init__(self, stage: Stage, step: WatchStep, names: Sequence[str]) -> None:
        self._stage = stage
        self._step = step
        self._names = frozenset(names)
        self._most: Count = stage.value(step.max_failures)
        self._lives: dict[str, Incarnation] = {}
        self._tally = Tally()
        self._looked_at = self._told_at = stage.clock.monotonic()

    async def go(self) -> str:
        """To its end, or as soon as too many have failed. Raise StepFailed or Aborted."""
        stage, lasts = self._stage, self._stage.value(self._step.lasts)
        untold = await stage.task_events.switch_on(self._step.id, sorted(self._names))
        if untold:
            says = "; ".join(f"{name}: {why}" for name, why in untold.items())
            raise StepFailed(f"how tasks end would not be told by all of them: {says}")
        await self._look(is_first=True)
        left, away = lasts, 0.0
        while left > 0:
            began = stage.clock.monotonic()
            try:
                left = await self._listen(left)
                away = 0.0
            except BrokerUnreachable as error:
                # The time that was listened for counts; the rest is still to come.
                left -= min(left, max(0.0, self._heard_at - began))
                away += max(POLL_SECONDS, stage.clock.monotonic() - self._heard_at)
                if away > PATIENCE:
                    raise StepFailed(
                        f"{error.says} Of the watch {as_duration(left)} are left."
                    ) from error
                stage.say(None, f"{error.says} The watch goes on when it is back.", self._step.id)
                await stage.brake.sleep(POLL_SECONDS)
        await self._look(is_last=True)
        return self._judged(lasts)

    async def _listen(self, seconds: float) -> float:
        """What is left when it is over: nothing. Raise BrokerUnreachable, StepFailed."""
        stage = self._stage
        self._heard_at = stage.clock.monotonic()
        async with stage.surveyor.broker.follow(None) as followed:
            until = stage.clock.monotonic() + seconds
            while (left := until - stage.clock.monotonic()) > 0:
                await stage.safe_point()
                self._take(await followed.news(min(left, POLL_SECONDS)))
                self._heard_at = now = stage.clock.monotonic()
                if now - self._told_at >= TOLD_EVERY:
                    self._told_at = now
                    stage.say(None, f"{self._tally}; {as_duration(round(left))} left",
                              self._step.id)  # fmt: skip
                if now - self._looked_at >= LOOKS_EVERY:
                    await self._look()
        return 0.0

    def _take(self, news: Iterable[TaskNews]) -> None:
        for one in news:
            if one.worker in self._names:
                self._tally.add(one)
        if self._tally.exceeds(self._most, at_end=False):
            raise StepFailed(f"{self._tally}; at most {self._most} may fail")

    async def _look(self, *, is_first: bool = False, is_last: bool = False) -> None:
        """Whether they are who they were. Raise StepFailed if one was started anew, or does not
        answer at the beginning or the end.
        """
        self._looked_at = self._stage.clock.monotonic()
        snapshot = await self._stage.look()
        silent = []
        for name in sorted(self._names):
            worker = snapshot.worker(name)
            life = None if worker is None or not worker.answers else worker.incarnation
            if life is None:
                silent.append(name)
                continue
            before = self._lives.setdefault(name, life)
            if not life.same_life_as(before):
                raise StepFailed(f"{name} was started anew while it was watched; {self._tally}")
        if silent and (is_first or is_last):
            raise StepFailed(f"{listed(silent)} did not answer, so nothing is proved of it")

    def _judged(self, lasts: float) -> str:
        if not self._tally.ended:
            raise StepFailed(
                f"no task ended in {as_duration(lasts)}: nothing is proved"
                " (watch longer, or send a probe before)"
            )
        if self._tally.exceeds(self._most, at_end=True):
            raise StepFailed(f"{self._tally}; at most {self._most} may fail")
        return f"watched for {as_duration(lasts)}: {self._tally}"


def _told(stage: Stage, step: WatchStep, target: Target) -> bool:
    past = stage.recall.next(step.id, target.name)
    if past is None or past.outcome is None:
        return False
    if past.outcome.result is Result.FAILED:
        target.failed = past.outcome.says
    return True
