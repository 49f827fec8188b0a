"""A run as plain text: its events as they come, and its end with what is left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli.text import folded, safe_lines
from celery_ops.config.secret import masked
from celery_ops.runbook.events import EventKind, Result
from celery_ops.tui.text import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.runbook.events import Outcome, Report
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import Plan

_VERDICTS = {
    Result.DONE: "ok",
    Result.FAILED: "FAILED",
    Result.UNKNOWN: "unknown",
    Result.SKIPPED: "skipped",
    Result.DEFERRED: "put off",
}


def event_line(event: Event) -> str:
    """One event for people: the time of day in UTC, what it is about, what it says."""
    about = " ".join(part for part in (event.step, event.target) if part)
    said = masked(_says(event))
    text = f"{clock(event.at)}  {f'{about}: ' if about else ''}{said}"
    return safe_lines(text.replace("\n", " "))


def end_lines(outcome: Outcome, plan: Plan, width: int) -> list[str]:
    """The report: why it ended, every target by how it ended, and what mends what is left.

    Sentences are folded to `width`; a command has a line of its own, whole, so that it can be
    copied.
    """
    state = outcome.state.value if outcome.state is not None else "ended"
    lines = folded(f"{plan.run} {state}: {masked(outcome.says)}", width)
    if outcome.report is not None:
        lines += _report(outcome.report, plan, width)
    return lines


def mend(command: str, plan: Plan) -> str:
    """A command of ours that mends, for the context or the broker that the run was on.

    A password in the broker's URL is masked, and has to be put in by whoever types the command.
    """
    before, ours, rest = command.partition("celery-ops ")
    return f"{before}{plan.where.command(rest)}" if ours else command


def _report(report: Report, plan: Plan, width: int) -> list[str]:
    lines = _group("done", report.done, width)
    lines += _failed(report, width)
    lines += _group("deferred", report.deferred, width)
    lines += _group("given back", report.returned, width)
    lines += _group("not started", report.not_started, width)
    for name, why in report.left_out.items():
        lines += folded(f"  left out: {name}: {why}", width)
    if report.again:
        lines += ["  to go on with those that are not done:", _command(report.again, plan)]
    left = (
        ("left drained", report.left_drained),
        ("left paused", report.left_paused),
        ("left parked", report.left_parked),
        ("owed", report.owed),
    )
    for title, owed in left:
        for one in owed:
            lines += [*folded(f"  {title}: {one.says}", width), _command(one.mend, plan)]
    return lines


def _group(title: str, names: Sequence[str], width: int) -> list[str]:
    return folded(f"  {title}: {', '.join(names)}", width) if names else []


def _failed(report: Report, width: int) -> list[str]:
    """Each with its cause in a line, and below it what its command wrote."""
    told = {one.target: one for one in report.causes}
    lines = []
    for name in report.failed:
        why = f": {told[name].says}" if name in told else ""
        lines += folded(f"  failed: {name}{why}", width)
        lines += _quoted(told[name].err) if name in told else []
    if "" in told:
        lines += _quoted(told[""].err)
    return lines


def _quoted(err: str) -> list[str]:
    return [safe_lines(f"    | {line}") for line in masked(err).splitlines()]


def _command(command: str, plan: Plan) -> str:
    return safe_lines(f"      {mend(command, plan)}")


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
            text = f"{word.upper()}: {'; '.join(part for part in (said, event.intent) if part)}"
        case (
            EventKind.STARTED
            | EventKind.RESUMED
            | EventKind.UNDOING
            | EventKind.WAITING
            | EventKind.LEASED
            | EventKind.STANDS
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
    without = f"; EMERGENCY, without the broker: {plan.emergency}" if plan.emergency else ""
    return f"{plan.run}: {plan.runbook}{on}, by {plan.operator}{without}"
