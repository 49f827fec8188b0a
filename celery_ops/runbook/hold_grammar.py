"""How `hold: task`, by names or of what a release does not know, and `release: task` are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.schema import Constant
from celery_ops.runbook.task_steps import HoldStep, ReleaseStep, SieveStep

if TYPE_CHECKING:
    from celery_ops.runbook.schema import Slot
    from celery_ops.runbook.steps import Spot, StepReader

TASK = "task"
BACK, KEEP = "back", "keep"
"""What becomes of messages that were held."""
IGNORE, REFUSE = "ignore", "refuse"
"""What is done where nobody can tell which tasks a release registers."""


def read_hold(steps: StepReader, spot: Spot) -> HoldStep | SieveStep | None:
    """Which tasks is the key's to say: by their names, or those that a release does not know."""
    if steps.values.reader.choice(spot.value, spot.what, [TASK]) is None:
        return None
    named = [key for key in (TASK, "unknown_to") if key in spot.keys]
    if len(named) != 1:
        steps.wrong(
            spot.place,
            f"{spot.what} needs one of the keys 'task', the name of a task or several with commas,"
            " and 'unknown_to', a release that does not register them",
        )
        return None
    if named == ["unknown_to"]:
        return _read_sieve(steps, spot)
    if "untold" in spot.keys:
        steps.wrong(spot.keys["untold"].place, f"untold of {spot.what} needs 'unknown_to'")
    return HoldStep(
        id=spot.id,
        tasks=_text(steps, spot, TASK, ""),
        queues=_text(steps, spot, "queues", ""),
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
    )


def _read_sieve(steps: StepReader, spot: Spot) -> SieveStep:
    if "queues" in spot.keys:
        says = f"{spot.what} is about all queues that workers consume: no 'queues'"
        steps.wrong(spot.keys["queues"].place, says)
    untold = _text(steps, spot, "untold", IGNORE)
    if isinstance(untold, Constant) and untold.value not in {IGNORE, REFUSE}:
        says = f"untold of {spot.what} is one of {IGNORE}, {REFUSE}"
        steps.wrong(spot.keys["untold"].place, says)
    return SieveStep(
        id=spot.id,
        release=steps.values.release(spot.keys["unknown_to"], f"unknown_to of {spot.what}"),
        untold=untold,
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
    )


def read_release(steps: StepReader, spot: Spot) -> ReleaseStep | None:
    """Which tasks is the key's to say; without it, those that are held."""
    if steps.values.reader.choice(spot.value, spot.what, [TASK]) is None:
        return None
    parked = _text(steps, spot, "parked", BACK)
    if isinstance(parked, Constant) and parked.value not in {BACK, KEEP}:
        says = f"parked of {spot.what} is one of {BACK}, {KEEP}"
        steps.wrong(spot.keys["parked"].place, says)
    rate = spot.keys.get("rate")
    return ReleaseStep(
        id=spot.id,
        tasks=_text(steps, spot, TASK, ""),
        parked=parked,
        rate=Constant("") if rate is None else steps.values.rate(rate, f"rate of {spot.what}"),
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
    )


def _text(steps: StepReader, spot: Spot, key: str, default: str) -> Slot[str]:
    node = spot.keys.get(key)
    if node is None:
        return Constant(default)
    return steps.values.plain_text(node, f"{key} of {spot.what}")
