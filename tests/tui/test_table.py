"""The table: cursor, marks and scroll stay with their rows, whatever happens to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.app import App

from celery_ops.tui.columns import Column
from celery_ops.tui.table import LiveTable
from celery_ops.tui.text import Cell
from tests.tui.fleets import NOW

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textual.app import ComposeResult


@dataclass(frozen=True)
class Row:
    name: str


COLUMNS: tuple[Column[Row], ...] = (
    Column("name", lambda one, _: Cell(one.name), lambda one: one.name, 10, grow=1),
)


class Small(App[None]):
    """Ten lines high: a header and nine rows."""

    CSS = "LiveTable { height: 10; overflow: hidden auto; }"

    def __init__(self, *, tail: bool = False) -> None:
        super().__init__()
        self.table: LiveTable[Row] = LiveTable(COLUMNS, lambda one: one.name, now=NOW, tail=tail)
        self.heard: list[str | None] = []

    def compose(self) -> ComposeResult:
        yield self.table

    def on_live_table_moved(self, event: LiveTable.Moved) -> None:
        self.heard.append(event.key)

    def show(self, names: Iterable[object]) -> None:
        self.table.show([Row(str(name)) for name in names], NOW)


def seen(app: Small) -> list[str]:
    return [app.table.render_line(y).text.strip(" ▌●") for y in range(1, 10)]


async def test_the_cursor_stays_on_its_row_when_rows_come_and_go() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(5))
        await pilot.press("down", "down")
        assert app.table.cursor_key == "2"
        app.show([7, 8, *range(1, 5)])
        assert app.table.cursor_key == "2"
        app.show(reversed(range(5)))
        assert app.table.cursor_key == "2"


async def test_when_its_row_is_gone_the_cursor_stays_in_its_place_and_says_so() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(5))
        await pilot.press("down", "down")
        app.show([0, 1, 3, 4])
        assert app.table.cursor_key == "3"
        app.show([])
        assert app.table.row is None
        await pilot.pause()
        assert app.heard[-2:] == ["3", None]


async def test_scrolling_survives_a_refresh_and_rows_above_the_cursor() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(100, 200))
        await pilot.press(*["pagedown"] * 4, "up", "up")
        before, line = app.table.cursor_key, seen(app)
        app.show(range(100, 200))
        assert seen(app) == line
        app.show(range(90, 200))
        await pilot.pause()
        assert app.table.cursor_key == before
        assert seen(app) == line


async def test_who_scrolled_away_from_the_cursor_is_not_pulled_back_by_a_refresh() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(100))
        app.table.scroll_to(y=40, animate=False, force=True)
        await pilot.pause()
        app.show(range(100))
        await pilot.pause()
        assert seen(app)[0] == "40"
        await pilot.press("down")
        assert seen(app)[0] == "1"


async def test_the_last_row_can_be_reached_and_seen() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(10_000))
        await pilot.press("end")
        assert seen(app)[-1] == "9999"
        await pilot.press("home")
        assert seen(app)[0] == "0"


async def test_at_the_end_of_a_journal_the_cursor_follows_it() -> None:
    async with Small(tail=True).run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(50))
        app.show(range(60))
        assert app.table.cursor_key == "59"
        await pilot.press("up")
        app.show(range(70))
        assert app.table.cursor_key == "58"


async def test_marks_belong_to_keys() -> None:
    async with Small().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(3))
        app.table.set_marks(frozenset({"1"}))
        app.show([2, 1, 0])
        assert ["●" in app.table.render_line(y).text for y in (1, 2, 3)] == [False, True, False]


async def test_a_row_is_as_wide_as_the_table_whatever_stands_in_it() -> None:
    async with Small().run_test(size=(30, 12)) as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(["x" * 500, "漢" * 500, "", "e\u0301" * 300, "\x1b[31m"])
        await pilot.pause()
        assert {app.table.render_line(y).cell_length for y in range(10)} == {app.table.size.width}


async def test_a_click_moves_the_cursor_and_a_click_on_a_title_asks_for_its_order() -> None:
    clicked: list[int] = []

    class Clicks(Small):
        def on_live_table_header_clicked(self, event: LiveTable.HeaderClicked) -> None:
            clicked.append(event.column)

    async with Clicks().run_test() as pilot:
        app = pilot.app
        assert isinstance(app, Small)
        app.show(range(5))
        await pilot.click(LiveTable, offset=(4, 3))
        assert app.table.cursor_key == "2"
        await pilot.click(LiveTable, offset=(4, 0))
        assert clicked == [0]
