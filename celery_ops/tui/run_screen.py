"""A run as it goes: its state, its targets, its journal line by line. Leaving it stops nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from celery_ops.runbook.events import RunState
from celery_ops.tui import runs
from celery_ops.tui.bars import Bar, Part
from celery_ops.tui.columns import Column
from celery_ops.tui.commands import Where, bindings, writes
from celery_ops.tui.confirm import AnswerScreen, ConfirmScreen
from celery_ops.tui.frame import Frame
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.messages import AnswerGiven, FollowEnded, RunEventSeen, Steer, SteerAsked
from celery_ops.tui.progress import Question, RunProgress, TargetProgress, event_cell
from celery_ops.tui.table import LiveTable
from celery_ops.tui.text import Cell, Tone, age, age_of, clock, moment
from celery_ops.tui.text_screen import TextScreen

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from celery_ops.runbook.events import Report
    from celery_ops.runbook.journal import Event
    from celery_ops.tui.picture import Picture

TARGET_COLUMNS: tuple[Column[TargetProgress], ...] = (
    Column("worker", lambda one, _: Cell(f"{one.sign} {one.name}", one.tone),
           lambda _: None, 22, grow=1),
    Column("since", lambda one, now: Cell(age_of(one.since, now) if one.since else "", Tone.DIM),
           lambda _: None, 5, right=True),
    Column("says", lambda one, _: Cell(one.says, one.tone if one.tone is Tone.BAD else Tone.PLAIN),
           lambda _: None, 30, grow=3),
)  # fmt: skip

EVENT_COLUMNS: tuple[Column[Event], ...] = (
    Column("time", lambda one, now: Cell(moment(one.at, now), Tone.DIM), lambda _: None, 8),
    Column("step", lambda one, _: Cell(one.step or "", Tone.DIM), lambda _: None, 8, drop=1),
    Column("worker", lambda one, _: Cell(one.target or ""), lambda _: None, 16, grow=1),
    Column("what happened", lambda one, _: event_cell(one), lambda _: None, 36, grow=5),
)  # fmt: skip

_ABORTS = (
    "It ends at the next safe point: the command in flight is finished, the current batch is undone"
    " and what it took given back, and the runbook's last checks are made.",
    "It ends after the command in flight. NOTHING is undone: what is taken stays taken, and the"
    " run's last lines say what is owed.",
    "It ends AT ONCE, in the middle of whatever it does. Nothing is undone, and what the last"
    " command did is not known.",
)
"""What the first, second and third abort do."""


class RunScreen(Frame):
    """Follows one run. `may_write` is whether it can be steered from here."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.RUN)]

    def __init__(self, picture: Picture, run: str, *, may_write: bool) -> None:
        super().__init__(picture, view="runs")
        self.progress = RunProgress(run)
        self._may_write = may_write
        self._aborts_sent = 0
        self._news = False
        self._asked: Question | None = None
        self._error: str | None = None
        self._title = Bar(id="title")
        self._summary = Lines(id="summary")
        now = picture.now
        self._targets: LiveTable[TargetProgress] = LiveTable(
            TARGET_COLUMNS, lambda one: one.name, now=now, id="targets"
        )
        self._events: LiveTable[Event] = LiveTable(
            EVENT_COLUMNS, lambda one: str(one.seq), now=now, tail=True, id="events"
        )

    def content(self) -> ComposeResult:
        yield self._title
        yield self._summary
        yield self._targets
        yield self._events

    def watch_picture(self, picture: Picture) -> None:
        if self.is_mounted:
            self._draw(picture)

    def on_mount(self) -> None:
        super().on_mount()
        self._events.focus()

    def on_run_event_seen(self, message: RunEventSeen) -> None:
        message.stop()
        self.progress.add(message.event)
        self._draw_soon()

    def on_follow_ended(self, message: FollowEnded) -> None:
        message.stop()
        self.progress.quiet = True
        self._error = message.error
        self._draw_soon()

    def on_live_table_opened(self) -> None:
        self.action_open()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        if not writes(action):
            return True
        state = self.progress.state
        if not self._may_write or state not in runs.LIVE:
            return False
        match action:
            case "answer":
                return self.progress.question is not None
            case "pause":
                return state is not RunState.PAUSED
            case "proceed":
                return state is RunState.PAUSED and self.progress.question is None
            case _:
                return True

    def action_back(self) -> None:
        self.dismiss()

    def action_open(self) -> None:
        """Show a whole event: a line of the table may be cut."""
        event = self._events.row
        if event is not None:
            title = f"run {self.progress.run}, event {event.seq}"
            self.app.push_screen(TextScreen(self.picture, title, list(_whole(event))))

    def action_abort(self) -> None:
        stage = min(max(self._aborts_sent, self.progress.aborts), len(_ABORTS) - 1)
        said = [
            line((f"Abort the run {self.progress.run}?", Tone.BAD)),
            Line(),
            line(_ABORTS[stage]),
        ]
        working = [one.name for one in self.progress.targets.values() if one.tone is Tone.NOTE]
        if working:
            said += [Line(), line(("Under way now: ", Tone.DIM), ", ".join(working))]
        self.app.push_screen(ConfirmScreen(said), self._abort_answered)

    def action_pause(self) -> None:
        self.post_message(SteerAsked(self.progress.run, Steer.PAUSE))

    def action_proceed(self) -> None:
        self.post_message(SteerAsked(self.progress.run, Steer.PROCEED))

    def action_answer(self) -> None:
        question = self.progress.question
        if question is not None:

            def answered(answer: str | None) -> None:
                if answer is not None:
                    self.post_message(AnswerGiven(self.progress.run, question.step, answer))

            self.app.push_screen(AnswerScreen(question), answered)

    def _abort_answered(self, agreed: bool | None) -> None:
        if agreed:
            self._aborts_sent += 1
            self._draw_soon()
            self.post_message(SteerAsked(self.progress.run, Steer.ABORT))

    def _draw_soon(self) -> None:
        """Draw once for all events that wait already: a long journal is read in one go."""
        if not self._news:
            self._news = True
            self.call_later(self._draw_news)

    def _draw_news(self) -> None:
        self._news = False
        self._draw(self.picture)
        self.refresh_bindings()
        self._open_question()

    def _open_question(self) -> None:
        """A new question opens by itself, once; `W` opens it again."""
        question = self.progress.question
        if (
            question is not None
            and question is not self._asked
            and self._may_write
            and self.is_active
        ):
            self._asked = question
            self.action_answer()

    def _draw(self, picture: Picture) -> None:
        now, progress = picture.now, self.progress
        self._title.show(_title(progress, now))
        self._summary.show(list(self._said()))
        targets = list(progress.targets.values())
        self._targets.styles.max_height = min(len(targets), 8) + 1
        self._targets.show(targets, now, empty="the journal names no worker")
        self._events.show(list(progress.events), now, empty="waiting for the journal")

    def _said(self) -> Iterable[Line]:
        progress = self.progress
        if progress.plan is not None and progress.plan.emergency:
            says = f"▲ EMERGENCY, without the broker: {progress.plan.emergency}"
            yield line((says, Tone.BAD))
        if progress.batch and not progress.report:
            yield line((progress.batch, Tone.STRONG))
        if self._error is not None:
            yield line((f"the journal cannot be read on: {self._error}", Tone.BAD))
        if progress.question is not None:
            yield line(("▲ It waits for an answer: ", Tone.WARN), progress.question.asks)
        if progress.state is RunState.INTERRUPTED:
            says = "▲ Nobody executes this run any more. "
            yield line((says, Tone.BAD), f"celery-ops runs resume {progress.run} goes on")
        if self._aborts_sent and progress.state in runs.LIVE:
            yield line((f"■ Abort sent ({self._aborts_sent}); A again is stronger", Tone.WARN))
        if progress.report is not None:
            yield from _reported(progress, progress.report)
        elif progress.says:
            yield line((progress.says, Tone.DIM))


