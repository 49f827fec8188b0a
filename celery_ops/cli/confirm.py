"""Confirmations: asked before a run is written down, so that nothing has happened yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli import terminal
from celery_ops.errors import ConfirmationNeeded, Declined

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.runbook.plan import Confirmation, Plan


def is_answered(plan: Plan, *, yes: bool, explicit: bool) -> bool:
    """Nobody needs to be asked: there is no question, or `--yes` may answer it.

    In a protected context `--yes` counts only where the context was named with -c.
    """
    return not plan.confirmations or (yes and (explicit or not plan.where.protected))


def agree(plan: Plan, *, yes: bool, explicit: bool) -> dict[str, str]:
    """Who agreed, by step. Raise ConfirmationNeeded without a terminal, Declined at a no."""
    if is_answered(plan, yes=yes, explicit=explicit):
        return {one.step: f"{plan.operator} (--yes)" for one in plan.confirmations}
    if not terminal.can_ask():
        raise ConfirmationNeeded(
            f"{plan.confirmations[0].question} Nobody can be asked: there is no terminal.",
            fix=_how_to_agree(plan.where.context, yes=yes),
        )
    for one in plan.confirmations:
        _ask(one)
    return {one.step: plan.operator for one in plan.confirmations}


def agree_to(question: str, context: Context, *, yes: bool, explicit: bool) -> None:
    """The same for what is no run: a protected context wants its name typed."""
    if yes and (explicit or not context.protected):
        return
    if not terminal.can_ask():
        raise ConfirmationNeeded(
            f"{question} Nobody can be asked: there is no terminal.",
            fix=_how_to_agree(context.name, yes=yes),
        )
    _ask_for(question, context.name if context.protected else None)


def _ask(confirmation: Confirmation) -> None:
    _ask_for(confirmation.question, confirmation.typed)


def _ask_for(question: str, wanted: str | None) -> None:
    how = "[y/N]" if wanted is None else f"\nType {wanted} to agree:"
    try:
        answer = terminal.ask(f"{question} {how}")
    except KeyboardInterrupt as error:
        raise Declined("not confirmed; nothing was changed") from error
    agreed = answer.lower() in {"y", "yes"} if wanted is None else answer == wanted
    if not agreed:
        raise Declined("not confirmed; nothing was changed")


def _how_to_agree(name: str, *, yes: bool) -> str:
    if yes:
        return f"{name} is protected, so --yes counts only with an explicit -c {name}."
    return "A script agrees beforehand with --yes."
