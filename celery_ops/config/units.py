"""Durations, counts and sizes as people write them: `90s`, `10m`, `25%`, `1.9G`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"
_DURATION = re.compile(_PART)
_COUNT = re.compile(r"([0-9]{1,6})(%?)")
_MAX_LENGTH = 100

DURATION_PATTERN = rf"^({_PART}){{1,5}}$"
"""For JSON schemas: what `duration` reads."""


def duration(text: str) -> float:
    """Seconds of `1h30m`, `90s`, `250ms`. Raise ValueError; a number without a unit is refused."""
    parts = _DURATION.findall(text[:_MAX_LENGTH])
    if not parts or "".join(number + unit for number, unit in parts) != text or len(parts) > 5:
        says = f"not a duration: {_cut(text)} (write a number with a unit: 30s, 10m, 1h30m)"
        raise ValueError(says)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def as_duration(seconds: float) -> str:
    """The shortest usual way to write some seconds: `1h30m`, `45s`, `250ms`; `0s` for nothing."""
    if 0 < seconds < 0.9995:
        return f"{round(seconds * 1000)}ms"
    if seconds < 59.95 and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f}s"
    rest, text = round(seconds), ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, rest = divmod(rest, size)
        if number:
            text += f"{number}{unit}"
    return text or "0s"


@dataclass(frozen=True, slots=True)
class Count:
    """An absolute number, or a share of something (`percent`)."""

    number: int
    percent: bool = False

    def down(self, total: int) -> int:
        """Of `total`, rounded down: how many at most."""
        return self.number * total // 100 if self.percent else self.number

    def up(self, total: int) -> int:
        """Of `total`, rounded up: how many at least."""
        return -(-self.number * total // 100) if self.percent else self.number

    def __str__(self) -> str:
        return f"{self.number}{'%' if self.percent else ''}"


def count(text: str) -> Count:
    """`3` or `25%`. Raise ValueError for anything else, and for more than 100 %."""
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a count: {_cut(text)} (write a number or a percentage: 2, 25%)")
    number, percent = int(match[1]), bool(match[2])
    if percent and number > 100:
        raise ValueError(f"{text} is more than everything")
    return Count(number, percent)


def as_size(amount: float) -> str:
    """Bytes as `df -h` and `free -h` tell them: `312M`, `1.9G`, in steps of 1024."""
    for unit in ("B", "K", "M", "G", "T"):
        if amount < 1000 or unit == "T":
            break
        amount /= 1024
    return f"{amount:.1f}{unit}" if amount < 10 and unit != "B" else f"{amount:.0f}{unit}"


def as_share(part: float) -> str:
    """A part of 1 in percent; rounded up, as `df` does it: 99.1 % is no longer 99."""
    return f"{math.ceil(round(part * 100, 6))}%"


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def counted(number: int, noun: str, many: str | None = None) -> str:
    """`1 worker`, `2 workers`, `no workers`; `many` is the plural of a noun that takes no s."""
    return f"{number or 'no'} {noun if number == 1 else many or f'{noun}s'}"
