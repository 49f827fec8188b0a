"""Time, as the rest sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    @property
    def boot(self) -> str:
        """Which `monotonic` this is: those of one boot count the same. Empty: not known."""
        ...

    def now(self) -> datetime:
        """The wall clock: aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps and runs through a suspended machine."""
        ...

    async def sleep(self, seconds: float) -> None: ...
