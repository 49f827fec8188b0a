"""A plan as plain text: what an operator must read before agreeing, the worst first."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from celery_ops.cli.text import Column, folded, safe_lines, table
from celery_ops.config.units import as_duration
from celery_ops.tui.text import UNKNOWN, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.runbook.plan import (
        Plan,
        PlannedAction,
        PlannedBatch,
        PlannedStep,
        PlannedWorker,
    )

_TARGETS = (
    Column("target", gives=True),
    Column("state"),
    Column("pid", right=True),
    Column("since", optional=True),
    Column("active", right=True),
    Column("longest", right=True),
    Column("eta", right=True, optional=True),
    Column("queues", gives=True),
    Column("service", gives=True, optional=True),
)
_CAPACITY = (
    Column("batch"),
    Column("workers", gives=True),
    Column("queue", gives=True),
    Column("consumers", right=True),
    Column("during", right=True),
    Column("guard", right=True),
)


def lines(plan: Plan, width: int) -> list[str]:
    """The whole plan; refusals and hazards stand before everything else."""
    blocks = [
        _head(plan),
        _listed("REFUSED, because:", plan.refusals),
        _hazards(plan, width),
        _listed("Cannot be undone:", plan.irreversible),
        _listed("Left out:", [f"{name}: {why}" for name, why in plan.left_out.items()]),
        _targets(plan.targets, width),
    ]
    blocks += [_step(step, width) for step in plan.steps]
    blocks.append(_listed("At the end, however it goes:", plan.at_end))
    blocks.append(_listed("Will be asked:", _questions(plan)))
    return [line for block in blocks if block for line in ["", *block]][1:]


def _head(plan: Plan) -> list[str]:
    params = " ".join(f"-p {key}={value}" for key, value in plan.params.items())
    lines = [f"EMERGENCY: {plan.emergency}"] if plan.emergency else []
    lines += [
        f"{plan.runbook}: {plan.summary}",
        f"on {plan.where.context} ({plan.where.broker}), risk {plan.risk}, from {plan.file}",
    ]
    if params:
        lines.append(f"with {params}")
    if plan.allow_gap:
        lines.append(f"may go unconsumed: {', '.join(plan.allow_gap)}")
    return _safe(lines)


def _targets(targets: Sequence[PlannedWorker], width: int) -> list[str]:
    return table(_TARGETS, [_target(target) for target in targets], width) if targets else []


def _target(target: PlannedWorker) -> tuple[str, ...]:
    if target.is_beat:
        owed = f"owed by {', '.join(target.debtors)}" if target.debtors else ""
        return (target.name, target.state.value, "", "", "", "", "", owed, str(target.service))
    life = target.incarnation
    queues = UNKNOWN
    if target.queues is not None:
        queues = ",".join(queue.name for queue in target.queues) or "none"
    if target.debtors:
        queues += f" (owed by {', '.join(target.debtors)})"
    return (
        target.name,
        target.state.value,
        UNKNOWN if life is None else str(life.pid),
        UNKNOWN if life is None else f"{life.started_at:%m-%d %H:%M:%S}",
        number(target.active),
        "" if target.longest is None else as_duration(max(0.0, target.longest)),
        number(target.scheduled),
        queues,
        "none" if target.service is None else str(target.service),
    )


def _step(step: PlannedStep, width: int) -> list[str]:
    lines = _safe([f"Step {step.id}: {step.says}"])
    lines += [f"  proof: {line}" for line in _safe(step.evidence)]
    lines += [f"  {line}" for line in _capacity(step.batches, width - 2)]
    for target in dict.fromkeys(action.target for action in step.actions):
        lines += _safe([f"  {target}"]) if target is not None else []
        lines += _actions([action for action in step.actions if action.target == target])
    return lines


def _actions(actions: Sequence[PlannedAction]) -> list[str]:
    """What is done to one target; how it is undone follows what it belongs to, once."""
    lines = []
    for action, following in zip_longest(actions, actions[1:]):
        lines.append(f"    {action.does}")
        if following is None or (following.step, following.undo) != (action.step, action.undo):
            lines.append(f"      undo: {action.undo}" if action.undo else "      cannot be undone")
    return _safe(lines)


def _capacity(batches: Sequence[PlannedBatch], width: int) -> list[str]:
    rows = []
    for batch in batches:
        first = [f"{batch.number}{' canary' if batch.canary else ''}", ", ".join(batch.workers)]
        for one in batch.capacity:
            counts = [str(one.healthy), str(one.during), f"≥ {one.least}"]
            rows.append([*first, one.queue, *counts])
            first = ["", ""]
        if first[0]:
            rows.append([*first, "none", "", "", ""])
    return table(_CAPACITY, rows, width) if rows else []


def _questions(plan: Plan) -> list[str]:
    return [
        one.question if one.typed is None else f"{one.question} (type {one.typed} to agree)"
        for one in plan.confirmations
    ]


def _hazards(plan: Plan, width: int) -> list[str]:
    """Prose, so each line ends between words; elsewhere there are commands to be copied."""
    lines = [line for says in plan.warnings for line in folded(f"  {says}", width)]
    return ["Hazards:", *lines] if lines else []


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    return [title, *(f"  {line}" for line in _safe(entries))] if entries else []


def _safe(lines: Iterable[str]) -> list[str]:
    return [safe_lines(line.replace("\n", " ")) for line in lines]
