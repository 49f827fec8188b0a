"""What is asked before the first change. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.runbook.loader import render
from celery_ops.runbook.plan import Confirmation
from celery_ops.runbook.schema import ConfirmStep, Risk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.plan import Where
    from celery_ops.runbook.schema import Runbook


def confirmations(
    runbook: Runbook,
    where: Where,
    scope: Mapping[str, object],
    targets: tuple[str, ...],
    messages: int,
) -> tuple[Confirmation, ...]:
    """The runbook's questions; one of our own where it asks none, unless it can do little harm."""
    asked = [step for step in runbook.steps if isinstance(step, ConfirmStep)]
    typed = where.context if where.protected or runbook.risk is Risk.HIGH else None
    if asked:
        return tuple(Confirmation(step.id, render(step.question, scope), typed) for step in asked)
    if not runbook.changes or (runbook.risk is Risk.LOW and typed is None):
        return ()
    told = counted(messages, "message") if messages else ""
    names = ", ".join(targets) or told or "the hosts named in it"
    return (Confirmation("0", f"Run {runbook.name} on {names}?", typed),)
