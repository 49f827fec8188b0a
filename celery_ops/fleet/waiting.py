"""Since when messages wait, and what waits for a queue elsewhere. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from celery_ops.model import Elsewhere

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import QueuesReading


class Waiting:
    """Remembers when the messages that are served next were first seen.

    Celery's messages carry no time. So the age of the oldest is not known; but one that was seen
    some time ago and still waits is at least that old.
    """

    def __init__(self) -> None:
        self._since: dict[str, dict[str, datetime]] = {}

    def note(self, reading: QueuesReading) -> None:
        """The next reading. What it does not tell of a queue stays as it was."""
        before, self._since = self._since, {}
        for queue in reading.queues:
            if queue.heads is None:
                if queue.ready and queue.name in before:
                    self._since[queue.name] = before[queue.name]
            elif queue.heads:
                known = before.get(queue.name, {})
                self._since[queue.name] = {
                    head: known.get(head, reading.at) for head in queue.heads
                }

    def since(self, queue: str) -> datetime | None:
        """When a message that still waits was first seen; None: nothing waits, or not known."""
        return min(self._since.get(queue, {}).values(), default=None)


def elsewhere(snapshot: FleetSnapshot) -> dict[str, Elsewhere]:
    """What waits for each queue outside of its list."""
    eta: Counter[str] = Counter()
    due: dict[str, datetime] = {}
    untold: set[str] = set()
    for worker in snapshot.workers:
        if worker.scheduled is None:
            untold.update(worker.queues or ())
            continue
        for task in worker.scheduled.value:
            if task.queue is None:
                continue
            eta[task.queue] += 1
            if task.eta is not None:
                due[task.queue] = min(task.eta, due.get(task.queue, task.eta))
    limited = Counter(
        message.queue for one in snapshot.unproven if one.expected for message in one.messages
    )
    return {
        queue.name: Elsewhere(
            eta=None if queue.name in untold else eta[queue.name],
            next_eta=due.get(queue.name),
            limited=None if snapshot.orphans is None else limited[queue.name],
            delayed=snapshot.delayed,
        )
        for queue in snapshot.queues
    }


def consumers(snapshot: FleetSnapshot) -> Mapping[str, tuple[str, ...]]:
    """The names of those that answer and consume, by queue."""
    found: dict[str, list[str]] = {}
    for worker in snapshot.workers:
        if worker.answers and worker.queues is not None:
            for queue in dict.fromkeys(worker.queues):
                found.setdefault(queue, []).append(worker.name)
    return {queue: tuple(names) for queue, names in found.items()}
