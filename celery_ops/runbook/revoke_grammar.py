"""How the verbs that are about tasks are read: `revoke`, `terminate` and `retry: tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook.schema import Constant
from celery_ops.runbook.task_steps import ENDED, SIGNALS, RetryStep, RevokeStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.runbook.names import Names
    from celery_ops.runbook.schema import Slot
    from celery_ops.runbook.steps import Spot, StepReader

TASKS = "tasks"
TERMINATE = "terminate"
_CHOOSING = ("ids", "task", "filter")


def read_revoke(steps: StepReader, spot: Spot) -> RevokeStep | None:
    """Which tasks is the keys' to say: by their ids, or by name and condition."""
    if not _is_of_tasks(steps, spot):
        return None
    signal = _text(steps, spot, "signal", SIGNALS[0])
    _check_choice(steps, spot, "signal", signal, SIGNALS)
    return RevokeStep(
        id=spot.id,
        terminates=spot.verb == TERMINATE,
        ids=_text(steps, spot, "ids", ""),
        task=_text(steps, spot, "task", ""),
        filter=_filter(steps, spot, steps.values.names_of_messages()),
        signal=signal,
        unseen=steps.values.flag(spot.keys["unseen"], f"unseen of {spot.what}")
        if "unseen" in spot.keys
        else Constant(value=False),
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
    )


def read_retry(steps: StepReader, spot: Spot) -> RetryStep | None:
    """Likewise; only the filter is another one."""
    if not _is_of_tasks(steps, spot):
        return None
    values, keys = steps.values, spot.keys
    ended = _text(steps, spot, "ended", ENDED[0])
    _check_choice(steps, spot, "ended", ended, ENDED)
    of = f"of {spot.what}"
    return RetryStep(
        id=spot.id,
        ids=_text(steps, spot, "ids", ""),
        task=_text(steps, spot, "task", ""),
        filter=_filter(steps, spot, values.names_of_results()),
        ended=ended,
        to=_text(steps, spot, "to", ""),
        limit=values.positive(keys["limit"], f"limit {of}") if "limit" in keys else Constant(0),
        rate=values.rate(keys["rate"], f"rate {of}") if "rate" in keys else Constant(""),
        again=_text(steps, spot, "again", ""),
        when=steps.when(spot),
        place=spot.place,
    )


def _is_of_tasks(steps: StepReader, spot: Spot) -> bool:
    if steps.values.reader.choice(spot.value, spot.what, [TASKS]) is None:
        return False
    if not any(key in spot.keys for key in _CHOOSING):
        says = f"{spot.what} needs one of the keys 'ids', 'task' and 'filter': which tasks"
        steps.wrong(spot.place, says)
    return True


def _check_choice(
    steps: StepReader, spot: Spot, key: str, written: Slot[str], choices: Sequence[str]
) -> None:
    if isinstance(written, Constant) and written.value not in choices:
        says = f"{key} of {spot.what} is one of {', '.join(choices)}"
        steps.wrong(spot.keys[key].place, says)


def _filter(steps: StepReader, spot: Spot, names: Names) -> Slot[str]:
    written = _text(steps, spot, "filter", "")
    if isinstance(written, Constant) and written.value:
        steps.values.condition(spot.keys["filter"], f"filter of {spot.what}", names)
    return written


def _text(steps: StepReader, spot: Spot, key: str, default: str) -> Slot[str]:
    node = spot.keys.get(key)
    if node is None:
        return Constant(default)
    return steps.values.plain_text(node, f"{key} of {spot.what}")
