"""The plan of a change: being made, refused, or there to be read and agreed to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.reactive import var

from celery_ops.runbook.plan import Plan
from celery_ops.tui import plan_text
from celery_ops.tui.bars import Bar, Part
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.frame import Frame
from celery_ops.tui.lines import Line, line
from celery_ops.tui.messages import PlanAgreed
from celery_ops.tui.text import Tone, age_of, clock, counted
from celery_ops.tui.text_screen import Pager

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from celery_ops.tui.messages import ChangeAsked
    from celery_ops.tui.picture import Picture


class PlanScreen(Frame):
    """Shows `plan` once it is there, or `error` if it could not be made. Escape cancels it."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.PLAN)]

    plan: var[Plan | None] = var(None)
    error: var[str | None] = var(None)

    def __init__(self, picture: Picture, asked: ChangeAsked) -> None:
        super().__init__(picture)
        self._runbook = asked.runbook
        self._names = asked.names
        self._noun = asked.noun
        self._began = picture.now
        self._title = Bar(id="title")
        self._pager = Pager(self._planning(picture), id="text")

    def content(self) -> ComposeResult:
        yield self._title
        yield self._pager

    def watch_picture(self, picture: Picture) -> None:
        if self.plan is None and self.error is None:
            self._pager.show(self._planning(picture))
        self._draw_title(picture)

    def watch_plan(self, plan: Plan | None) -> None:
        if plan is not None:
            self._pager.show(plan_text.lines(plan))
            self._drawn_anew()

    def watch_error(self, error: str | None) -> None:
        if error is not None:
            says = [line((part, Tone.BAD)) for part in error.split("\n")]
            changed = line(("Nothing was changed.", Tone.DIM))
            self._pager.show([line(("This cannot be done", Tone.STRONG)), *says, Line(), changed])
            self._drawn_anew()

    def on_mount(self) -> None:
        super().on_mount()
        self._pager.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        possible = self.plan is not None and not self.plan.refusals and self.error is None
        return action != "go_on" or possible

    def action_go_on(self) -> None:
        if self.plan is not None:
            self.post_message(PlanAgreed(self.plan))

    def action_back(self) -> None:
        self.dismiss()

    @property
    def plain(self) -> str:
        """What is shown."""
        return self._pager.plain

    @property
    def _number(self) -> int:
        """Of those that were asked for; a plan may be about fewer."""
        if self.plan is None or self.plan.refusals or self._noun != "worker":
            return len(self._names)
        return sum(not target.is_beat for target in self.plan.targets)

    def _planning(self, picture: Picture) -> list[Line]:
        since = age_of(self._began, picture.now)
        return [
            line(("planning…", Tone.NOTE), f"  reading the fleet, {since} so far; esc cancels"),
            Line(),
            *(line(f"  {name}") for name in self._names),
        ]

    def _drawn_anew(self) -> None:
        self.refresh_bindings()
        self._draw_title(self.picture)

    def _draw_title(self, picture: Picture) -> None:
        parts = [
            Part(self._runbook, Tone.STRONG),
            Part(f"  {counted(self._number, self._noun)}"),
        ]
        if self.plan is not None:
            since = age_of(self.plan.at, picture.now)
            parts.append(Part(f"  planned at {clock(self.plan.at)} UTC, {since} ago", Tone.DIM))
        if self.plan is not None and self.plan.refusals:
            parts.append(Part("  CANNOT RUN", Tone.BAD))
        self._title.show(parts)
