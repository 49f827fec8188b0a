"""A view that is one table: its filter, sort order, marks and cursor, and the keys for them.

A view knows what its rows are and what is wrong with them; what is wanted of them goes up as
messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from textual.containers import Vertical
from textual.reactive import var
from textual.widgets import Input

from celery_ops.tui.columns import Column, ordered
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.filters import Filter
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.messages import CopyAsked, DescribeAsked, LogAsked, RawAsked
from celery_ops.tui.picture import BLANK, Kind, Picture, Subject
from celery_ops.tui.table import LiveTable
from celery_ops.tui.text import Tone, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from celery_ops.model import ServiceRef

T = TypeVar("T")


class FilterLine(Input):
    """Where the filter is typed; enter and escape go back to the table."""

    def __init__(self) -> None:
        super().__init__(placeholder="word  !word  field:value  field:>10", compact=True)


class TableView(Vertical, Generic[T]):
    """Base of the views. `noun` is the word for one row; `kind` what `d` describes."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.TABLE)]

    noun: ClassVar[str]
    kind: ClassVar[Kind]
    has_logs: ClassVar[bool] = False
    """Whether its rows have services, or are some: `log_of` is asked then."""

    picture: var[Picture] = var(BLANK)

    def __init__(self, picture: Picture, columns: Sequence[Column[T]], *, id: str) -> None:
        super().__init__(id=id)
        self.set_reactive(TableView.picture, picture)
        self._title = Lines(id="title")
        self._table: LiveTable[T] = LiveTable(columns, self.key, now=picture.now)
        self._line = FilterLine()
        self._filter = Filter()
        self._sorted = (0, False)
        self._only_wrong = False
        self._total = 0
        self._said = ""

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._table
        yield self._line

    def watch_picture(self, before: Picture, now: Picture) -> None:
        """Arrange the rows anew when they changed; draw only their ages when they did not."""
        if not self.is_mounted or not self.display:
            return
        if before is not now and self.source(before) is self.source(now):
            self._table.age(now.now)
        else:
            self.refresh_rows()

    def on_mount(self) -> None:
        self._line.display = False
        self.refresh_rows()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._filter = Filter.parse(event.value)
        self.refresh_rows()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._table.focus()
        self._line.display = bool(event.value)

    def on_live_table_opened(self) -> None:
        self.action_open()

    def on_live_table_moved(self, event: LiveTable.Moved) -> None:
        event.stop()

    def on_live_table_header_clicked(self, event: LiveTable.HeaderClicked) -> None:
        column, descending = self._sorted
        self._sort_by(event.column, descending=event.column == column and not descending)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        if action == "log":
            return self.has_logs
        return action != "back" or bool(
            self._filter.words or self._table.marks or self._only_wrong or self._line.has_focus
        )

    def action_open(self) -> None:
        self.action_describe()

    def action_describe(self) -> None:
        if (subject := self.subject) is not None:
            self.post_message(DescribeAsked(subject))

    def action_raw(self) -> None:
        if (subject := self.subject) is not None:
            self.post_message(RawAsked(subject))

    def action_copy(self) -> None:
        if (subject := self.subject) is not None:
            self.post_message(CopyAsked(subject.name))

    def action_log(self) -> None:
        row = self._table.row
        service = None if row is None else self.log_of(row)
        if isinstance(service, str):
            self.notify(service, severity="warning", markup=False)
        elif service is not None:
            self.post_message(LogAsked(service))

    def action_filter(self) -> None:
        self._line.display = True
        self._line.focus()

    def action_back(self) -> None:
        """Give up, one after the other: the filter, only what is wrong, the marks."""
        if self._line.has_focus or self._filter.words:
            self._line.value = ""
            self._line.display = False
            self._table.focus()
        elif self._only_wrong:
            self.action_only_wrong()
        else:
            self._table.set_marks(frozenset())
            self._draw_title()

    def action_mark(self) -> None:
        key = self._table.cursor_key
        if key is not None:
            self._table.set_marks(self._table.marks ^ {key})
            self._table.action_move(1)
            self._draw_title()

    def action_sort(self, by: int) -> None:
        column, descending = self._sorted
        self._sort_by((column + by) % len(self._table.columns), descending=descending)

    def action_invert(self) -> None:
        self._sort_by(self._sorted[0], descending=not self._sorted[1])

    def action_only_wrong(self) -> None:
        self._only_wrong = not self._only_wrong
        self.refresh_rows()

    @property
    def subject(self) -> Subject | None:
        """What the cursor is on."""
        key = self._table.cursor_key
        return None if key is None else Subject(self.kind, key)

    @property
    def table(self) -> LiveTable[T]:
        return self._table

    @property
    def chosen(self) -> tuple[T, ...]:
        """The marked rows, hidden ones too; without marks the one under the cursor."""
        marks = self._table.marks
        if marks:
            return tuple(row for row in self.rows(self.picture) if self.key(row) in marks)
        row = self._table.row
        return () if row is None else (row,)

    def source(self, picture: Picture) -> object:
        """What the rows are made of: rows are arranged anew when it is another object."""
        return picture.shown

    def rows(self, picture: Picture) -> Sequence[T]:
        """All rows there are."""
        raise NotImplementedError

    def key(self, row: T) -> str:
        """What a row is known by."""
        raise NotImplementedError

    def log_of(self, row: T) -> ServiceRef | str:
        """The service whose log a row has, or why it has none."""
        raise NotImplementedError

    def is_wrong(self, row: T, troubled: frozenset[str]) -> bool:
        """Whether a row stays when only what is wrong is shown; `troubled` have a finding."""
        raise NotImplementedError

    def is_faded(self, row: T) -> bool:
        """Whether a row is none of our business."""
        del row
        return False

    def nothing(self, picture: Picture) -> str:
        """What to say when there are no rows at all."""
        raise NotImplementedError

    def counted(self, rows: Sequence[T]) -> str:
        """How many there are of what, in words."""
        return counted(len(rows), self.noun)

    def refresh_rows(self) -> None:
        """Filter, sort and show the rows of the current picture."""
        if not self.is_mounted:
            return
        picture = self.picture
        everything = self.rows(picture)
        marks = self._table.marks
        if marks:
            marks &= {self.key(row) for row in everything}
            self._table.set_marks(marks)
        rows = self._shown(everything, picture)
        column, descending = self._sorted
        rows = ordered(rows, self._table.columns[column], descending=descending)
        empty = "nothing matches" if everything else self.nothing(picture)
        self._table.show(
            rows, picture.now, sorted_by=self._sorted, empty=empty, faded=self.is_faded
        )
        self._total = len(everything)
        self._said = self.counted(everything)
        self._draw_title()

    def _draw_title(self) -> None:
        self._title.show([self._headline(len(self._table.rows), self._total)])

    def _shown(self, rows: Sequence[T], picture: Picture) -> list[T]:
        chosen = list(rows)
        if self._only_wrong:
            problems = picture.shown.problems if picture.shown else ()
            troubled = frozenset(finding.subject for finding in problems)
            chosen = [row for row in chosen if self.is_wrong(row, troubled)]
        if self._filter.words:
            columns, now = self._table.columns, picture.now
            chosen = [row for row in chosen if self._filter.matches(row, columns, now)]
        return chosen

    def _headline(self, shown: int, total: int) -> Line:
        parts: list[str | tuple[str, Tone]] = [(self._said, Tone.STRONG)]
        if shown != total:
            parts.append((f"  {shown:,} shown", Tone.NOTE))
        if self._only_wrong:
            parts.append(("  only what is wrong (ctrl+z shows all)", Tone.WARN))
        marks = self._table.marks
        if marks:
            hidden = sum(not self._table.has(key) for key in marks)
            parts.append((f"  {len(marks):,} marked", Tone.NOTE))
            if hidden:
                parts.append((f" ({hidden:,} of them not shown)", Tone.WARN))
        if unknown := self._filter.unknown_fields(self._table.columns):
            parts.append((f"  there is no column {', '.join(unknown)}", Tone.WARN))
        return line(*parts)

    def _sort_by(self, column: int, *, descending: bool) -> None:
        self._sorted = (column, descending)
        self.refresh_rows()
