"""What a roll does about those that cannot be reached when it is planned. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.runbook.schema import Reference
from celery_ops.runbook.slots import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.runbook.schema import Roll


@dataclass(frozen=True, slots=True)
class Absences:
    """`failed` are counted as failed from the start: they are not acted upon."""

    failed: frozenset[str] = frozenset()
    refusals: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()


def judged(roll: Roll, absent: Mapping[str, str], scope: Mapping[str, object]) -> Absences:
    """`absent` tells why, by name. As many as may fail do; more stand in the way."""
    most = resolve(roll.max_failed, scope)
    if len(absent) <= most:
        says = (
            f"{name} counts as failed, of at most {most}: {why}" for name, why in absent.items()
        )
        return Absences(frozenset(absent), hazards=tuple(says))
    if not isinstance(roll.offline, Reference):
        return Absences()
    others = f"the others are gone on with by -p {roll.offline.path[-1]}=skip"
    return Absences(refusals=(f"{', '.join(absent)} cannot be reached: {others}",))
