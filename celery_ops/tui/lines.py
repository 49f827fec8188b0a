"""Lines of toned text, wrapped and scrolled: the plan, the help, descriptions, banners.

With `LiveTable` this is all that draws text of others, and both draw it through `text.safe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from celery_ops.tui.text import Cell, Tone, safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.style import Style


@dataclass(frozen=True, slots=True)
class Line:
    """Some cells in a row. With `indent` the first is a label that the others hang beside."""

    cells: tuple[Cell, ...] = ()
    indent: int = 0

    @property
    def text(self) -> str:
        return "".join(cell.text for cell in self.cells)


def line(*parts: str | tuple[str, Tone], indent: int = 0) -> Line:
    """A line of plain texts and (text, tone) pairs."""
    cells = (Cell(part) if isinstance(part, str) else Cell(*part) for part in parts if part)
    return Line(tuple(cells), indent)


class Toned(ScrollView):
    """A widget that draws toned text. Tones are component classes, coloured in the style sheet."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tone--{tone}" for tone in Tone}
    ALLOW_SELECT = False

    _toned: dict[tuple[Tone, Style], Style]

    def notify_style_update(self) -> None:
        self._toned = {}
        super().notify_style_update()

    @property
    def base(self) -> Style:
        """The widget's own style; unlike `rich_style` it is not worked out anew for every line."""
        return self.visual_style.rich_style

    @property
    def room(self) -> int:
        """The cells of a line: Textual's `size` has the scrollbar in it, drawn over their end."""
        return self.size.width - self.scrollbar_size_vertical

    def toned(self, tone: Tone, base: Style) -> Style:
        """The style of a tone upon a base style."""
        if tone is Tone.PLAIN:
            return base
        found = self._toned.get((tone, base))
        if found is None:
            found = base + self.get_component_rich_style(f"tone--{tone}", partial=True)
            self._toned[tone, base] = found
        return found


class Lines(Toned, can_focus=False):
    """Shows lines; wraps them to its width. Scrolls where the style sheet gives it a height."""

    def __init__(self, lines: Iterable[Line] = (), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[Line, ...] = tuple(lines)
        self._drawn: list[Strip] = []
        self._drawn_for: tuple[object, ...] = ()

    def show(self, lines: Sequence[Line]) -> None:
        """Replace the lines; what is scrolled to stays."""
        if tuple(lines) == self._lines:
            return
        height = len(self._wrapped(self.room)) if self.size.width else -1
        self._lines = tuple(lines)
        if not self.size.width:
            self.refresh(layout=True)
            return
        drawn = self._wrapped(self.room)
        self._measure()
        self.refresh(layout=height != len(drawn))

    @property
    def plain(self) -> str:
        """What is shown, without tones and wrapping."""
        return "\n".join(safe(line.text) for line in self._lines)

    def notify_style_update(self) -> None:
        self._drawn_for = ()
        super().notify_style_update()

    def get_content_width(self, container: Size, viewport: Size) -> int:
        del viewport
        widest = max((cell_len(safe(line.text)) for line in self._lines), default=0)
        return min(container.width, widest)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        del container, viewport
        return len(self._wrapped(width))

    def on_resize(self) -> None:
        self._measure()

    def watch_show_vertical_scrollbar(self) -> None:
        """Its line is narrower now, or wider, and so there are more of them, or fewer."""
        if self.size.width:
            self._measure()

    def render_line(self, y: int) -> Strip:
        drawn = self._wrapped(self.room)
        row = y + self.scroll_offset.y
        if row >= len(drawn):
            return Strip.blank(self.size.width, self.base)
        return drawn[row].extend_cell_length(self.size.width, self.base)

    def _measure(self) -> None:
        self.virtual_size = Size(self.room, len(self._wrapped(self.room)))

    def _wrapped(self, width: int) -> list[Strip]:
        wanted = (self._lines, width, self.base)
        if self._drawn_for != wanted:
            self._drawn = [strip for line in self._lines for strip in self._wrap(line, width)]
            self._drawn_for = wanted
        return self._drawn

    def _wrap(self, line: Line, width: int) -> list[Strip]:
        base = self.base
        room = width - line.indent
        cells = line.cells
        label: list[Segment] = []
        if line.indent and cells and room > 0:
            name = safe(cells[0].text)
            label = [Segment(name.ljust(line.indent), self.toned(cells[0].tone, base))]
            cells = cells[1:]
        segments = [Segment(safe(cell.text), self.toned(cell.tone, base)) for cell in cells]
        if sum(cell_len(segment.text) for segment in segments) <= room or room < 8:
            return [Strip([*label, *segments])]
        text = Text.assemble(*((segment.text, segment.style or base) for segment in segments))
        rows = text.wrap(self.app.console, room, overflow="fold")
        hanging = [Segment(" " * line.indent, base)] if line.indent else []
        return [
            Strip([*(hanging if number else label), *row.render(self.app.console)])
            for number, row in enumerate(rows)
        ]
