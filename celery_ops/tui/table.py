"""A table that draws only the rows on the screen, straight from the values it is given.

Rows are known by their keys: cursor, marks and scroll position stay with them whatever is added,
gone or sorted anew. Nothing is copied per row: ten thousand cost what the visible fifty do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from celery_ops.tui.columns import GAP, Column, Placed, fit
from celery_ops.tui.lines import Toned
from celery_ops.tui.text import Tone, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from rich.style import Style
    from textual import events

T = TypeVar("T")

GUTTER = 2
"""Cells before the first column: the cursor's bar and the mark."""
MEASURED = 300
"""Rows whose content decides how wide the columns are."""


class LiveTable(Toned, Generic[T], can_focus=True):
    """Rows of `T`. `tail`: while the cursor is on the last row it stays there as rows are added."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "edge(-1)", show=False),
        Binding("end", "edge(1)", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor", "table--marked"}

    @dataclass
    class Moved(Message):
        """The cursor is on another row now; `key` is None where there is none."""

        table: LiveTable[Any]
        key: str | None

    @dataclass
    class Opened(Message):
        """A row was clicked twice."""

        table: LiveTable[Any]

    @dataclass
    class HeaderClicked(Message):
        """A column's title was clicked; `column` counts all columns from 0."""

        table: LiveTable[Any]
        column: int

    def __init__(
        self,
        columns: Sequence[Column[T]],
        key: Callable[[T], str],
        *,
        now: datetime,
        tail: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.marks: frozenset[str] = frozenset()
        self._key = key
        self._now = now
        self._tail = tail
        self._rows: Sequence[T] = ()
        self._places: dict[str, int] = {}
        self._cursor = 0
        self._sorted: tuple[int, bool] | None = None
        self._empty = ""
        self._fitted_to = -1
        self._fit: tuple[Placed, ...] = ()
        self._faded: Callable[[T], bool] = lambda _: False

    def on_resize(self) -> None:
        self._resized()
        self._reveal()

    def on_click(self, event: events.Click) -> None:
        row = event.y - 1 + self.scroll_offset.y
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.post_message(self.HeaderClicked(self, column))
        elif row < len(self._rows):
            self._go(row)
            if event.chain == 2:
                self.post_message(self.Opened(self))

    def action_move(self, by: int) -> None:
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self._cursor + by * max(1, self._height - 1))

    def action_edge(self, to: int) -> None:
        self._go(0 if to < 0 else len(self._rows) - 1)

    @property
    def row(self) -> T | None:
        """The row under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    @property
    def rows(self) -> Sequence[T]:
        return self._rows

    @property
    def cursor_key(self) -> str | None:
        row = self.row
        return None if row is None else self._key(row)

    def show(
        self,
        rows: Sequence[T],
        now: datetime,
        *,
        sorted_by: tuple[int, bool] | None = None,
        empty: str = "",
        faded: Callable[[T], bool] | None = None,
    ) -> None:
        """Show these rows. `sorted_by`: a column, and if it descends; `empty`: said if none."""
        key, line = self.cursor_key, self._cursor - self.scroll_offset.y
        at_end = self._tail and self._cursor >= len(self._rows) - 1
        in_sight = 0 <= line < self._height
        self._rows, self._now, self._sorted, self._empty = rows, now, sorted_by, empty
        self._faded = faded or self._faded
        self._fitted_to = -1
        self._places = {self._key(row): place for place, row in enumerate(rows)}
        last = max(0, len(rows) - 1)
        self._cursor = last if at_end else self._places.get(key or "", min(self._cursor, last))
        self._resized()
        if in_sight and self.scroll_offset.y > 0:
            self.scroll_to(y=max(0, self._cursor - line), animate=False, force=True)
        if in_sight or at_end:
            self._reveal()
        self.refresh()
        if self.cursor_key != key:
            self.post_message(self.Moved(self, self.cursor_key))

    def age(self, now: datetime) -> None:
        """Draw the same rows at a later moment."""
        self._now = now
        self.refresh()

    def set_marks(self, marks: frozenset[str]) -> None:
        self.marks = marks
        self.refresh()

    def has(self, key: str) -> bool:
        """Whether a row of that key is shown now."""
        return key in self._places

    def select(self, key: str) -> None:
        """Put the cursor on a row, if it is shown."""
        if key in self._places:
            self._go(self._places[key])

    def render_line(self, y: int) -> Strip:
        width = self.room
        place = y - 1 + self.scroll_offset.y
        if not self._rows:
            return self._said_instead(y, width)
        if y == 0:
            return self._header(width)
        if place < len(self._rows):
            return self._drawn_row(place, width)
        return Strip.blank(width, self.base)

    @property
    def _height(self) -> int:
        return max(1, self.size.height - 1)

    def _placed(self, width: int) -> tuple[Placed, ...]:
        if self._fitted_to != width:
            self._fitted_to, self._fit = width, fit(self.columns, width - GUTTER, self._needs())
        return self._fit

    def _needs(self) -> list[int]:
        """How wide the growing columns' content is, as far as the first rows tell."""
        return [
            column.history
            or max((cell_len(safe(column.cell(row, self._now).text)) for row in some), default=0)
            for column in self.columns
            for some in (self._rows[:MEASURED] if column.grow else (),)
        ]

    def _column_at(self, x: int) -> int | None:
        left = GUTTER
        for place, width in self._placed(self.room):
            if left <= x < left + width + GAP:
                return place
            left += width + GAP
        return None

    def _said_instead(self, y: int, width: int) -> Strip:
        """Without rows there are no titles either, but why there is nothing."""
        text = " " * GUTTER + self._empty if y == 1 else ""
        return Strip([Segment(_fitted(text, width), self.toned(Tone.DIM, self.base))])

    def _header(self, width: int) -> Strip:
        base = self.base + self.get_component_rich_style("table--header", partial=True)
        pen = _Pen(" " * GUTTER, base)
        for place, room in self._placed(width):
            column, title, style = self.columns[place], self.columns[place].name, base
            if self._sorted is not None and self._sorted[0] == place:
                title += "▼" if self._sorted[1] else "▲"
                style = self.toned(Tone.STRONG, base)
            pen.write(_fitted(title, room, right=column.right), style)
            pen.write(" " * GAP, base)
        return pen.strip(width)

    def _drawn_row(self, at: int, width: int) -> Strip:
        row = self._rows[at]
        here, marked = at == self._cursor, self._key(row) in self.marks
        focused = here and self.has_focus
        base = self.base
        if marked:
            base += self.get_component_rich_style("table--marked", partial=True)
        if focused:
            base += self.get_component_rich_style("table--cursor", partial=True)
        pen = _Pen("▌" if here else " ", self.toned(Tone.STRONG if focused else Tone.DIM, base))
        pen.write("●" if marked else " ", self.toned(Tone.STRONG, base) if marked else base)
        faded = self._faded(row)
        for place, room in self._placed(width):
            column = self.columns[place]
            cell = column.cell(row, self._now)
            style = self.toned(Tone.DIM if faded else cell.tone, base)
            text = safe(cell.text)[-room:] if column.history else safe(cell.text)
            pen.write(_fitted(text, room, right=column.right), style)
            pen.write(" " * GAP, base)
        return pen.strip(width)

    def _resized(self) -> None:
        size = Size(self.room, len(self._rows) + 1)
        if self.virtual_size != size:
            self.virtual_size = size

    def _go(self, place: int) -> None:
        place = max(0, min(place, len(self._rows) - 1))
        before, self._cursor = self._cursor, place
        if place != before:
            self.post_message(self.Moved(self, self.cursor_key))
        self._reveal()
        self.refresh_line(before + 1)
        self.refresh_line(place + 1)

    def _reveal(self) -> None:
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + self._height:
            self.scroll_to(y=self._cursor - self._height + 1, animate=False, force=True)


class _Pen:
    """Writes a line with as few segments as it has changes of style: each costs on every frame."""

    __slots__ = ("_segments", "_style", "_text")

    def __init__(self, text: str, style: Style) -> None:
        self._segments: list[Segment] = []
        self._text, self._style = text, style

    def write(self, text: str, style: Style) -> None:
        if style is self._style or style == self._style or not text.strip():
            self._text += text
        else:
            self._segments.append(Segment(self._text, self._style))
            self._text, self._style = text, style

    def strip(self, width: int) -> Strip:
        return Strip([*self._segments, Segment(self._text, self._style)]).adjust_cell_length(
            width, self._style
        )


def _fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` cells."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    padding = " " * (width - length)
    return padding + text if right else text + padding
