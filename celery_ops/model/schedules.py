"""What schedulers send, and when: as far as it is known without asking them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """An entry of a schedule: `task` is sent every so many seconds, or at the times of a `crontab`.

    `when` says that for people. Where both are None it follows a rule that is not understood.
    """

    name: str
    task: str
    when: str
    every: float | None = None
    crontab: tuple[str, str, str, str, str] | None = None
    """Minute, hour, day of the month, month, day of the week."""
    due_at: datetime | None = None
    """When it is sent next, where a scheduler keeps that for all to see (RedBeat)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The entries that are known, `told_by` whom, and why there may be more (`unknown`).

    `zone` is the time zone of crontabs by its IANA name; None: it is not known. Of those that were
    missed more than `deadline` seconds ago none is sent any more; None: all are.
    """

    entries: tuple[PeriodicTask, ...] = ()
    told_by: tuple[str, ...] = ()
    zone: str | None = None
    deadline: float | None = None
    unknown: tuple[str, ...] = ()
