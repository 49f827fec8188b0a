"""What is cut off at a stop because its drain was gone on without: agreed beforehand, and named.

It is told in the results of the run's journal, so a run that is taken up again knows it, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.model import WorkerState
from celery_ops.runbook.orders import Order, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.runbook.events import Outcome
    from celery_ops.runbook.judges import Judgement

PASSED_OVER = "not asked, and not waited for: "
"""How it is told that a worker could not be asked to drain."""
GOING_ON = "going on; "
"""How it is told that a drain did not come to its end."""
CUT_OFF = "did not stop cleanly, as was agreed: "
WAS_DOWN = "was down already: "
BEYOND_THE_GRACE = 30.0
"""Seconds that a supervisor may take to kill what outlasts its grace."""


def recollect(target: Target, outcome: Outcome) -> bool:
    """Whether this result of a drain says that it is gone on without it; then so it stays."""
    is_passed_over = outcome.says.startswith(PASSED_OVER)
    if not is_passed_over and not outcome.says.startswith(GOING_ON):
        return False
    target.cut_off = outcome.says.removeprefix(PASSED_OVER).removeprefix(GOING_ON)
    target.unasked = is_passed_over
    return is_passed_over


def patient_with(order: Order, target: Target) -> Order:
    """A stop that may cut off what runs lasts as long as the grace of its service, at most."""
    grace = target.planned.stop_grace
    if not target.cut_off or grace is None:
        return order
    return replace(order, timeout=max(order.timeout, grace + BEYOND_THE_GRACE))


def unclean(target: Target, seen: Judgement) -> str:
    """What is concluded of a stop that was not clean; a failure unless it was agreed upon."""
    if target.planned.state is WorkerState.STOPPED:
        return f"{WAS_DOWN}{seen.says}"
    says = f"{seen.says}; what it had not begun {seen.unclean}"
    if target.cut_off:
        target.lost = f"{target.cut_off}; {says}"
        return f"{CUT_OFF}{target.lost}"
    target.failed = f"was killed at its stop, running tasks may be lost: {says}"
    return target.failed


def told_loss(outcome: Outcome) -> str:
    """What the journal says was cut off at a stop; empty: nothing."""
    return outcome.says.removeprefix(CUT_OFF) if outcome.says.startswith(CUT_OFF) else ""


def losses(targets: Iterable[Target]) -> list[str]:
    """What was cut off, by worker."""
    return [f"{one.name} did not stop cleanly: {one.lost}" for one in targets if one.lost]
