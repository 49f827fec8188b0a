"""Many lines of text that grow at their end: wrapped once, bounded, and followed until somebody
scrolls away.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from celery_ops.tui.lines import Toned
from celery_ops.tui.text import Cell, safe

if TYPE_CHECKING:
    from collections.abc import Iterable


MOST_LINES = 5_000
"""Lines that are kept; the oldest go first."""
HANGING = "    "
LEAST_TO_HANG = 20
"""Cells below which no room is wasted."""


class LogView(Toned, can_focus=True):
    """Shows cells, one below the other. The end is followed as long as it is in sight."""

    class Moved(Message):
        """What is in sight changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: deque[Cell] = deque()
        self._rows: list[Strip] = []
        self._heights: deque[int] = deque()
        self._width = 0
        self.follows = True
        """Whether the end stays in sight when lines are added."""

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self.is_mounted:
            self._wrap_anew()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.follows = round(new_value) + self.size.height >= len(self._rows)
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        width = self.scrollable_content_region.width
        if width != self._width:
            self._width = width
            self._wrap_anew()
        else:
            self._arrange(0)

    @property
    def plain(self) -> str:
        """All lines there are, as they are shown."""
        return "\n".join(safe(cell.text) for cell in self._lines)

    @property
    def below(self) -> int:
        """Rows beneath those in sight."""
        return max(0, len(self._rows) - self.scroll_offset.y - self.size.height)

    def add(self, cells: Iterable[Cell]) -> None:
        """Add lines at the end; what somebody scrolled to stays where it is."""
        for cell in cells:
            self._append(cell)
        dropped = 0
        while len(self._lines) > MOST_LINES:
            self._lines.popleft()
            dropped += self._heights.popleft()
        del self._rows[:dropped]
        self._arrange(dropped)

    def show(self, cells: Iterable[Cell]) -> None:
        """Replace all lines; the end is in sight."""
        self._lines.clear()
        self._heights.clear()
        self._rows.clear()
        self.follows = True
        self.add(cells)

    def action_scroll_end(self) -> None:
        self.to_end()

    def to_end(self) -> None:
        """Follow again."""
        self.follows = True
        self._arrange(0)
        self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        row = y + self.scroll_offset.y
        if row >= len(self._rows):
            return Strip.blank(self.size.width, self.base)
        return self._rows[row].extend_cell_length(self.size.width, self.base)

    def _append(self, cell: Cell) -> None:
        self._lines.append(cell)
        rows = self._wrapped(cell)
        self._rows += rows
        self._heights.append(len(rows))

    def _wrap_anew(self) -> None:
        cells = list(self._lines)
        follows, top = self.follows, self.scroll_offset.y
        self._lines.clear()
        self._heights.clear()
        self._rows.clear()
        for cell in cells:
            self._append(cell)
        self.follows = follows
        self._arrange(0)
        if not follows:
            self.scroll_to(y=top, animate=False, force=True, immediate=True)

    def _arrange(self, dropped: int) -> None:
        follows = self.follows
        self.virtual_size = Size(self._width, len(self._rows))
        if follows or dropped:
            last = max(0, len(self._rows) - self.size.height)
            y = last if follows else max(0, self.scroll_offset.y - dropped)
            self.scroll_to(y=y, animate=False, force=True, immediate=True)
            self.follows = follows
        self.refresh()

    def _wrapped(self, cell: Cell) -> list[Strip]:
        if not self._width:
            return []
        style = self.toned(cell.tone, self.base)
        return [Strip([Segment(row, style)]) for row in folded(safe(cell.text), self._width)]


def folded(text: str, width: int) -> list[str]:
    """The rows of a line, broken at spaces where that costs little; all but the first hang."""
    rows: list[str] = []
    hanging = ""
    while (cells := len(text) if text.isascii() else cell_len(text)) > width - len(hanging):
        room = width - len(hanging)
        fits = room if cells == len(text) else max(1, len(chop_cells(text[:room], room)[0]))
        space = text.rfind(" ", room // 2, fits + 1)
        end, begin = (space, space + 1) if space > 0 else (fits, fits)
        rows.append(hanging + text[:end])
        text = text[begin:]
        hanging = HANGING if width > LEAST_TO_HANG else ""
    return [*rows, hanging + text]
