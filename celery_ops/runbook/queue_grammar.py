"""How the verbs that are about queues are read.

The queue stands behind a verb that is about nothing else (`move: mail`). Where a verb is a worker's
too the word `queue` stands there, and the key of that name says which (`drain: queue`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.document import Items, Scalar, shown
from celery_ops.runbook.control_grammar import WORKER
from celery_ops.runbook.schema import (
    ANY_RUN,
    Constant,
    CurrentWorker,
    ProbeStep,
    QueueStep,
    QueueVerb,
)
from celery_ops.runbook.steps import Spot, StepReader, Where

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.config.document import Node

QUEUE, BACKUP = "queue", "backup"
_OF_A_QUEUE = {
    QueueVerb.DRAIN: frozenset({"queue", "timeout", "when"}),
    QueueVerb.RESUME: frozenset({"queue", "timeout", "owed_by", "when"}),
    QueueVerb.RESTORE: frozenset({"file", "queue", "rate", "again", "when"}),
}
"""The keys of verbs that others have too, where they are about a queue or its backup."""
_ONLY_OF_A_QUEUE = frozenset({"queue", "to", "rate", "file", "again"})


_ORIGINAL = "original_"
OF_THE_ORIGINAL = tuple(_ORIGINAL + name for name in ("task", "id", "args", "kwargs", "queue"))
"""The keys that tell where a wrapper has the fields of its original."""


def read_probe(steps: StepReader, spot: Spot) -> ProbeStep | None:
    """`probe: mail`, `probe: [mail, default]`, `probe: configured`; in a roll `probe: worker`."""
    values = steps.values
    is_worker = isinstance(spot.value, Scalar) and spot.value.text == WORKER
    nodes = spot.value.nodes if isinstance(spot.value, Items) else (spot.value,)
    if not nodes:
        steps.wrong(spot.value.place, f"{spot.what} names no queue")
    if is_worker and spot.where is not Where.ROLL:
        steps.wrong(spot.value.place, "worker is only known inside a roll; name the queues here")
    for node in nodes:
        _check_queue(steps, spot, node)
    if "first" in spot.keys and not is_worker:
        steps.wrong(spot.keys["first"].place, "`first` is for `probe: worker`")
    if "priorities" in spot.keys and spot.where is Where.ROLL:
        steps.wrong(spot.keys["priorities"].place, "priorities are proved outside of a roll")
    timeout = spot.keys.get("timeout")
    return ProbeStep(
        id=spot.id,
        queues=CurrentWorker()
        if is_worker
        else tuple(values.plain_text(node, spot.what) for node in nodes),
        timeout=None if timeout is None else values.some_time(timeout, f"timeout of {spot.what}"),
        when=steps.when(spot),
        place=spot.place,
        optional=_is_set(steps, spot, "optional"),
        first=_is_set(steps, spot, "first"),
        priorities=values.flag(spot.keys["priorities"], f"priorities of {spot.what}")
        if "priorities" in spot.keys
        else Constant(value=False),
    )


def _is_set(steps: StepReader, spot: Spot, key: str) -> bool:
    node = spot.keys.get(key)
    what = f"{key} of {spot.what}"
    return node is not None and steps.values.reader.boolean(node, what) is True


def _check_queue(steps: StepReader, spot: Spot, node: Node) -> None:
    if not isinstance(node, Scalar):
        return
    if any(mark in node.text for mark in "*?") and "${{" not in node.text:
        says = f"{spot.what}: {shown(node.text)} is a pattern, and each queue is named by its name"
        steps.wrong(node.place, says)


def is_of_a_queue(spot: Spot) -> bool:
    """Whether a verb that workers have too stands before the word `queue` here."""
    return isinstance(spot.value, Scalar) and spot.value.text == QUEUE


def read_queue_step(steps: StepReader, spot: Spot) -> QueueStep | None:
    """`pause: mail`, `move: mail` …: the queue stands behind the verb."""
    if is_of_a_queue(spot):
        steps.wrong(spot.value.place, f"{spot.what}: name the queue, as in `{spot.verb}: mail`")
    return _queue_step(steps, spot, spot.value)


def read_shared_step(steps: StepReader, spot: Spot) -> QueueStep | None:
    """`drain: queue`, `resume: queue`, `restore: backup`: which one is the key's to say."""
    if spot.where is not Where.STEPS:  # where workers have the same verb
        steps.wrong(spot.value.place, f"`{spot.verb}: queue` cannot stand in {spot.where.value}")
        return None
    allowed = _OF_A_QUEUE[QueueVerb(spot.verb)]
    refuse_keys(steps, spot, spot.keys.keys() - allowed - {spot.verb})
    needed = "file" if spot.verb == QueueVerb.RESTORE else "queue"
    if needed not in spot.keys:
        steps.wrong(spot.place, f"{spot.what} needs the key '{needed}': which one is meant")
        return None
    return _queue_step(steps, spot, spot.keys.get("queue"))


def refuse_queue_keys(steps: StepReader, spot: Spot, also: frozenset[str] = frozenset()) -> None:
    """Of a step that is not about a queue, though its verb has that form too."""
    refuse_keys(steps, spot, (spot.keys.keys() & _ONLY_OF_A_QUEUE) - also)


def refuse_keys(steps: StepReader, spot: Spot, keys: Iterable[str]) -> None:
    value = spot.value.text if isinstance(spot.value, Scalar) else "…"
    for key in sorted(keys):
        says = f"`{spot.verb}: {value}` has no key {shown(key)}"
        steps.wrong(spot.keys[key].place, says)


def _queue_step(steps: StepReader, spot: Spot, queue: Node | None) -> QueueStep:
    values, keys = steps.values, spot.keys
    of = f"of {spot.what}"
    where = keys.get("filter")
    return QueueStep(
        id=spot.id,
        verb=QueueVerb(spot.verb),
        queue=None if queue is None else values.plain_text(queue, f"the queue {of}"),
        to=values.plain_text(keys["to"], f"to {of}") if "to" in keys else None,
        file=steps.text(spot, "file"),
        filter=None if where is None else values.filter(where, f"filter {of}"),
        limit=values.positive(keys["limit"], f"limit {of}") if "limit" in keys else None,
        rate=values.rate(keys["rate"], f"rate {of}") if "rate" in keys else None,
        timeout=values.some_time(keys["timeout"], f"timeout {of}") if "timeout" in keys else None,
        when=steps.when(spot),
        place=spot.place,
        again=values.plain_text(keys["again"], f"again {of}") if "again" in keys else None,
        owed_by=values.plain_text(keys["owed_by"], f"owed_by {of}")
        if "owed_by" in keys
        else Constant(ANY_RUN),
        fields=tuple(
            (key.removeprefix(_ORIGINAL), values.plain_text(keys[key], f"{key} {of}"))
            for key in OF_THE_ORIGINAL
            if key in keys
        ),
    )
