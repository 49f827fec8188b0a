"""Screens that are one long text: descriptions, raw data, the help."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from celery_ops.model import Service, Worker
from celery_ops.tui import describe, workers
from celery_ops.tui.bars import Bar, Part
from celery_ops.tui.commands import COMMANDS, Where, bindings
from celery_ops.tui.frame import Frame
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.messages import CopyAsked, LogAsked, RawAsked
from celery_ops.tui.picture import Kind
from celery_ops.tui.queues import may_change
from celery_ops.tui.text import NOTHING, UNKNOWN, Tone, clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from celery_ops.model import ServiceRef
    from celery_ops.tui.commands import Command
    from celery_ops.tui.picture import Picture, Subject


class Pager(Lines, can_focus=True):
    """Lines that fill their place and scroll with the usual keys."""


class TextScreen(Frame):
    """A title and a text. Escape goes back."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.TEXT)]

    def __init__(self, picture: Picture, title: str, lines: Sequence[Line] = ()) -> None:
        super().__init__(picture)
        self._title = Bar(id="title")
        self._title.show([Part(title, Tone.STRONG)])
        self._pager = Pager(lines, id="text")

    def content(self) -> ComposeResult:
        yield self._title
        yield self._pager

    def on_mount(self) -> None:
        super().on_mount()
        self._pager.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action not in {"raw", "copy", "log"}

    def action_back(self) -> None:
        self.dismiss()

    @property
    def plain(self) -> str:
        """The text as it is shown."""
        return self._pager.plain

    def show(self, lines: Sequence[Line]) -> None:
        self._pager.show(lines)


class DescribeScreen(TextScreen):
    """Everything known of a subject; follows the fleet while it is open."""

    def __init__(self, picture: Picture, subject: Subject) -> None:
        super().__init__(picture, subject.title, describe.lines(subject, picture))
        self._subject = subject

    def watch_picture(self, picture: Picture) -> None:
        if self.is_mounted:
            self.show(describe.lines(self._subject, picture))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action != "log" or self._subject.kind in {Kind.WORKER, Kind.SERVICE}

    def action_log(self) -> None:
        service: ServiceRef | str | None = None
        match describe.find(self._subject, self.picture):
            case Worker() as worker:
                service = workers.log_of(worker)
            case Service(ref=ref):
                service = ref
        if isinstance(service, str):
            self.notify(service, severity="warning", markup=False)
        elif service is not None:
            self.post_message(LogAsked(service))

    def action_raw(self) -> None:
        self.post_message(RawAsked(self._subject))

    def action_copy(self) -> None:
        self.post_message(CopyAsked(self._subject.name))


class RawScreen(TextScreen):
    """The data of a subject as it was when the screen was opened."""

    def __init__(self, picture: Picture, subject: Subject) -> None:
        title = f"{subject.title}, as of {clock(picture.now)} UTC"
        super().__init__(picture, title, describe.raw(subject, picture))
        self._subject = subject

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        return action not in {"raw", "log"}

    def action_copy(self) -> None:
        self.post_message(CopyAsked(self.plain))


def help_lines(picture: Picture) -> list[Line]:
    """Every key that exists, by place, and what the signs mean."""
    found: list[Line] = []
    for where in Where:
        there = [one for one in COMMANDS if one.where is where and _exists(one, picture)]
        if not any(one.writes for one in there) and where in {Where.PLAN, Where.CONFIRM, Where.RUN}:
            there = there if where is Where.RUN else []
        if there:
            found += [line((where.value, Tone.STRONG))]
            found += [
                line(
                    (f"  {one.display}", Tone.WARN if one.writes else Tone.NOTE),
                    one.does,
                    indent=12,
                )
                for one in there
            ]
            found.append(Line())
    return [*found, *_LEGEND]


def _exists(command: Command, picture: Picture) -> bool:
    """A write does not where nothing may be changed, or where its runbook is not there."""
    if command.where is Where.QUEUES:
        return may_change(command.runbook, picture)
    return not (command.writes and picture.read_only)


_LEGEND = (
    line(("Moving", Tone.STRONG)),
    line(("  arrows", Tone.NOTE), "or k and j: one line; page up and page down: a page", indent=12),
    line(("  home end", Tone.NOTE), "the first and the last line; g is home", indent=12),
    line(("  tab", Tone.NOTE), "the other table of a run", indent=12),
    Line(),
    line(("Signs", Tone.STRONG)),
    line(
        (f"  {UNKNOWN}", Tone.NOTE),
        "not known: not read yet, or not answered; never zero",
        indent=12,
    ),
    line((f"  {NOTHING}", Tone.NOTE), "there is none", indent=12),
    line(
        ("  2 (8s)", Tone.DIM),
        "the value 2, read 8 seconds ago: older than 3 seconds, so dim",
        indent=12,
    ),
    line(
        ("  taken", Tone.WARN),
        "the end of the id of the run that owes the worker something",
        indent=12,
    ),
    line(("  ●", Tone.NOTE), "at the left of a row: marked", indent=12),
    line(("  times", Tone.NOTE), "all times of day are UTC", indent=12),
    Line(),
    line(("Filter", Tone.STRONG)),
    line(("  word", Tone.NOTE), "in any column of text", indent=12),
    line(("  !word", Tone.NOTE), "rows without it", indent=12),
    line(
        ("  state:silent", Tone.NOTE),
        "  in that column; ready:>10 and active:<1 compare numbers",
        indent=14,
    ),
)
