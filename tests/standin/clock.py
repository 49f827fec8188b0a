"""A clock that jumps to the next deadline whenever the event loop has nothing else to do."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

STARTS_AT = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
LONGEST_TEST = 24 * 3600.0


class TimeIsUp(Exception):
    """More virtual time went by than any test needs: it waits for something that never happens."""


class VirtualClock:
    """Time that passes only while everybody sleeps.

    Only `sleep` is virtual: `asyncio.sleep`, `wait_for` and `timeout` stay on real time. The code
    under test must wait through its clock.
    """

    def __init__(self, starts_at: datetime = STARTS_AT, *, limit: float = LONGEST_TEST) -> None:
        self._starts_at = starts_at
        self._limit = limit
        self._elapsed = 0.0
        self._wall_offset = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._driver: asyncio.Task[None] | None = None

    @property
    def boot(self) -> str:
        return "virtual"

    def now(self) -> datetime:
        return self._starts_at + timedelta(seconds=self._elapsed + self._wall_offset)

    def monotonic(self) -> float:
        return 1000.0 + self._elapsed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        deadline = self._elapsed + seconds
        heapq.heappush(self._sleepers, (deadline, next(self._order), woken))
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive())
        await woken

    def jump_wall_clock(self, seconds: float) -> None:
        """Set the wall clock as an administrator would; the monotonic one does not notice."""
        self._wall_offset += seconds

    def suspend(self, seconds: float) -> None:
        """Let time pass in which nothing here runs: a suspended machine, a stopped process."""
        self._elapsed += seconds

    def drives(self, task: asyncio.Task[object]) -> bool:
        """Whether it is the task that lets time pass."""
        return task is self._driver

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._elapsed

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        while self._sleepers:
            if self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
                continue
            await asyncio.sleep(0)
            # asyncio has no public way to ask whether anything else is ready to run.
            if loop._ready:  # type: ignore[attr-defined]
                continue
            deadline, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._elapsed = max(self._elapsed, deadline)
            if self._elapsed > self._limit:
                woken.set_exception(TimeIsUp(f"{self._limit:.0f} virtual seconds are over"))
            else:
                woken.set_result(None)
