"""Calls that block, beside the event loop: a daemon thread of our own, not the default executor.

A hung call (a home directory on a dead NFS server) delays neither the screen nor the exit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Job:
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def work(self) -> None:
        """On the thread: call the function and hand its end to the loop."""
        try:
            result = self.function()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            self._end(None, error)
        else:
            self._end(result, None)

    def _end(self, result: object, error: BaseException | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self._tell, result, error)
        except RuntimeError:
            # The loop was closed meanwhile: nobody waits any more.
            return

    def _tell(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Aside:
    """Runs what it is given one after the other."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns, raise what it raises.

        Cancelled: the function still runs to its end, and nobody learns how it ended.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="aside", daemon=True)
            self._thread.start()
        self._jobs.put(_Job(lambda: function(*args, **kwargs), loop, future))
        return await future

    def close(self) -> None:
        """Let the thread end after what it does now."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.work()
