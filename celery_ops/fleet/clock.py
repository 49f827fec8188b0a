"""The real clock, and how a wall clock that is set meanwhile is kept out of what is compared."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.model import ClockMark

if TYPE_CHECKING:
    from celery_ops.ports import Clock

# Leases and proofs are counted on a clock that runs through a suspended machine. Only Linux has one
# by that name; CLOCK_MONOTONIC of macOS already behaves so.
_NEVER_JUMPS: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SteadyClock:
    """Another clock, whose wall time is read once and counted on by its monotonic one.

    Readings are told fresh from old, and one life of a worker from another, by the times they were
    given here. A wall clock that is set back by an hour in between would make the newest reading
    the oldest, and every worker a new one. With `since`, time is counted from that mark of the same
    boot: a run keeps one clock, whichever process executes it.
    """

    def __init__(self, clock: Clock, since: ClockMark | None = None) -> None:
        if since is None or not since.boot or since.boot != clock.boot:
            since = ClockMark(clock.now(), clock.monotonic(), clock.boot)
        self._clock = clock
        self._began = since

    @property
    def boot(self) -> str:
        return self._clock.boot

    def now(self) -> datetime:
        return self._began.at + timedelta(seconds=self.monotonic() - self._began.monotonic)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class SystemClock(SteadyClock):
    """This machine's time, as it was when this was made or at `since`, counted on from there."""

    def __init__(self, since: ClockMark | None = None) -> None:
        super().__init__(_Machine(), since)


class _Machine:
    """This machine's clocks as they are."""

    @property
    def boot(self) -> str:
        return _boot()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(_NEVER_JUMPS)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
