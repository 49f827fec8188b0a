"""What queues of parked messages are called: they are found again by their names alone. Pure.

Nobody consumes them. The name tells the queue they were taken from, and the run and the step that
did it; both ids sort by time.
"""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "celery-ops.parked."


@dataclass(frozen=True, slots=True)
class Parked:
    """A queue of parked messages: the queue they came from, and the run and step that parked."""

    queue: str
    run: str
    step: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.queue}.{self.run}-{self.step}"


def parked(name: str) -> Parked | None:
    """What the name of a queue tells; None: it is not one of parked messages."""
    if not name.startswith(_PREFIX):
        return None
    queue, dot, by = name[len(_PREFIX) :].rpartition(".")
    run, dash, step = by.rpartition("-")
    return Parked(queue, run, step) if dot and dash and queue and run and step else None
