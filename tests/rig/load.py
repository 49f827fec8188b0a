"""A producer: sends numbered tasks as long as it is entered, and knows what must become of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tests.rig.workers import Fleet

SECONDS = (0.1, 0.9, 0.3, 0.6)
ATTEMPTS = ("rig.work", "rig.work_late")
"""Acknowledged before and after their run."""
EVERY = 0.15
"""Seconds between two tasks."""


class Load:
    """Tasks of several lengths, now and then one with an ETA, on these queues in turn."""

    def __init__(
        self,
        fleet: Fleet,
        *queues: str,
        first: int = 0,
        every: float = EVERY,
        tasks: Sequence[str] = ATTEMPTS,
    ) -> None:
        self._fleet = fleet
        self._queues = queues
        self._first = first
        self._every = every
        self._tasks = tasks
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._sending: Future[None] | None = None
        self.sent = 0

    def __enter__(self) -> Load:
        self._sending = self._thread.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        """Raise what ended the sending too early."""
        self._over.set()
        self._thread.shutdown()
        assert self._sending is not None
        self._sending.result()

    @property
    def numbers(self) -> range:
        """What was sent so far; from `first` on."""
        return range(self._first, self._first + self.sent)

    def settle(self, *, timeout: float = 60.0) -> None:
        """Wait until all that was sent has ended at least once."""
        everything = set(self.numbers)
        wait_until(
            lambda: self._fleet.ends().keys() >= everything, what="all tasks end", timeout=timeout
        )

    def twice(self) -> list[int]:
        """The tasks that were started, or have ended, more than once."""
        counts = (self._fleet.starts(), self._fleet.ends())
        return [number for number in self.numbers if any(one.get(number, 0) > 1 for one in counts)]

    def _send(self) -> None:
        while not self._over.wait(self._every):
            number = self._first + self.sent
            seconds = SECONDS[self.sent % len(SECONDS)]
            late = {} if self.sent % 7 else {"countdown": 3}
            task = self._tasks[self.sent // len(SECONDS) % len(self._tasks)]
            queue = self._queues[self.sent % len(self._queues)]
            self._fleet.send(number, seconds, task=task, queue=queue, **late)
            self.sent += 1
