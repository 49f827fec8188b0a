"""Which columns are shown, and in which order the rows stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from celery_ops.tui import queues, runs, workers
from celery_ops.tui.columns import GAP, Column, fit, natural, ordered
from celery_ops.tui.text import Cell

if TYPE_CHECKING:
    from collections.abc import Sequence


def column(name: str, width: int, *, grow: int = 0, drop: int = 0) -> Column[int | None]:
    return Column(name, lambda one, _: Cell(str(one)), lambda one: one, width, grow, drop)


COLUMNS = (
    column("name", 10, grow=2),
    column("state", 8),
    column("extra", 6, drop=2),
    column("note", 10, grow=1, drop=1),
)


PLENTY = (500, 0, 0, 500)
"""Content that fills whatever it is given."""


def names(width: int) -> list[str]:
    return [COLUMNS[place].name for place, _ in fit(COLUMNS, width, PLENTY)]


def test_a_wide_terminal_shows_every_column() -> None:
    assert names(80) == ["name", "state", "extra", "note"]


def test_what_matters_least_is_left_out_first() -> None:
    assert names(32) == ["name", "state", "note"]
    assert names(25) == ["name", "state"]


def test_what_always_stays_is_not_left_out_however_narrow() -> None:
    assert names(5) == ["name", "state"]


@given(st.integers(min_value=0, max_value=400))
def test_the_spare_is_shared_out_to_the_last_cell(width: int) -> None:
    placed = fit(COLUMNS, width, PLENTY)
    used = sum(one.width for one in placed) + GAP * (len(placed) - 1)
    least = sum(COLUMNS[one.place].width for one in placed) + GAP * (len(placed) - 1)
    assert used == max(width, least)


def test_a_column_takes_no_more_than_its_content_needs_and_leaves_the_rest_to_others() -> None:
    widths = {COLUMNS[one.place].name: one.width for one in fit(COLUMNS, 80, (12, 0, 0, 40))}
    assert widths == {"name": 12, "state": 8, "extra": 6, "note": 40}


def test_short_content_makes_room_for_one_more_column() -> None:
    assert len(fit(COLUMNS, 34, (500, 0, 0, 500))) == 3
    assert len(fit(COLUMNS, 34, (6, 0, 0, 6))) == 4


def test_the_unknown_comes_last_in_both_directions() -> None:
    by_name = COLUMNS[0]
    assert ordered([3, None, 1], by_name, descending=False) == [1, 3, None]
    assert ordered([3, None, 1], by_name, descending=True) == [3, 1, None]


def test_worker2_stands_before_worker10() -> None:
    assert sorted(["w10", "w2", "W1"], key=natural) == ["W1", "w2", "w10"]
    assert sorted(["2", "a", "", "a٣"], key=natural)


def test_columns_have_names_of_their_own_and_fit_their_titles() -> None:
    for columns in (workers.COLUMNS, QUEUES, runs.COLUMNS):
        titles = [column.name for column in columns]
        assert len(set(titles)) == len(titles)
        assert all(column.width >= len(column.name) for column in columns)


QUEUES = queues.columns(lambda _: Cell(""))


def shown_on_80(columns: Sequence[Column[Any]]) -> list[str]:
    """With content as wide as it can be."""
    return [columns[one.place].name for one in fit(columns, 78, [500] * len(columns))]


def test_on_80_columns_the_views_keep_what_an_operator_needs() -> None:
    shown = shown_on_80(workers.COLUMNS)
    assert {"worker", "state", "age", "active", "taken", "queues"} <= set(shown)
    shown = shown_on_80(QUEUES)
    needed = {"queue", "ready", "unacked", "consumers", "depth", "out", "drains", "age"}
    assert needed <= set(shown)
    shown = shown_on_80(runs.COLUMNS)
    assert {"run", "state", "runbook", "changed"} <= set(shown)
