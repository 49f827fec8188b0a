"""A plan as lines that can be read at 3 am: what must not be overlooked first. Pure."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.tui import workers
from celery_ops.tui.lines import Line, line
from celery_ops.tui.text import NOTHING, UNKNOWN, Tone, counted, number, safe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.runbook.plan import (
        Plan,
        PlannedAction,
        PlannedBatch,
        PlannedStep,
        PlannedWorker,
    )

MOST_NAME = 40
"""Characters of a name in a list; the batches name it in full."""
_INDENT = 4


def lines(plan: Plan) -> list[Line]:
    """Refusals, hazards, targets, then every step with its batches and its exact actions."""
    found = [line(plan.summary), line(*_parameters(plan)), Line()]
    found += _warnings(plan)
    found += _targets(plan)
    for step in plan.steps:
        found += _step(step)
    if plan.at_end:
        found += [Line(), line(("At the end, however it goes", Tone.STRONG))]
        found += [_item("-", says, Tone.NOTE) for says in plan.at_end]
    if plan.confirmations:
        found += [Line(), line(("You will be asked", Tone.STRONG))]
        found += [_item("?", one.question, Tone.NOTE) for one in plan.confirmations]
    return found


def _parameters(plan: Plan) -> list[str | tuple[str, Tone]]:
    given = [f"{key}={value}" for key, value in plan.params.items() if key != "workers"]
    given += [f"allow_gap={queue}" for queue in plan.allow_gap]
    return [(f"risk {plan.risk}  {'  '.join(given)}", Tone.DIM)]


def _warnings(plan: Plan) -> list[Line]:
    found: list[Line] = []
    if plan.refusals:
        found.append(line(("THIS CANNOT RUN", Tone.BAD)))
        found += [_item("✗", says, Tone.BAD) for says in plan.refusals]
        found.append(Line())
    if plan.hazards:
        found.append(line(("Know before you agree", Tone.BAD)))
        found += [_item("▲", says, Tone.BAD) for says in plan.warnings]
        found.append(Line())
    if plan.left_out:
        found.append(line(("Left out", Tone.WARN)))
        found += [_item("-", f"{name}: {why}", Tone.WARN) for name, why in plan.left_out.items()]
        found.append(Line())
    if plan.irreversible:
        found.append(line(("Cannot be taken back", Tone.BAD)))
        found += [_item("▲", says, Tone.BAD) for says in plan.irreversible]
        found.append(Line())
    return found


def _targets(plan: Plan) -> list[Line]:
    width = min(MOST_NAME, max((len(target.name) for target in plan.targets), default=0)) + _INDENT
    if not plan.targets and (plan.messages or plan.moves):
        return [line((counted(plan.message_count, "message"), Tone.STRONG))]
    if not plan.targets:
        return []  # it names no workers: of what it does to a queue its steps tell
    beats = sum(target.is_beat for target in plan.targets)
    counts = ((len(plan.targets) - beats, "worker"), (beats, "scheduler"))
    told = ", ".join(counted(many, word) for many, word in counts if many)
    return [
        line((told, Tone.STRONG)),
        *(_target(target, width) for target in plan.targets),
    ]


def _target(target: PlannedWorker, width: int) -> Line:
    name = safe(target.name, MOST_NAME)
    held = (f"  {_holds(target)}", Tone.DIM)
    return line(f"  {name}", workers.state_cell(target.state), held, indent=width)


def _holds(target: PlannedWorker) -> str:
    if target.is_beat:
        return f"owed by run {', '.join(target.debtors)}" if target.debtors else "a scheduler"
    parts = [f"{number(target.active)} running"]
    if target.longest is not None:
        parts[0] += f", the longest for {as_duration(round(target.longest))}"
    parts.append(f"{number(target.reserved)} reserved")
    if target.scheduled != 0:
        parts.append(f"{number(target.scheduled)} with an ETA")
    queues = UNKNOWN if target.queues is None else " ".join(one.name for one in target.queues)
    owed = f" (owed by run {', '.join(target.debtors)})" if target.debtors else ""
    parts.append(f"queues {queues or NOTHING}{owed}")
    if target.stop_grace is not None:
        parts.append(f"stop grace {as_duration(target.stop_grace)}")
    return ", ".join(parts)


def _step(step: PlannedStep) -> list[Line]:
    found = [Line(), line((f"{step.id:<3} ", Tone.NOTE), (step.says, Tone.STRONG), indent=_INDENT)]
    found += [
        line(" " * _INDENT, ("✓ ", Tone.GOOD), says, indent=_INDENT + 2) for says in step.evidence
    ]
    for batch in step.batches:
        found += _batch(batch)
    if step.actions:
        found.append(line(" " * _INDENT, ("exactly", Tone.NOTE), indent=_INDENT))
    for target in dict.fromkeys(action.target for action in step.actions):
        if target is not None:
            found.append(line(" " * _INDENT, f"  {target}", indent=_INDENT))
        found += _actions([one for one in step.actions if one.target == target])
    return found


def _batch(batch: PlannedBatch) -> list[Line]:
    canary = " (canary)" if batch.canary else ""
    found = [
        line(
            (" " * _INDENT, Tone.PLAIN),
            (f"batch {batch.number}{canary}: ", Tone.NOTE),
            ", ".join(batch.workers),
            indent=_INDENT,
        )
    ]
    width = min(MOST_NAME, max((len(one.queue) for one in batch.capacity), default=0)) + 8
    for one in batch.capacity:
        tone = Tone.BAD if one.during < one.least else Tone.GOOD
        sign = "✗" if one.during < one.least else "✓"
        found.append(
            line(
                f"      {safe(one.queue, MOST_NAME)}",
                (f"{sign} {one.during} of {one.healthy} consumers stay", tone),
                (f", the guard wants {one.least}", Tone.DIM),
                indent=width,
            )
        )
    return found


def _actions(actions: list[PlannedAction]) -> Iterable[Line]:
    """What is done to one target; a way back that actions share is told once, after them."""
    label, indent = " " * (_INDENT + 4), _INDENT + 6
    for (step, undo), same in groupby(actions, key=lambda one: (one.step, one.undo)):
        for action in same:
            yield line(
                (f"{label}$", Tone.DIM), action.does, (f"  (step {step})", Tone.DIM), indent=indent
            )
        if undo is not None:
            yield line((f"{label}", Tone.DIM), (f"taken back by: {undo}", Tone.DIM), indent=indent)


def _item(sign: str, says: str, tone: Tone) -> Line:
    return line((f"  {sign} ", tone), (says, tone), indent=_INDENT)
