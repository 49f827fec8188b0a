"""The turns of workers whose drain was put off: one after the other, each when it is free.

They consume meanwhile. What is waited for is the end of the tasks that a worker runs when it is
looked at first; then its drain has little left to wait for, and the guard is asked again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.runbook import judges
from celery_ops.runbook.judges import Judgement, Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.stage import Stage


@dataclass(frozen=True, slots=True)
class PutOff:
    """A target whose turn comes again: `timeout` is what its drain, the step `step`, has."""

    target: Target
    timeout: float
    step: str


class Turns:
    """Who is next; nobody any more once the longest of the timeouts has passed."""

    def __init__(self, stage: Stage, step: str, waiting: Sequence[PutOff]) -> None:
        """`step` is what the progress is told under."""
        self._stage = stage
        self._step = step
        self._waiting = list(waiting)
        self._timeout = max(one.timeout for one in waiting)
        self._until = stage.clock.monotonic() + self._timeout
        self._free = {
            one.target.name: judges.Free(one.target.planned, stage.clock.now()) for one in waiting
        }

    async def next(self) -> Target | None:
        """The next one that is free. Raise Aborted.

        One whose turn had begun before its run was interrupted is first: that turn is gone on with.
        """
        if not self._waiting:
            return None
        recall = self._stage.recall
        begun = [one for one in self._waiting if recall.peek(one.step, one.target.name)]
        found = begun[0] if begun else await self._first_free()
        if found is None:
            return None
        self._waiting.remove(found)
        return found.target

    async def _first_free(self) -> PutOff | None:
        watched = {asyncio.ensure_future(self._until_free(one)): one for one in self._waiting}
        unseen = set(watched)
        try:
            while unseen:
                seen, unseen = await asyncio.wait(unseen, return_when=asyncio.FIRST_COMPLETED)
                # In the order in which they were put off, where several are.
                for watch, one in watched.items():
                    if watch in seen and watch.result().seen is Seen.DONE:
                        return one
        finally:
            for watch in watched:
                watch.cancel()
            await asyncio.gather(*watched, return_exceptions=True)
        for one in self._waiting:
            one.target.put_off = f"not free within {as_duration(self._timeout)} after the others"
        return None

    async def _until_free(self, one: PutOff) -> Judgement:
        target = one.target
        return await self._stage.watch.until(
            self._free[target.name],
            worker=target.name,
            timeout=max(0.0, self._until - self._stage.clock.monotonic()),
            safe=True,
            progress=lambda says: self._stage.say(target.name, f"comes again: {says}", self._step),
        )
