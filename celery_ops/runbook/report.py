"""What the end of a run says beside names: why each target failed, and the command that goes on
with those that are left. Pure.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked
from celery_ops.model import HELD, HOLD, TakenRecord
from celery_ops.runbook.events import Cause, Owed, Report, RunState
from celery_ops.runbook.schema import ControlStep, Reference, Roll, ScaleStep, WorkerStep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import Plan, PlannedWorker
    from celery_ops.runbook.recall import Recall
    from celery_ops.runbook.schema import Runbook, Step

_MOST_LINES = 5


def causes(targets: Iterable[Target]) -> tuple[Cause, ...]:
    """Why each that failed did: one line, and the last lines of what its command wrote."""
    return tuple(cause(target.name, target.failed) for target in targets if target.failed)


def cause(target: str, failed: str) -> Cause:
    """A failure as its first line, and the last of what follows it."""
    says, _, more = masked(failed).partition("\n")
    return Cause(target, says, "\n".join(more.splitlines()[-_MOST_LINES:]))


def paused(records: Iterable[TakenRecord]) -> tuple[Owed, ...]:
    """What is left of queues that are paused, by queue."""
    workers: dict[str, list[TakenRecord]] = {}
    for record in records:
        if record.paused is not None:
            workers.setdefault(record.paused, []).append(record)
    return tuple(
        Owed(f"{queue} is paused, taken from {', '.join(one.worker for one in of)}", of[0].mend)
        for queue, of in workers.items()
    )


def held(records: Iterable[TakenRecord]) -> tuple[Owed, ...]:
    """What is left of a hold: that it goes on, or workers that consume in its way."""
    hold = next((one for one in records if one.kind == HOLD), None)
    if hold is not None:
        is_held = "is" if len(hold.tasks) == 1 else "are"
        return (Owed(f"{', '.join(hold.tasks)} {is_held} held", hold.mend),)
    workers = {one.worker: one for one in records if one.kind == HELD}
    says = "consumes what goes through a hold, in place of its own queues"
    return tuple(Owed(f"{name} {says}", one.mend) for name, one in workers.items())


def from_journal(recall: Recall, plan: Plan, state: RunState) -> Report:
    """What is left by a run that cannot be taken up, as far as its journal alone tells."""
    owed: dict[str, Owed] = {}
    for target in plan.targets:
        drained, down = recall.leaves(target.name)
        if drained or down:
            owed[target.name] = _owed(target, plan, down=down)
    queues = [
        Owed(
            f"{queue} is paused, says its journal", f"celery-ops queue resume {shlex.quote(queue)}"
        )
        for queue in recall.paused
    ]
    return Report(
        failed=tuple(owed),
        not_started=tuple(one.name for one in plan.targets if one.name not in owed),
        owed=(*owed.values(), *queues),
        again=f"celery-ops runs resume {plan.run}" if state is RunState.INTERRUPTED else "",
    )


def _owed(target: PlannedWorker, plan: Plan, *, down: bool) -> Owed:
    kind, is_what = ("service", "stopped") if down else ("queues", "drained")
    record = TakenRecord(
        kind, target.name, target.incarnation, (), target.service, plan.run, plan.operator, plan.at
    )
    return Owed(f"{target.name} is {is_what}, says its journal", record.mend)


def again(report: Report, plan: Plan, runbook: Runbook, state: RunState) -> str:
    """The command for those that are not done; empty where nobody is left, or where that could not
    be said in parameters.
    """
    if state is RunState.INTERRUPTED:
        return f"celery-ops runs resume {plan.run}"
    if state is RunState.UNDONE:
        return ""
    beats = {one.name for one in plan.targets if one.is_beat}  # no selector names these
    named = (*report.failed, *report.deferred, *report.returned, *report.not_started)
    left = [name for name in named if name not in beats]
    if not left or not report.done + report.failed:
        return ""
    if any(isinstance(step, Roll) and step.running is not None for step in runbook.steps):
        given = dict(plan.params)  # how many are to run counts those that are done
    else:
        choosing = {_choosing(step) for step in runbook.steps} - {""}
        param = choosing.pop() if len(choosing) == 1 else None
        if param is None:
            return ""
        named_once = {param, "allow_gap"}
        others = {name: value for name, value in plan.params.items() if name not in named_once}
        given = {param: ",".join(left), **others}
    words = ["celery-ops", "runbook", plan.runbook]
    for name, value in (*given.items(), *(("allow_gap", queue) for queue in plan.allow_gap)):
        words += ["-p", f"{name}={value}"]
    words += ["--emergency"] if plan.emergency else []
    return masked(shlex.join(words))


def _choosing(step: Step) -> str | None:
    """The parameter by which a step chooses its workers; None if they are written out, "" if it
    chooses none.
    """
    match step:
        case Roll(workers=chosen):
            pass
        case WorkerStep(target=chosen) | ControlStep(target=chosen) | ScaleStep(target=chosen):
            pass
        case _:
            return ""
    return chosen.path[-1] if isinstance(chosen, Reference) else None
