"""What follows from looks at releases about which of them a process runs. Asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.ports import ReleasesReading


@dataclass(frozen=True, slots=True)
class _Seen:
    """A current release, and since when it has been seen to be it: the host's seconds of a boot."""

    release: str | None
    since: float
    at: float


class ReleaseMemory:
    """Remembers, of each host, since when its current release has been so."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, host: str, reading: ReleasesReading) -> dict[int, str]:
        """The releases of the processes that were looked at, by pid, as far as they are known.

        One that is not seen to run any began with the current one if it began after that had
        become so; of an older one nothing is known.
        """
        current, before = reading.host.current, self._seen.get(host)
        is_new = before is None or before.release != current or reading.at < before.at
        watched = reading.at if is_new or before is None else before.since
        since = watched if reading.since is None else reading.since
        self._seen[host] = _Seen(current, watched, reading.at)
        runs = dict(reading.runs)
        if current is not None:
            later = (pid for pid, began in reading.started.items() if began > since)
            runs = dict.fromkeys(later, current) | runs
        return runs
