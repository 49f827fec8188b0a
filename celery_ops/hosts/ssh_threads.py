"""Daemon threads for calls that block, since paramiko knows no other: never the event loop's own.

A call that hangs is given up by its caller, who closes the socket under it; as a daemon, a thread
never delays the end of the program.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class Threads:
    """At most `most` threads with one queue; each is started when it is first needed."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._unfinished = 0

    def submit(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Call `work` in a thread. Cancelling the future keeps it from starting, not from ending.

        A loop that is closed meanwhile is left alone.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Result] = loop.create_future()

        def job() -> None:
            if outcome.cancelled():
                return
            try:
                settle = partial(outcome.set_result, work())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                settle = partial(outcome.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_unless_cancelled, outcome, settle)

        with self._lock:
            self._unfinished += 1
            starts = self._started < min(self._unfinished, self._most)
            self._started += starts
        self._jobs.put(job)
        if starts:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return outcome

    def close(self) -> None:
        """Let the threads end once they have done what was submitted."""
        with self._lock:
            for _ in range(self._started):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # A job holds what it worked with: not until the next one comes.
            del job
            with self._lock:
                self._unfinished -= 1


def _unless_cancelled(outcome: asyncio.Future[Result], settle: Callable[[], None]) -> None:
    if not outcome.cancelled():
        settle()
