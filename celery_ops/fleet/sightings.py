"""Which pids were heard under one name, and whether two of them are alive side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta


@dataclass(slots=True)
class Sighting:
    """When a pid was first and last heard."""

    first: datetime
    last: datetime

    def overlaps(self, other: Sighting) -> bool:
        """Each was heard after the other had begun. One process after another does not overlap."""
        return self.last > other.first and other.last > self.first


class Sightings:
    """The pids of one name, by heartbeats and stats."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Sighting] = {}

    def add(self, pid: int, at: datetime, lost_after: timedelta) -> None:
        """A pid was heard. Those that were lost long ago are forgotten."""
        sighting = self._by_pid.setdefault(pid, Sighting(at, at))
        sighting.last = max(sighting.last, at)
        if len(self._by_pid) > 1:
            self._by_pid = self._recent(at, lost_after)

    def forget(self, pid: int) -> None:
        """A process said goodbye."""
        self._by_pid.pop(pid, None)

    def rivals(self, now: datetime, lost_after: timedelta) -> tuple[int, ...]:
        """Pids that are alive side by side; empty for one process after another.

        A restart changes the pid too, but then the old one is not heard again after the new one.
        """
        if len(self._by_pid) < 2:
            return ()
        recent = self._recent(now, lost_after)
        return tuple(
            sorted(
                pid
                for pid, one in recent.items()
                if any(one.overlaps(other) for rival, other in recent.items() if rival != pid)
            )
        )

    def _recent(self, now: datetime, lost_after: timedelta) -> dict[int, Sighting]:
        return {
            pid: sighting
            for pid, sighting in self._by_pid.items()
            if now - sighting.last < lost_after
        }
