"""Waiting, shared: all targets of a batch are watched by one poll of the fleet, not one each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import BrokerUnreachable
from celery_ops.model import Targets, WorkerState
from celery_ops.ports import Question
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.judges import Judgement, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import FleetSnapshot, ServiceRef, Worker
    from celery_ops.ports import Clock
    from celery_ops.runbook.brake import Brake
    from celery_ops.runbook.judges import Judge

POLL_SECONDS = 0.5
SOONEST_POLL_SECONDS = 0.025
REPLY_TIMEOUT = 0.8
"""A worker that does not answer one poll is asked again by the next; a long wait would slow all."""
SHORTEST_REPLY_TIMEOUT = 0.15
"""Of the first polls: who was started just now does not listen yet, and is soon asked again."""

ASK_SOLO_SECONDS = 5.0
"""A solo pool reads nothing while it runs a task, for hours maybe, and all that it was asked waits
in its connection meanwhile: Redis cuts off who leaves 8 MB there, and a poll takes some 4 KB.
"""

_ASKED = (
    Question.PING,
    Question.STATS,
    Question.ACTIVE,
    Question.RESERVED,
    Question.SCHEDULED,
    Question.ACTIVE_QUEUES,
)


@dataclass(slots=True, eq=False)
class _Waiter:
    judge: Judge
    worker: str | None
    service: ServiceRef | None
    since: float
    timeout: float
    safe: bool
    done: asyncio.Future[Judgement]
    progress: Callable[[str], None]
    first: Judge | None
    said: str = ""


class Watch:
    """Polls for whoever waits, and stops polling when nobody does."""

    def __init__(self, surveyor: Surveyor, clock: Clock, brake: Brake) -> None:
        self._surveyor = surveyor
        self._clock = clock
        self._brake = brake
        self._waiters: set[_Waiter] = set()
        self._poll: asyncio.Task[None] | None = None
        self._next_is_due = False
        self._not_before: dict[str, float] = {}
        """Workers that are let alone for a while."""

    async def until(
        self,
        judge: Judge,
        *,
        worker: str | None,
        service: ServiceRef | None = None,
        timeout: float,
        safe: bool,
        progress: Callable[[str], None],
        first: Judge | None = None,
    ) -> Judgement:
        """Done or never, as the judge sees it; never also when `timeout` seconds have passed.

        `worker` is asked for its tasks and queues, `service` for its status; with neither of them
        the whole fleet is. The worker is not asked before `first` is seen: one that does not run
        cannot answer, and waiting for it would only keep the others. Raise Aborted if the brake is
        pulled and this wait may end (`safe`), or why the run was halted. `progress` hears each new
        "not yet".
        """
        loop = asyncio.get_running_loop()
        since = self._clock.monotonic()
        waiter = _Waiter(
            judge, worker, service, since, timeout, safe, loop.create_future(), progress, first
        )
        self._waiters.add(waiter)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._run())
        try:
            return await waiter.done
        finally:
            self._waiters.discard(waiter)

    async def pause(self, seconds: float) -> None:
        """Between two attempts. Raise Aborted: the run may end here."""
        await self._brake.sleep(seconds)

    async def look(self, worker: str, service: ServiceRef | None) -> FleetSnapshot | None:
        """One look at a worker and its service, now; None if the broker cannot be asked."""
        try:
            return await self._surveyor.refresh(
                questions=_ASKED,
                to=Targets((worker,)),
                timeout=REPLY_TIMEOUT,
                services=() if service is None else (service,),
            )
        except BrokerUnreachable:
            return None

    async def _run(self) -> None:
        try:
            while self._waiters:
                await self._look()
                if self._waiters:
                    await self._clock.sleep(self._pause())
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits
            for waiter in list(self._waiters):
                if not waiter.done.done():
                    waiter.done.set_exception(error)

    def _pause(self) -> float:
        """A tenth of the time that the latest has waited: what is done at once waits for no poll,
        and what takes long is not asked after all the time.
        """
        if self._next_is_due:
            self._next_is_due = False
            return 0.0
        return min(POLL_SECONDS, max(SOONEST_POLL_SECONDS, self._waited() / 10))

    def _waited(self) -> float:
        return self._clock.monotonic() - max(one.since for one in self._waiters)

    async def _look(self) -> None:
        asking = [one for one in self._waiters if one.first is None]
        now = self._clock.monotonic()
        wanted = {one.worker for one in asking if one.worker is not None}
        names = tuple(sorted(name for name in wanted if self._not_before.get(name, now) <= now))
        services = tuple({one.service for one in self._waiters if one.service is not None})
        everybody = any(one.worker is None and one.service is None for one in self._waiters)
        trouble = None
        try:
            snapshot = await self._surveyor.refresh(
                questions=_ASKED if names or everybody else (),
                to=Targets(names) if names and not everybody else None,
                timeout=min(REPLY_TIMEOUT, max(SHORTEST_REPLY_TIMEOUT, self._waited())),
                services=services,
            )
        except BrokerUnreachable as error:
            trouble = error.says
        else:
            again = self._clock.monotonic() + ASK_SOLO_SECONDS
            mute = [name for name in names if _is_mute_solo(snapshot.worker(name))]
            self._not_before.update(dict.fromkeys(mute, again))
        for waiter in list(self._waiters):
            if waiter.done.done():
                self._waiters.discard(waiter)
            elif trouble is not None:
                self._settle(waiter, Judgement(Seen.NOT_YET, trouble))
            else:
                if waiter.first is not None and waiter.first(snapshot).seen is Seen.DONE:
                    waiter.first, self._next_is_due = None, True
                self._settle(waiter, waiter.judge(snapshot))

    def _settle(self, waiter: _Waiter, judgement: Judgement) -> None:
        if judgement.seen is not Seen.NOT_YET:
            waiter.done.set_result(judgement)
            self._waiters.discard(waiter)
            return
        if judgement.says != waiter.said:
            waiter.said = judgement.says
            waiter.progress(judgement.says)
        try:
            self._brake.check(safe=waiter.safe)
        except Aborted as aborted:
            waiter.done.set_exception(aborted)
            self._waiters.discard(waiter)
            return
        if self._clock.monotonic() >= waiter.since + waiter.timeout:
            says = f"not within {as_duration(waiter.timeout)}: {judgement.says}"
            late = replace(judgement, seen=Seen.NEVER, says=says, too_late=True)
            waiter.done.set_result(late)
            self._waiters.discard(waiter)


def _is_mute_solo(worker: Worker | None) -> bool:
    """It has long been silent, and is of the kind that is while it runs a task."""
    if worker is None or worker.state is not WorkerState.SILENT:
        return False
    return worker.busy_solo or (worker.stats is not None and worker.stats.value.pool == "solo")
