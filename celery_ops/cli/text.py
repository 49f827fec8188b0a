"""Tables of plain text: safe whatever they contain, aligned to the width there is."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.tui.text import safe

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_LINE = 100_000
"""Characters of a line that is not cut to a width: a plan names every queue of a worker."""

_GAP = 2
_LEAST = 6
"""A column is not squeezed below this many cells."""
_READABLE = 24
"""Cells a column that gives should keep, before others are left out for it."""
_WIDTH_OF_A_PIPE = 200
_NARROWEST = 40


def safe_lines(text: str) -> str:
    """The text without anything a terminal would obey; only its line ends stay."""
    return "\n".join(safe(line, LONGEST_LINE) for line in text.split("\n"))


def width_of_terminal() -> int:
    """Columns there are; plenty where output goes into a file or a pipe."""
    return shutil.get_terminal_size((_WIDTH_OF_A_PIPE, 24)).columns


def folded(text: str, width: int) -> list[str]:
    """A sentence as lines that end between words. What is indented is an entry of a list."""
    indent = "    " if text.startswith("  ") else "  "
    text = safe_lines(text.replace("\n", " "))
    return textwrap.wrap(
        text,
        max(width, _NARROWEST),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [text]


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def cut(text: str, width: int) -> str:
    """The beginning of the text that fits, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    kept, used = "", 1
    for char in text:
        used += _cells_of(char)
        if used > width:
            break
        kept += char
    return kept + "…"


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `right` aligns numbers.

    Where room is short, columns that are `optional` are left out, the last first; then those that
    `give` are squeezed.
    """

    title: str
    right: bool = False
    gives: bool = False
    optional: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of an aligned table no wider than `width` as far as its columns can give.

    Cells are made safe here. The widest of the columns that give is squeezed first.
    """
    shown = [[safe(cell) for cell in row] for row in rows]
    natural = [
        max([cells(column.title), *(cells(row[index]) for row in shown)])
        for index, column in enumerate(columns)
    ]
    kept = _fitting(columns, natural, width)
    columns = [columns[index] for index in kept]
    widths = [natural[index] for index in kept]
    _squeeze(widths, [index for index, column in enumerate(columns) if column.gives], width)
    titles = [column.title.upper() for column in columns]
    kept_rows = [[row[index] for index in kept] for row in shown]
    return [_line(columns, widths, row) for row in [titles, *kept_rows]]


def _fitting(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The columns that there is room for, if those that give had no more than a readable width."""
    kept = list(range(len(columns)))
    for index in reversed(range(len(columns))):
        wanted = [
            min(natural[one], _READABLE) if columns[one].gives else natural[one] for one in kept
        ]
        if sum(wanted) + _GAP * (len(wanted) - 1) <= width:
            break
        if columns[index].optional:
            kept.remove(index)
    return kept


def _squeeze(widths: list[int], giving: list[int], width: int) -> None:
    missing = sum(widths) + _GAP * (len(widths) - 1) - width
    while missing > 0:
        widest = max(giving, key=lambda index: widths[index], default=None)
        if widest is None or widths[widest] <= _LEAST:
            return
        next_widest = max((widths[index] for index in giving if index != widest), default=0)
        step = min(missing, max(1, widths[widest] - max(_LEAST, next_widest)))
        widths[widest] -= step
        missing -= step


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        fitting = cut(cell, width)
        space = " " * (width - cells(fitting))
        parts.append(space + fitting if column.right else fitting + space)
    return (" " * _GAP).join(parts).rstrip()


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