def _title(progress: RunProgress, now: datetime) -> list[Part]:
    sign = runs.state_cell(progress.state)
    name = progress.plan.runbook if progress.plan else "run"
    parts = [
        Part(name, Tone.STRONG),
        Part(f"  {progress.run}  ", Tone.DIM),
        Part(sign.text, sign.tone),
    ]
    if progress.began_at is not None:
        until = progress.ended_at or now
        took = age((until - progress.began_at).total_seconds())
        parts.append(Part(f"  {'took' if progress.ended_at else 'for'} {took}", Tone.DIM))
    return parts


def _reported(progress: RunProgress, report: Report) -> Iterable[Line]:
    """Why it ended, then what must be done: what does not fit is read in the end's own event."""
    tone = Tone.GOOD if progress.state is RunState.SUCCEEDED else Tone.BAD
    yield line((progress.says, tone))
    yield from _report(report)


def _report(report: Report) -> Iterable[Line]:
    for owed in report.owed:
        yield line((f"▲ {owed.says}: ", Tone.BAD), owed.mend)
    for left in (*report.left_drained, *report.left_paused, *report.left_parked):
        yield line((f"▲ {left.says}: ", Tone.WARN), left.mend)
    for name, why in report.left_out.items():
        yield line((f"- {name} was left out: ", Tone.WARN), why)
    if report.again:
        yield line(("to go on with those that are not done: ", Tone.DIM), report.again)
    told = {one.target: one for one in report.causes}
    for name in (*report.failed, ""):
        if name in told:
            yield line((f"✗ {name or 'step'}: ", Tone.BAD), told[name].says)
            for said in told[name].err.splitlines():
                yield line((f"  | {said}", Tone.DIM))
    for title, names in (
        ("deferred", report.deferred),
        ("given back", report.returned),
        ("not started", report.not_started),
    ):
        if names:
            yield line((f"{title}: ", Tone.DIM), ", ".join(names))


def _whole(event: Event) -> Iterable[Line]:
    yield line(("  time", Tone.DIM), f"{clock(event.at)} UTC", indent=12)
    yield line(("  event", Tone.DIM), event.event.value, indent=12)
    for label, value in (
        ("step", event.step),
        ("worker", event.target),
        ("intent", event.intent),
        ("expects", event.expect),
        ("undo", event.undo),
    ):
        if value is not None:
            yield line((f"  {label}", Tone.DIM), value, indent=12)
    if event.outcome is not None:
        yield line(("  outcome", Tone.DIM), event.outcome.result.value, indent=12)
        yield line(("  says", Tone.DIM), event.outcome.says, indent=12)
        if event.outcome.report is not None:
            yield Line()
            yield from _report(event.outcome.report)
