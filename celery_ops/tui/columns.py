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
    """One column. `width` is what it is given in cells, `grow` its share of what is to spare; one
    that grows can also be narrower, where its content is.

    What it sorts by is of one type for all rows, or None: not known, and last in either direction.

    The higher `drop`, the earlier it is left out on a narrow terminal; 0 always stays. `counts`: it
    sorts by the number it shows, so a filter can compare it. `history`: so many cells it can fill;
    where there is less room its beginning is left out, and nothing tells so.
    """

    name: str
    cell: Callable[[T, datetime], Cell]
    order: Callable[[T], Any]
    width: int
    grow: int = 0
    drop: int = 0
    right: bool = False
    counts: bool = False
    history: int = 0


class Placed(NamedTuple):
    """A column that is shown: its place among all columns, and its width in cells."""

    place: int
    width: int


def fit(columns: Sequence[Column[T]], width: int, needs: Sequence[int]) -> tuple[Placed, ...]:
    """The columns that fit into `width` cells, in their order.

    `needs` is how wide the content of each is: a growing column takes no more than that, and gives
    back what it does not need.
    """
    least = [
        min(column.width, max(len(column.name) + 1, need)) if column.grow else column.width
        for column, need in zip(columns, needs, strict=True)
    ]
    kept = list(range(len(columns)))
    while len(kept) > 1 and _total(least, kept) > width:
        first_to_go = max(kept, key=lambda place: (columns[place].drop, place))
        if columns[first_to_go].drop == 0:
            break
        kept.remove(first_to_go)
    spare = max(0, width - _total(least, kept))
    while spare and (hungry := [p for p in kept if columns[p].grow and least[p] < needs[p]]):
        shares = sum(columns[place].grow for place in hungry)
        for place, share in [(p, max(1, spare * columns[p].grow // shares)) for p in hungry]:
            given = min(share, needs[place] - least[place], spare)
            least[place] += given
            spare -= given
    return tuple(Placed(place, least[place]) for place in kept)


def ordered(items: Iterable[T], column: Column[T], *, descending: bool) -> list[T]:
    """The items by one column; equals keep their order, the unknown comes last."""
    keyed = [(column.order(item), item) for item in items]
    known = [pair for pair in keyed if pair[0] is not None]
    known.sort(key=itemgetter(0), reverse=descending)
    return [item for _, item in known] + [item for order, item in keyed if order is None]


@lru_cache(maxsize=32_768)
def natural(name: str) -> tuple[object, ...]:
    """Sorts `worker2` before `worker10`."""
    parts = _DIGITS.split(name[:200].casefold())
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts))


def _total(widths: Sequence[int], places: Sequence[int]) -> int:
    return sum(widths[place] for place in places) + GAP * (len(places) - 1)
