"""The filter line: words that must be there, `!words` that must not, `field:value`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.tui.columns import Column

T = TypeVar("T")

_COMPARISON = re.compile(r"([<>])(=?)(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `field` is a column's name, or None for any of them; compared without case."""

    text: str
    field: str | None = None
    excludes: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """All its words must hold."""

    words: tuple[Word, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Every text is a filter; an empty one lets everything through."""
        return cls(tuple(_word(part) for part in text.split()))

    def unknown_fields(self, columns: Sequence[Column[T]]) -> tuple[str, ...]:
        """Fields that are no column: such a word is looked for as it stands."""
        names = {column.name for column in columns}
        return tuple(word.field for word in self.words if word.field and word.field not in names)

    def matches(self, item: T, columns: Sequence[Column[T]], now: datetime) -> bool:
        """Whether the item is to be shown."""
        return all(_found(word, item, columns, now) != word.excludes for word in self.words)


def _word(part: str) -> Word:
    text = part.removeprefix("!")
    field, colon, value = text.partition(":")
    excludes = part.startswith("!") and bool(text)
    if colon and field and value:
        return Word(value.casefold(), field.casefold(), excludes)
    return Word(text.casefold() if excludes else part.casefold(), None, excludes)


def _found(word: Word, item: T, columns: Sequence[Column[T]], now: datetime) -> bool:
    if word.field is None:
        return _in_texts(word.text, item, columns, now)
    for column in columns:
        if column.name == word.field:
            return _holds(word.text, column, item, now)
    return _in_texts(f"{word.field}:{word.text}", item, columns, now)


def _in_texts(text: str, item: T, columns: Sequence[Column[T]], now: datetime) -> bool:
    """Looks at the columns of text only: a number is asked for by its column's name."""
    return any(
        text in column.cell(item, now).text.casefold() for column in columns if not column.right
    )


def _holds(text: str, column: Column[T], item: T, now: datetime) -> bool:
    comparison = _COMPARISON.fullmatch(text) if column.counts else None
    if comparison is None:
        return text in column.cell(item, now).text.casefold()
    value, limit = column.order(item), float(comparison[3])
    if value is None:
        return False
    if comparison[2] and value == limit:
        return True
    return bool(value > limit if comparison[1] == ">" else value < limit)
