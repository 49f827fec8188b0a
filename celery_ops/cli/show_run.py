"""A run as plain text: its events as they come, and its end with what is left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli.text import safe_lines
from celery_ops.config.secret import masked
from celery_ops.runbook.journal import EventKind, Result
from celery_ops.tui.text import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.runbook.journal import Event, Outcome, Owed, Report
    from celery_ops.runbook.plan import Plan

_VERDICTS = {
    Result.DONE: "ok",
    Result.FAILED: "FAILED",
    Result.UNKNOWN: "unknown",
    Result.SKIPPED: "skipped",
}


def event_line(event: Event) -> str:
    """One event for people: the time of day in UTC, what it is about, what it says."""
    about = " ".join(part for part in (event.step, event.target) if part)
    said = masked(_says(event))
    text = f"{clock(event.at)}  {f'{about}: ' if about else ''}{said}"
    return safe_lines(text.replace("\n", " "))


def end_lines(outcome: Outcome, plan: Plan) -> list[str]:
    """The report: every target by how it ended, and the command that mends what is left."""
    state = outcome.state.value if outcome.state is not None else "ended"
    lines = [f"{plan.run} {state}: {masked(outcome.says)}"]
    if outcome.report is not None:
        lines += _report(outcome.report, plan)
    return [safe_lines(line) for line in lines]


def mend(owed: Owed, plan: Plan) -> str:
    """The command that mends, on the context that the run was on."""
    if plan.where.config is None:
        return owed.mend
    return owed.mend.replace("celery-ops ", f"celery-ops -c {plan.where.context} ", 1)


def _report(report: Report, plan: Plan) -> list[str]:
    groups = (
        ("done", report.done),
        ("failed", report.failed),
        ("deferred", report.deferred),
        ("not started", report.not_started),
    )
    lines = [f"  {title}: {', '.join(names)}" for title, names in groups if names]
    for title, owed in (("left drained", report.left_drained), ("owed", report.owed)):
        lines += [f"  {title}: {one.says}    {mend(one, plan)}" for one in owed]
    return lines


def _says(event: Event) -> str:
    said = event.outcome.says if event.outcome is not None else ""
    word = event.event.value.replace("_", " ")
    match event.event:
        case EventKind.PLANNED:
            text = _planned(event.plan)
        case EventKind.RESULT:
            verdict = _VERDICTS[event.outcome.result] if event.outcome is not None else word
            text = f"{verdict}: {said}" if said else verdict
        case EventKind.BATCH | EventKind.PROGRESS | EventKind.INTENT:
            text = event.intent or said or word
        case EventKind.LEASE_LOST | EventKind.ABORTING | EventKind.ASKED:
            text = f"{word.upper()}: {' '.join(part for part in (said, event.intent) if part)}"
        case (
            EventKind.STARTED
            | EventKind.RESUMED
            | EventKind.UNDOING
            | EventKind.WAITING
            | EventKind.LEASED
            | EventKind.CONFIRMED
            | EventKind.ANSWERED
            | EventKind.PAUSED
            | EventKind.CONTINUED
            | EventKind.ENDED
        ):
            more = said or event.intent
            text = f"{word}: {more}" if more else word
    return text


def _planned(plan: Plan | None) -> str:
    if plan is None:
        return "planned"
    names: Sequence[str] = [target.name for target in plan.targets]
    on = f" on {', '.join(names)}" if names else ""
    return f"{plan.run}: {plan.runbook}{on}, by {plan.operator}"
