"""What the end of a run says beside names: why each target failed, and the command that goes on
with those that are left. Pure.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked
from celery_ops.runbook.journal import Cause, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.runbook.journal import Report
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.worker_verbs import Target

_MOST_LINES = 5


def causes(targets: Iterable[Target]) -> tuple[Cause, ...]:
    """Why each that failed did: one line, and the last lines of what its command wrote."""
    return tuple(cause(target.name, target.failed) for target in targets if target.failed)


def cause(target: str, failed: str) -> Cause:
    """A failure as its first line, and the last of what follows it."""
    says, _, more = masked(failed).partition("\n")
    return Cause(target, says, "\n".join(more.splitlines()[-_MOST_LINES:]))


def again(report: Report, plan: Plan, state: RunState) -> str:
    """The command for those that are not done; empty where nobody is left."""
    if state is RunState.INTERRUPTED:
        return f"celery-ops runs resume {plan.run}"
    left = (*report.failed, *report.deferred, *report.not_started)
    if not left or not report.done + report.failed:
        return ""
    given = {name: value for name, value in plan.params.items() if name != "workers"}
    if "workers" in plan.params:
        given = {"workers": ",".join(left), **given}
    words = ["celery-ops", "runbook", plan.runbook]
    for name, value in (*given.items(), *(("allow_gap", queue) for queue in plan.allow_gap)):
        if name != "allow_gap" or value in plan.allow_gap:
            words += ["-p", f"{name}={value}"]
    return masked(shlex.join(words))
