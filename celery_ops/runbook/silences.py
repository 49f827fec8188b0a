"""For how long it is watched that no scheduler sends, once all are stopped. Pure.

Longer than the shortest interval of the schedule, as far as that is known: a scheduler that goes on
has sent by then. What an operator gives with -p counts as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.fleet import schedules
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.schema import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.model import PeriodicTask
    from celery_ops.runbook.planner import Request
    from celery_ops.runbook.schema import BeatStep

MARGIN = 1.25
LONGEST = 600.0
"""Seconds: nobody waits for longer than that unless it was asked for."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Silence:
    """So many seconds, why so many, and what they do not prove."""

    seconds: float
    says: str
    hazards: tuple[str, ...] = ()


def of(step: BeatStep, request: Request) -> Silence:
    """The least of the step, or longer where the schedule asks for it."""
    least = resolve(step.silence, {"params": request.params})
    slot = step.silence
    by_hand = isinstance(slot, Reference) and slot.path[-1] in request.given
    why = "; ".join(request.schedule.unknown)
    unknown = f" (not known: {why})" if why else ""
    found = schedules.shortest(request.schedule)
    if found is None:
        says = f"how often it sends is not known{': ' if why else ''}{why}"
        return Silence(least, "as given" if by_hand else says)
    interval, entry = found
    source = some(request.schedule.told_by)
    shortest = f"the shortest interval, {as_duration(interval)} ({entry.name}; {source})"
    wanted = interval * MARGIN
    if least > interval and (by_hand or least >= wanted):
        return Silence(least, f"longer than {shortest}{unknown}")
    if by_hand:
        return Silence(
            least, f"as given, and no longer than {shortest}", (_too_short(least, found),)
        )
    if wanted > LONGEST:
        seconds = max(least, LONGEST)
        says = f"no longer than {shortest}"
        return Silence(seconds, says, (_too_short(seconds, found),))
    return Silence(wanted, f"longer than {shortest}{unknown}")


def some(names: Iterable[str]) -> str:
    """The first of them, and how many more."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more


def _too_short(seconds: float, found: tuple[float, PeriodicTask]) -> str:
    interval, entry = found
    return (
        f"that no message comes for {as_duration(seconds)} proves little: the shortest interval is "
        f"{as_duration(interval)} ({entry.name}). That no process of a scheduler is left is looked "
        f"at all the same; -p silence={as_duration(interval * MARGIN)} waits for longer"
    )
