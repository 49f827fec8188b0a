"""What is shown: others' text made harmless; numbers, ages and times as people read them.

Nothing of this is markup. Every character reaches the screen through `safe`, once, where lines are
drawn.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

UNKNOWN = "?"
NOTHING = "-"
MOST_SHOWN = 2_000
"""Characters of one text; a name of ten thousand is cut before anything is computed of it."""
FRESH = 3.0
"""Seconds: what is older is shown dim, with its age."""

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_COMBINING = frozenset({"Mn", "Me"})
_MOST_COMBINED = 2


class Tone(StrEnum):
    """What a text means. How that looks is the style sheet's; the text alone must say it too."""

    PLAIN = "plain"
    STRONG = "strong"
    DIM = "dim"
    NOTE = "note"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Cell(NamedTuple):
    """A piece of text as it was given, hostile or not, and what it means."""

    text: str
    tone: Tone = Tone.PLAIN


def safe(text: str, most: int = MOST_SHOWN) -> str:
    """The text as one line that cannot move the cursor, change colours or reverse its neighbours.

    Control characters become their pictures (`␛`), invisible and reversing ones their code points
    (`<202E>`); longer texts than `most` characters end in `…`.
    """
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    combined = 0
    for character in text:
        category = unicodedata.category(character)
        combined = combined + 1 if category in _COMBINING else 0
        if combined <= _MOST_COMBINED:
            hidden = category in _INVISIBLE
            shown.append(_picture(character, category) if hidden else character)
    return "".join(shown)


def age(seconds: float | None) -> str:
    """`0.4s`, `8s`, `3m`, `2h`, `5d`: never more than five characters below three years."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{max(0.0, seconds):.1f}s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def age_of(at: datetime | None, now: datetime) -> str:
    """How long ago that was; `?` if it is not known."""
    return UNKNOWN if at is None else age((now - at).total_seconds())


def aged(text: str, seconds: float) -> Cell:
    """A value that was read so long ago; a stale one is dim and tells its age."""
    return Cell(text) if seconds <= FRESH else Cell(f"{text} ({age(seconds)})", Tone.DIM)


def known(text: str | None) -> Cell:
    """A text, or the sign for what is not known."""
    return Cell(UNKNOWN, Tone.DIM) if text is None else Cell(text)


def number(value: int | None) -> str:
    """`1,204`, or `?` for what is not known; never zero instead of it."""
    return UNKNOWN if value is None else f"{value:,}"


def clock(at: datetime) -> str:
    """The time of day in UTC, as the journals and the servers' logs tell it."""
    return f"{at.astimezone(UTC):%H:%M:%S}"


def moment(at: datetime, now: datetime) -> str:
    """The time of day; with the date when it is not today's."""
    at = at.astimezone(UTC)
    return clock(at) if at.date() == now.astimezone(UTC).date() else f"{at:%Y-%m-%d %H:%M:%S}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _picture(character: str, category: str) -> str:
    code = ord(character)
    if category == "Zs":
        return " "
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<{code:04X}>"
