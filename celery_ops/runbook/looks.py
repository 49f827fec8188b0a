"""What a look at a queue is worth to a plan: how many are meant, and what has to be known. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.schema import QueueVerb

if TYPE_CHECKING:
    from celery_ops.fleet.peeking import Look
    from celery_ops.runbook.moves import Wanted
    from celery_ops.runbook.plan import PlannedMove


@dataclass(frozen=True, slots=True)
class Found:
    """What a step is meant for, why it must not be done, and what has to be known before."""

    moves: tuple[PlannedMove, ...]
    refusals: list[str]
    hazards: list[str]


def known(truth: Truth) -> bool | None:
    return None if truth is Truth.UNKNOWN else truth is Truth.HOLDS


def estimate(seen: Look, wanted: int) -> int:
    """Of all that wait, by the share among those that were looked at."""
    if not seen.left or not seen.looked_at:
        return wanted
    return round(wanted * seen.ready / seen.looked_at)


def marking(wanted: Wanted) -> str:
    """What it means for those who consume it: they are served what nobody holds."""
    until = "until all is read"
    if wanted.verb is not QueueVerb.BACKUP:
        until += "; where that takes long, for about a minute at a time"
    return (
        f"to be read, the messages of {wanted.queue} are taken out and given back to their places:"
        f" those that stay there are marked as redelivered, and nobody is served them {until}"
    )


def of_a_look(seen: Look, wanted: Wanted) -> list[str]:
    says = []
    if seen.left:
        says.append(
            f"{seen.looked_at:,} of {seen.ready:,} messages of {wanted.queue} were looked at:"
            " how many are concerned is an estimate"
        )
    if seen.unknown:
        says.append(
            f"of {counted(seen.unknown, 'message')} of {wanted.queue} it cannot be told whether"
            f" {'it is' if seen.unknown == 1 else 'they are'} meant: what is not known of them is"
            " no match, and they stay"
        )
    return says


def nothing(wanted: Wanted) -> str:
    if wanted.filter is None:
        return f"no message waits in {wanted.queue}"
    return f"no message that waits in {wanted.queue} matches"
