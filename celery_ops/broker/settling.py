"""What a job in a thread returns or raises, handed to who awaits it in the event loop."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Result = TypeVar("Result")


def carry_out(
    call: Callable[[], Result], outcome: asyncio.Future[Result], loop: asyncio.AbstractEventLoop
) -> None:
    """Do a job, unless nobody waits for it any more."""
    if not outcome.cancelled():
        with _Settling(outcome, loop) as settling:
            settling.returned(call())


class _Settling:
    """Hands what is raised within it to who awaits the outcome; a loop that is closed is left
    alone.
    """

    def __init__(self, outcome: asyncio.Future[Result], loop: asyncio.AbstractEventLoop) -> None:
        self._outcome: asyncio.Future[Any] = outcome
        self._loop = loop

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None:
            self._post(partial(self._outcome.set_exception, error))
        return True

    def returned(self, value: object) -> None:
        self._post(partial(self._outcome.set_result, value))

    def _post(self, settle: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_unless_done, self._outcome, settle)


def _unless_done(outcome: asyncio.Future[Result], settle: Callable[[], None]) -> None:
    if not outcome.done():
        settle()
