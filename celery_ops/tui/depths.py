"""How deep each queue was during the last minutes: kept by the app, and bounded.

A point is the most that was seen waiting within a few seconds. Where nothing was read there is a
gap, and no line is drawn over it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import FleetSnapshot

SECONDS = 5.0
"""Of one point."""
POINTS = 60
"""Kept of each queue; with the number of queues this bounds the memory: 500 bytes for each."""
_GAP = -1
_BARS = "▁▂▃▄▅▆▇█"


class Depths:
    """The history of all queues. It grows with the snapshots that it is given."""

    def __init__(self) -> None:
        self._points: dict[str, array[int]] = {}
        self._newest = 0
        """The number of the newest point, counted from the epoch on; its place is that modulo."""

    def note(self, snapshot: FleetSnapshot) -> None:
        """Take note of a snapshot; one without its broker tells nothing."""
        if snapshot.broker_error is not None:
            return
        number = _number(snapshot.at)
        if number < self._newest - POINTS:
            self._points.clear()  # the clock was set back
            self._newest = number
        self._go_on_to(number)
        place = number % POINTS
        for queue in snapshot.queues:
            if queue.ready is None:
                continue
            points = self._points.get(queue.name)
            if points is None:
                points = self._points[queue.name] = array("q", [_GAP]) * POINTS
            points[place] = max(points[place], queue.ready)

    def of(self, queue: str, until: datetime, points: int = POINTS) -> tuple[int | None, ...]:
        """The last points of a queue, the newest at the end; None: it was not read then."""
        kept = self._points.get(queue)
        last = _number(until)
        if kept is None:
            return (None,) * points
        oldest = self._newest - POINTS
        return tuple(
            None
            if not oldest < number <= self._newest or kept[number % POINTS] == _GAP
            else kept[number % POINTS]
            for number in range(last - points + 1, last + 1)
        )

    def _go_on_to(self, number: int) -> None:
        if number <= self._newest:
            return
        passed = range(max(self._newest + 1, number - POINTS + 1), number + 1)
        for points in self._points.values():
            for one in passed:
                points[one % POINTS] = _GAP
        if number // POINTS != self._newest // POINTS:
            self._forget()
        self._newest = number

    def _forget(self) -> None:
        gone = [name for name, points in self._points.items() if max(points) == _GAP]
        for name in gone:
            del self._points[name]


def sparkline(points: Sequence[int | None]) -> str:
    """A bar for each point, the highest for the most; spaces at gaps, the lowest only for nothing.

    A queue that was empty all the time is a flat line.
    """
    most = max((point for point in points if point is not None), default=0)
    return "".join(" " if point is None else _bar(point, most) for point in points)


def _bar(point: int, most: int) -> str:
    if point <= 0:
        return _BARS[0]
    return _BARS[max(1, round(point * (len(_BARS) - 1) / most))]


def _number(at: datetime) -> int:
    return int(at.timestamp() // SECONDS)
