"""Celery's crontabs: at which minutes they come due. Pure.

Celery wants all five fields to hold (cron takes either day field), and counts Sunday as 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

LONGEST = timedelta(days=7)
"""Minutes of no longer a time are gone through."""
_MAX_FIELD = 200
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>[1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class Crontab:
    """The minutes, hours, days of the month, months and days of the week on which it is due."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @property
    def shortest(self) -> float:
        """Seconds between two times of a day that are next to each other; at most a day."""
        times = sorted(hour * 60 + minute for hour in self.hours for minute in self.minutes)
        gaps = [later - one for one, later in pairwise(times)]
        return min([*gaps, times[0] + 24 * 60 - times[-1]]) * 60.0

    def came_due(self, since: datetime, until: datetime, zone: str) -> bool | None:
        """Whether it did after `since` and not after `until`; None where that is not to be told: it
        is too long, or there is no such time zone.
        """
        if until - since > LONGEST:
            return None
        try:
            there = ZoneInfo(zone)
        except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
            return None
        at = since.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        while at <= until:
            if self._holds(at.astimezone(there)):
                return True
            at += timedelta(minutes=1)
        return False

    def _holds(self, at: datetime) -> bool:
        return (
            at.minute in self.minutes
            and at.hour in self.hours
            and at.day in self.days
            and at.month in self.months
            and at.isoweekday() % 7 in self.weekdays
        )


def parse(fields: Sequence[str]) -> Crontab | None:
    """From the five fields as they are written; None for what is not understood."""
    if len(fields) != len(_RANGES) or any(len(one) > _MAX_FIELD for one in fields):
        return None
    numbers = [_numbers(text, *span) for text, span in zip(fields, _RANGES, strict=True)]
    known = [one for one in numbers if one]
    return Crontab(*known) if len(known) == len(_RANGES) else None


def _numbers(text: str, low: int, high: int) -> frozenset[int] | None:
    found: set[int] = set()
    for part in text.lower().split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            return None
        if match["first"] == "*":
            whole = list(range(low, high + 1)) if match["last"] is None else None
        else:
            whole = _between(match["first"], match["last"], low, high)
        if whole is None:
            return None
        found.update(whole[:: int(match["step"] or 1)])
    return frozenset(found)


def _between(first: str, last: str | None, low: int, high: int) -> list[int] | None:
    """One number, or all from the first to the last, around the end where that is before it."""
    begin = _number(first, high)
    end = begin if last is None else _number(last, high)
    if begin is None or end is None or not (low <= begin <= high and low <= end <= high):
        return None
    if end >= begin:
        return list(range(begin, end + 1))
    return [*range(begin, high + 1), *range(low, end + 1)]


def _number(text: str, high: int) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text[:4])
    names = {12: _MONTHS, 6: _DAYS}.get(high, [])
    if text[:3] not in names:
        return None
    return names.index(text[:3]) + (1 if high == 12 else 0)
