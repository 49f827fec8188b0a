"""A service's log as it is written. Leaving it ends the reading on the host, and nothing else."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical

from celery_ops.tui.bars import Bar, Part
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.frame import Frame
from celery_ops.tui.log_view import MOST_LINES, LogView
from celery_ops.tui.messages import CopyAsked
from celery_ops.tui.table_view import FilterLine
from celery_ops.tui.text import FRESH, Cell, Tone, age, clock, counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets import Input

    from celery_ops.model import ServiceRef
    from celery_ops.tui.messages import LogBroke, LogRead
    from celery_ops.tui.picture import Picture

JOINED_BY = 5
"""Lines by which the end of what was read is found again in a log that is begun anew."""

_JOURNAL_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\+0000 ")
_TONES = (
    (re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b"), Tone.BAD),
    (re.compile(r"\bWARN(?:ING)?\b"), Tone.WARN),
)
_LOOKED_AT = 200
"""Characters in which a level stands, if one does."""


class LogScreen(Frame):
    """Follows one log, fed by messages. Lines wait while the display is frozen."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.LOG)]

    def __init__(self, picture: Picture, service: ServiceRef) -> None:
        super().__init__(picture)
        self._service = service
        self._opened_at = picture.now
        self._read_at: datetime | None = None
        self._broken: LogBroke | None = None
        self._history: deque[Cell] = deque(maxlen=MOST_LINES)
        self._last: deque[str] = deque(maxlen=JOINED_BY)
        self._waiting = 0
        self._words: tuple[str, ...] = ()
        self._title = Bar(id="title")
        self._state = Bar(id="state")
        self._view = LogView(id="log")
        self._line = FilterLine()
        self._line.placeholder = "word  !word: only lines with it, only those without"

    def content(self) -> ComposeResult:
        yield self._title
        yield self._state
        with Vertical(id="lines"):
            yield self._view
            yield self._line

    def watch_picture(self, before: Picture, now: Picture) -> None:
        if not self.is_mounted:
            return
        if before.frozen_at is not None and now.frozen_at is None and self._waiting:
            waiting, self._waiting = list(self._history)[-self._waiting :], 0
            self._view.add([cell for cell in waiting if self._passes(cell)])
        self._draw()

    def on_mount(self) -> None:
        super().on_mount()
        self._line.display = False
        self._view.focus()
        self._draw()

    def on_log_read(self, message: LogRead) -> None:
        message.stop()
        lines: Sequence[str] = message.lines
        if self._broken is not None:
            lines = self._resumed(lines, message.at)
        self._read_at, self._broken = message.at, None
        self._last.extend(lines)
        self._add([_cell(text, message.at) for text in lines])
        message.taken.set()

    def on_log_broke(self, message: LogBroke) -> None:
        message.stop()
        if self._broken is None:
            self._add([Cell(f"── {clock(message.at)} UTC: {message.why}", Tone.WARN)])
        self._broken = message
        self._draw()

    def on_log_view_moved(self) -> None:
        self.refresh_bindings()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._words = tuple(event.value.casefold().split())
        self._show_all()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._view.focus()
        self._line.display = bool(event.value)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action != "to_end" or not self._view.follows

    def action_back(self) -> None:
        """Give the filter up first."""
        if self._line.has_focus or self._words:
            self._line.value = ""
            self._line.display = False
            self._view.focus()
        else:
            self.dismiss()

    def action_filter(self) -> None:
        self._line.display = True
        self._line.focus()

    def action_to_end(self) -> None:
        self._view.to_end()

    def action_copy(self) -> None:
        self.post_message(CopyAsked(self._view.plain))

    @property
    def plain(self) -> str:
        """The lines that are shown."""
        return self._view.plain

    def _resumed(self, lines: Sequence[str], at: datetime) -> Sequence[str]:
        """What is new of a log that was begun anew, which begins with lines of the past."""
        new = _after(lines, tuple(self._last))
        if new is None:
            said = "what was written meanwhile may be missing, or stand here twice"
        else:
            said = "nothing is missing"
        self._add([Cell(f"── {clock(at)} UTC: following again; {said}", Tone.NOTE)])
        return lines if new is None else new

    def _add(self, cells: Sequence[Cell]) -> None:
        self._history.extend(cells)
        if self.picture.frozen_at is not None:
            self._waiting += len(cells)
        else:
            self._view.add([cell for cell in cells if self._passes(cell)])
        self._draw()

    def _show_all(self) -> None:
        """All but what waits."""
        seen = list(self._history)[: len(self._history) - self._waiting]
        self._view.show(cell for cell in seen if self._passes(cell))
        self._draw()

    def _passes(self, cell: Cell) -> bool:
        text = cell.text.casefold() if self._words else ""
        return all(
            (word[1:] not in text) if word.startswith("!") and word[1:] else word in text
            for word in self._words
        )

    def _draw(self) -> None:
        now = self.picture.now
        service = self._service
        runs = f"  {service.worker}" if service.worker else ""
        self._title.show(
            [Part(f"log of {service}", Tone.STRONG), Part(runs, Tone.DIM)], [self._heard(now)]
        )
        self._state.show(self._following(now))

    def _heard(self, now: datetime) -> Part:
        """Since when nothing came."""
        if self._read_at is None:
            quiet = (now - self._opened_at).total_seconds()
            return Part(f"  nothing came yet ({age(quiet)}) ", Tone.DIM)
        quiet = (now - self._read_at).total_seconds()
        tone = Tone.DIM if quiet <= FRESH else Tone.NOTE
        return Part(f"  last line {age(quiet)} ago ", tone)

    def _following(self, now: datetime) -> list[Part]:
        """Whether the end of the log is seen, and what keeps it from that."""
        parts = []
        if self._broken is not None:
            since, again = age(self._broken.since(now)), self._broken.again_in(now)
            when = f"tried again in {age(again)}" if again else "being tried again"
            says = f"▲ NOT FOLLOWED for {since}, {when}: "
            parts += [Part(says, Tone.BAD), Part(self._broken.why)]
        elif self._waiting:
            says = f"‖ {counted(self._waiting, 'line')} came since it was frozen; p shows them"
            parts.append(Part(says, Tone.WARN))
        elif not self._view.follows:
            says = f"↑ scrolled away, {counted(self._view.below, 'row')} below; f follows again"
            parts.append(Part(says, Tone.NOTE))
        else:
            parts.append(Part("following", Tone.DIM))
        if self._words:
            parts.append(Part("  only lines that match; esc shows all", Tone.NOTE))
        return parts


def _cell(text: str, now: datetime) -> Cell:
    """A line with its journal's time made short, and the tone of its level."""
    time = _JOURNAL_TIME.match(text)
    if time is not None:
        day = "" if time[1] == f"{now:%Y-%m-%d}" else f"{time[1]} "
        text = f"{day}{time[2]} {text[time.end() :]}"
    head = text[:_LOOKED_AT]
    return Cell(text, next((tone for level, tone in _TONES if level.search(head)), Tone.PLAIN))


def _after(lines: Sequence[str], last: tuple[str, ...]) -> Sequence[str] | None:
    """What follows the last lines that were read; None if they are not among these."""
    if not last:
        return None
    for end in range(len(lines), len(last) - 1, -1):
        if tuple(lines[end - len(last) : end]) == last:
            return lines[end:]
    return None
