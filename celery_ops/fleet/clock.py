"""The real clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

# Leases and proofs are counted on a clock that runs through a suspended machine. Only Linux has one
# by that name; CLOCK_MONOTONIC of macOS already behaves so.
_NEVER_JUMPS: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """This machine's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.clock_gettime(_NEVER_JUMPS)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
