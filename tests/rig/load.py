"""A producer: sends numbered tasks as long as it is entered, and knows what must become of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

    from tests.rig.workers import Fleet

SECONDS = (0.1, 0.9, 0.3, 0.6)
ATTEMPTS = ("rig.work", "rig.work_late")
"""Acknowledged before and after their run."""
EVERY = 0.15
"""Seconds between two tasks."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A task as it was sent, at that time."""

    id: str
    says: str
    at: datetime


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
        self._all: list[Sent] = []

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
    def sent(self) -> int:
        """How many were sent so far."""
        return len(self._all)

    @property
    def numbers(self) -> range:
        """What was sent so far; from `first` on."""
        return range(self._first, self._first + self.sent)

    def sent_with(self, numbers: Collection[int], *, without: Collection[str]) -> list[Sent]:
        """Those of these numbers, but for these ids."""
        everything = zip(self.numbers, self._all, strict=True)
        return [one for number, one in everything if number in numbers and one.id not in without]

    def settle(
        self, *, timeout: float = 60.0, logs: Callable[[Collection[str]], str] | None = None
    ) -> None:
        """Wait until all that was sent has ended at least once; else raise TimeoutError, and tell
        of each task that has not what is known of it.

        `logs` finds what the workers have logged of tasks, by their ids.
        """
        everything = set(self.numbers)
        try:
            wait_until(
                lambda: self._fleet.ends().keys() >= everything,
                what="all tasks end",
                timeout=timeout,
            )
        except TimeoutError as error:
            told = [str(error), *self._missing()]
            if logs is not None:
                told.append(logs([one.id for _, one in self._not_ended()]))
            raise TimeoutError("\n".join(told)) from error

    def _not_ended(self) -> list[tuple[int, Sent]]:
        ends = self._fleet.ends()
        everything = zip(self.numbers, self._all, strict=True)
        return [(number, one) for number, one in everything if number not in ends]

    def _missing(self) -> list[str]:
        """A line for each task that has not ended, and what there is to be seen beside them."""
        missing, starts = self._not_ended(), self._fleet.starts()
        whereabouts = self._fleet.whereabouts(self._queues)
        return [
            f"{len(missing)} of {self.sent} have not ended, at {datetime.now(UTC):%H:%M:%S.%f}:",
            *(
                f"  {number} {one.says}, id {one.id}, sent {one.at:%H:%M:%S.%f}, "
                f"started {starts.get(number, 0)} times, {whereabouts.of(one.id)}"
                for number, one in missing
            ),
            str(whereabouts),
        ]

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
            at = datetime.now(UTC)
            task_id = self._fleet.send(number, seconds, task=task, queue=queue, **late)
            says = f"{task} of {seconds} s to {queue}" + (", countdown 3 s" if late else "")
            self._all.append(Sent(task_id, says, at))
