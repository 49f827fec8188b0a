"""How often each service was started anew lately: the memory that a restart loop is told from.

systemd counts its own restarts, and begins anew when it is told to start the unit. Where a
supervisor does not count, each new life that is seen is one, whoever began it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.model import Restarts

if TYPE_CHECKING:
    from datetime import datetime

    from celery_ops.model import ServiceRef, ServiceStatus

WINDOW = timedelta(minutes=5)
"""Restarts are remembered for so long."""
MOST_REMEMBERED = 1_000
"""Of one service: a unit can restart many times a second."""


@dataclass(slots=True)
class _Seen:
    first: datetime
    restarts: int | None
    identity: str | None
    times: deque[datetime] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))


class RestartMemory:
    """The restarts of all services that were seen."""

    def __init__(self) -> None:
        self._seen: dict[ServiceRef, _Seen] = {}

    def note(self, ref: ServiceRef, status: ServiceStatus, at: datetime) -> Restarts:
        """Take note of a status; what is remembered of this service now."""
        seen = self._seen.get(ref)
        if seen is None:
            seen = self._seen[ref] = _Seen(at, status.restarts, status.identity)
        elif _is_told_to_start(seen, status):
            seen.times.clear()
            seen.first = at
        else:
            seen.times.extend([at] * min(_new(seen, status), MOST_REMEMBERED))
        seen.restarts = status.restarts
        seen.identity = status.identity or seen.identity
        while seen.times and at - seen.times[0] > WINDOW:
            seen.times.popleft()
        since = max(seen.first, at - WINDOW)
        return Restarts(len(seen.times), since, by_supervisor=status.restarts is not None)


def _is_told_to_start(seen: _Seen, status: ServiceStatus) -> bool:
    return (
        seen.restarts is not None
        and status.restarts is not None
        and status.restarts < seen.restarts
    )


def _new(seen: _Seen, status: ServiceStatus) -> int:
    if status.restarts is not None:
        return status.restarts - seen.restarts if seen.restarts is not None else 0
    if status.identity is None or seen.identity is None:
        return 0
    return int(status.identity != seen.identity)
