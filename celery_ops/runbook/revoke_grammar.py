"""How the verbs that are about tasks are read: `revoke: tasks` and `terminate: tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.schema import SIGNALS, Constant
from celery_ops.runbook.task_steps import RevokeStep

if TYPE_CHECKING:
    from celery_ops.runbook.schema import Slot
    from celery_ops.runbook.steps import Spot, StepReader

TASKS = "tasks"
TERMINATE = "terminate"
_CHOOSING = ("ids", "task", "filter")


def read_revoke(steps: StepReader, spot: Spot) -> RevokeStep | None:
    """Which tasks is the keys' to say: by their ids, or by name and condition."""
    if steps.values.reader.choice(spot.value, spot.what, [TASKS]) is None:
        return None
    if not any(key in spot.keys for key in _CHOOSING):
        says = f"{spot.what} needs one of the keys 'ids', 'task' and 'filter': which tasks"
        steps.wrong(spot.place, says)
    signal = _text(steps, spot, "signal", SIGNALS[0])
    if isinstance(signal, Constant) and signal.value not in SIGNALS:
        says = f"signal of {spot.what} is one of {', '.join(SIGNALS)}"
        steps.wrong(spot.keys["signal"].place, says)
    chosen_by = _text(steps, spot, "filter", "")
    if isinstance(chosen_by, Constant) and chosen_by.value:
        steps.values.condition(
            spot.keys["filter"], f"filter of {spot.what}", steps.values.names_of_messages()
        )
    return RevokeStep(
        id=spot.id,
        terminates=spot.verb == TERMINATE,
        ids=_text(steps, spot, "ids", ""),
        task=_text(steps, spot, "task", ""),
        filter=chosen_by,
        signal=signal,
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
    )


def _text(steps: StepReader, spot: Spot, key: str, default: str) -> Slot[str]:
    node = spot.keys.get(key)
    if node is None:
        return Constant(default)
    return steps.values.plain_text(node, f"{key} of {spot.what}")
