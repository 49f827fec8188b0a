"""The words for an effect that was left out and for a look that failed, alike in all adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.hosts.units import text_of

if TYPE_CHECKING:
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed


def another_incarnation(service: ServiceRef, runs: str) -> CommandFailed:
    """A life runs that nothing was planned for; `runs` tells which, as `pid 4711`."""
    return CommandFailed(
        f"{service} was left alone: another incarnation runs than the one that was planned for"
        f" ({runs}).",
        fix="Look again and plan anew.",
    )


def still_stopping(service: ServiceRef, pid: str) -> CommandFailed:
    """It cannot be started before it is down."""
    return CommandFailed(f"{service} was left alone: it is still stopping (pid {pid}).")


def not_reached(service: ServiceRef, completed: Completed) -> CommandFailed:
    """The script for an effect failed before it could tell anything."""
    said = " ".join(text_of(completed.err).split())[:300]
    return CommandFailed(f"{service} was not reached: {said or completed.code}.")


def require_whole(completed: Completed, fails: str) -> None:
    """Raise CommandFailed, which begins with `fails`, if a look failed or is told in part only."""
    if completed.code:
        said = " ".join(text_of(completed.err).split())[:200] or f"exit code {completed.code}"
        raise CommandFailed(f"{fails}: {said}.")
    if completed.truncated:
        raise CommandFailed(f"{fails}: the answer is too long, and was cut off.")
