"""A run as its journal tells it: what stands where, and each event as one readable line. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from celery_ops.config.secret import masked
from celery_ops.runbook import journal
from celery_ops.runbook.events import EventKind, Report, Result, RunState
from celery_ops.runbook.journal import Event
from celery_ops.tui.text import Cell, Tone

if TYPE_CHECKING:
    from datetime import datetime

    from celery_ops.runbook.plan import Plan

RESULT_SIGNS = {
    Result.DONE: ("✓", Tone.GOOD),
    Result.FAILED: ("✗", Tone.BAD),
    Result.UNKNOWN: ("?", Tone.WARN),
    Result.SKIPPED: ("-", Tone.DIM),
    Result.DEFERRED: ("↷", Tone.WARN),
}
_LAST_WORDS = re.compile(r"(?:^|[(\s])([\w, ]+?) or (\w+)[)?]*$")


@dataclass(slots=True)
class TargetProgress:
    """One target: what was last said of it. `since` is None before anything was done to it."""

    name: str
    sign: str = "·"
    tone: Tone = Tone.DIM
    step: str = ""
    says: str = "waits for its turn"
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a run waits for. `choices` are the answers it named; empty: any text."""

    step: str
    asks: str
    because: str
    choices: tuple[str, ...]


@dataclass(slots=True)
class RunProgress:
    """Everything a run's screen shows, grown event by event."""

    run: str
    plan: Plan | None = None
    targets: dict[str, TargetProgress] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    batch: str = ""
    question: Question | None = None
    aborts: int = 0
    report: Report | None = None
    says: str = ""
    quiet: bool = False
    """The journal ended: with its end, or because nobody executes the run any more."""

    @property
    def state(self) -> RunState:
        """As the journal tells it; a journal that broke off is an interrupted run."""
        return journal.state_of(self.events, held=not self.quiet)

    @property
    def began_at(self) -> datetime | None:
        return self.events[0].at if self.events else None

    @property
    def ended_at(self) -> datetime | None:
        last = self.events[-1] if self.events else None
        return last.at if last is not None and last.event is EventKind.ENDED else None

    def add(self, event: Event) -> None:
        """Take in the next event."""
        self.events.append(event)
        match event.event:
            case EventKind.PLANNED:
                self._planned(event)
            case EventKind.BATCH:
                self.batch = told(event)
            case EventKind.ASKED:
                self.question = question_of(event)
            case EventKind.ANSWERED | EventKind.CONFIRMED:
                self.question = None
            case EventKind.ABORTING:
                self.aborts += 1
                self.question = None
            case EventKind.INTENT | EventKind.PROGRESS | EventKind.RESULT:
                self._worked(event)
            case EventKind.ENDED:
                self._ended(event)
            case EventKind.WAITING | EventKind.LEASE_LOST | EventKind.STANDS:
                self.says = told(event)
            case (
                EventKind.STARTED
                | EventKind.RESUMED
                | EventKind.UNDOING
                | EventKind.LEASED
                | EventKind.PAUSED
                | EventKind.CONTINUED
            ):
                self.says = ""
            case _:
                assert_never(event.event)

    def _planned(self, event: Event) -> None:
        self.plan = event.plan
        if event.plan is not None:
            self.targets = {one.name: TargetProgress(one.name) for one in event.plan.targets}

    def _worked(self, event: Event) -> None:
        if event.target is None:
            self.says = told(event)
            return
        self.says = ""
        target = self.targets.setdefault(event.target, TargetProgress(event.target))
        target.step, target.says, target.since = event.step or "", told(event), event.at
        if event.event is EventKind.RESULT and event.outcome is not None:
            target.sign, target.tone = RESULT_SIGNS[event.outcome.result]
        else:
            target.sign, target.tone = "▶", Tone.NOTE

    def _ended(self, event: Event) -> None:
        self.says, self.question = told(event), None
        outcome = event.outcome
        if outcome is None or outcome.report is None:
            return
        self.report = outcome.report
        for names, sign, tone in (
            (self.report.done, "✓", Tone.GOOD),
            (self.report.failed, "✗", Tone.BAD),
            (self.report.deferred, "↷", Tone.WARN),
            (self.report.returned, "↶", Tone.NOTE),
            (self.report.not_started, "·", Tone.DIM),
        ):
            for name in names:
                target = self.targets.setdefault(name, TargetProgress(name))
                target.sign, target.tone = sign, tone


def told(event: Event) -> str:
    """What an event says, in one line; passwords of URLs masked."""
    says = event.outcome.says if event.outcome is not None else ""
    match event.event:
        case EventKind.PLANNED:
            plan = event.plan
            return f"planned {plan.runbook} by {plan.operator}" if plan else "planned"
        case EventKind.INTENT:
            expects = f" → {event.expect}" if event.expect else ""
            return masked(f"{event.intent or ''}{expects}")
        case EventKind.ASKED:
            return masked(" - ".join(part for part in (says, event.intent) if part))
        case EventKind.STARTED:
            return masked(f"started, {event.intent}" if event.intent else "started")
        case _:
            return masked(says or event.intent or event.event.replace("_", " "))


def event_cell(event: Event) -> Cell:
    """What an event says, with a sign for what came of it."""
    text = told(event)
    match event.event:
        case EventKind.RESULT | EventKind.ENDED if event.outcome is not None:
            sign, tone = RESULT_SIGNS[event.outcome.result]
            return Cell(f"{sign} {text}", tone if tone is not Tone.GOOD else Tone.PLAIN)
        case EventKind.INTENT:
            return Cell(f"▶ {text}", Tone.NOTE)
        case EventKind.ASKED:
            return Cell(f"? {text}", Tone.WARN)
        case EventKind.ABORTING | EventKind.LEASE_LOST | EventKind.PAUSED:
            return Cell(f"■ {text}", Tone.WARN)
        case EventKind.BATCH:
            return Cell(text, Tone.STRONG)
        case EventKind.PROGRESS:
            return Cell(f"  {text}", Tone.DIM)
        case _:
            return Cell(text)


def question_of(event: Event) -> Question:
    """The question of an `ASKED` event, with the answers its text names."""
    asks = masked(event.intent or "")
    because = masked(event.outcome.says) if event.outcome is not None else ""
    found = _LAST_WORDS.search(asks)
    choices: tuple[str, ...] = ()
    if found is not None:
        choices = tuple(part.strip() for part in (*found[1].split(","), found[2]))
    if any(" " in choice for choice in choices):
        choices = ()
    return Question(event.step or "", asks, because, choices)
