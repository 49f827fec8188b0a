"""How `hold: task` and `release: task` are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.schema import Constant
from celery_ops.runbook.task_steps import HoldStep, ReleaseStep

if TYPE_CHECKING:
    from celery_ops.runbook.schema import Slot
    from celery_ops.runbook.steps import Spot, StepReader

TASK = "task"
BACK, KEEP = "back", "keep"
"""What becomes of messages that were held."""


def read_hold(steps: StepReader, spot: Spot) -> HoldStep | None:
    """Which tasks is the key's to say."""
    if steps.values.reader.choice(spot.value, spot.what, [TASK]) is None:
        return None
    return HoldStep(
        id=spot.id,
        tasks=_text(steps, spot, TASK, ""),
        queues=_text(steps, spot, "queues", ""),
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
