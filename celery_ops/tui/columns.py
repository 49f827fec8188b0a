"""Columns of a table: what each shows, how it sorts, which are left out for want of room. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from celery_ops.tui.text import Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

T = TypeVar("T")

GAP = 2
"""Cells between two columns."""
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column. `width` is its least width in cells, `grow` its share of what is to spare.

    What it sorts by is of one type for all rows, or None: not known, and last in either direction.

    The higher `drop`, the earlier it is left out on a narrow terminal; 0 always stays. `counts`: it
    sorts by the number it shows, so a filter can compare it.
    """

    name: str
    cell: Callable[[T, datetime], Cell]
    order: Callable[[T], Any]
    width: int
    grow: int = 0
    drop: int = 0
    right: bool = False
    counts: bool = False


class Placed(NamedTuple):
    """A column that is shown: its place among all columns, and its width in cells."""

    place: int
    width: int


def fit(columns: Sequence[Column[T]], width: int) -> tuple[Placed, ...]:
    """The columns that fit into `width` cells, in their order, the spare shared out."""
    kept = list(enumerate(columns))
    while len(kept) > 1 and _needed(column for _, column in kept) > width:
        first_to_go = max(kept, key=lambda pair: (pair[1].drop, pair[0]))
        if first_to_go[1].drop == 0:
            break
        kept.remove(first_to_go)
    spare = max(0, width - _needed(column for _, column in kept))
    shares = sum(column.grow for _, column in kept)
    placed = []
    for index, column in kept:
        share = spare * column.grow // shares if shares else 0
        spare, shares = spare - share, shares - column.grow
        placed.append(Placed(index, column.width + share))
    return tuple(placed)


def ordered(items: Iterable[T], column: Column[T], *, descending: bool) -> list[T]:
    """The items by one column; equals keep their order, the unknown comes last."""
    known: list[tuple[Any, T]] = []
    unknown: list[T] = []
    for item in items:
        order = column.order(item)
        if order is None:
            unknown.append(item)
        else:
            known.append((order, item))
    known.sort(key=itemgetter(0), reverse=descending)
    return [item for _, item in known] + unknown


@lru_cache(maxsize=32_768)
def natural(name: str) -> tuple[object, ...]:
    """Sorts `worker2` before `worker10`."""
    parts = _DIGITS.split(name[:200].casefold())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))


def _needed(columns: Iterable[Column[T]]) -> int:
    widths = [column.width for column in columns]
    return sum(widths) + GAP * (len(widths) - 1)
