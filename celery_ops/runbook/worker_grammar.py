"""How the verbs of workers are read, and those of beat, which are the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from celery_ops.config.document import Scalar
from celery_ops.runbook.control_grammar import worker_target
from celery_ops.runbook.queue_grammar import (
    is_of_a_queue,
    read_shared_step,
    refuse_keys,
    refuse_queue_keys,
)
from celery_ops.runbook.roll_words import Offline
from celery_ops.runbook.schema import (
    ANY_RUN,
    DEFAULT_SILENCE,
    OTHERS_REFUSED,
    BeatStep,
    Constant,
    OnTimeout,
    QueueVerb,
    WorkerStep,
    WorkerVerb,
)
from celery_ops.runbook.steps import Where

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.config.document import Node
    from celery_ops.config.units import Count
    from celery_ops.runbook.schema import QueueStep, Slot
    from celery_ops.runbook.steps import Spot, StepReader

T = TypeVar("T")

OWED_BY = "owed_by"
GIVE_BACK = "give_back"
OFFLINE = "offline"
OF_BEAT = ("silence", "others", "optional")
"""Keys that only schedulers have."""
_BEAT = "beat"
_BEAT_VERBS = frozenset({WorkerVerb.STOP, WorkerVerb.START, WorkerVerb.RESTART})


def read_worker_step(steps: StepReader, spot: Spot) -> WorkerStep | BeatStep | QueueStep | None:
    """What workers, queues (`drain: queue`) and schedulers (`stop: beat`) have in common."""
    if is_of_a_queue(spot) and spot.verb in set(QueueVerb):
        return read_shared_step(steps, spot)
    refuse_queue_keys(steps, spot)
    verb = WorkerVerb(spot.verb)
    is_beat = isinstance(spot.value, Scalar) and spot.value.text == _BEAT
    if is_beat and verb in _BEAT_VERBS and spot.where is Where.STEPS:
        return _beat_step(steps, spot, verb)
    foreign = {OWED_BY, GIVE_BACK, OFFLINE, *OF_BEAT}
    foreign -= {OFFLINE} if verb is WorkerVerb.DRAIN else set()
    refuse_keys(steps, spot, spot.keys.keys() & foreign)
    target = worker_target(steps, spot)
    if target is None:
        return None
    return WorkerStep(
        id=spot.id,
        verb=WorkerVerb(spot.verb),
        target=target,
        timeout=steps.timeout(spot),
        on_timeout=_on_timeout(steps, spot),
        when=steps.when(spot),
        place=spot.place,
        retries=steps.retries(spot),
        keep_available=_keep_available(steps, spot),
        for_good=_for_good(steps, spot),
        passes_over=_passes_over(steps, spot),
    )


def _for_good(steps: StepReader, spot: Spot) -> bool:
    node = spot.keys.get("for_good")
    if node is None:
        return False
    if spot.where is not Where.ROLL:
        steps.wrong(node.place, "`for_good` is only possible inside a roll: it guards what remains")
    return steps.values.reader.boolean(node, f"for_good of {spot.what}") is True


def _keep_available(steps: StepReader, spot: Spot) -> Slot[Count] | None:
    node = spot.keys.get("keep_available")
    if node is None:
        return None
    if spot.where is Where.ROLL:
        steps.wrong(node.place, "inside a roll the guard is the roll's own `keep_available`")
    return steps.values.count(node, f"keep_available of {spot.what}")


def _beat_step(steps: StepReader, spot: Spot, verb: WorkerVerb) -> BeatStep:
    refuse_keys(steps, spot, spot.keys.keys() & {"for_good"})
    if "retries" in spot.keys:
        steps.wrong(spot.keys["retries"].place, f"`{verb}: beat` is not tried again")
    return BeatStep(
        id=spot.id,
        verb=verb,
        timeout=steps.timeout(spot),
        when=steps.when(spot),
        place=spot.place,
        owed_by=optional(spot, OWED_BY, steps.values.plain_text, ANY_RUN),
        silence=optional(spot, "silence", steps.values.duration, DEFAULT_SILENCE),
        others=optional(spot, "others", steps.values.plain_text, OTHERS_REFUSED),
        offline=offline(steps, spot),
        optional=_flag(steps, spot, "optional", default=False),
        gives_back=_flag(steps, spot, GIVE_BACK, default=True),
    )


def _flag(steps: StepReader, spot: Spot, key: str, *, default: bool) -> bool:
    node = spot.keys.get(key)
    if node is None:
        return default
    return steps.values.reader.boolean(node, f"{key} of {spot.what}") is True


def _passes_over(steps: StepReader, spot: Spot) -> bool:
    node = spot.keys.get(OFFLINE)
    if node is None:
        return False
    chosen = steps.values.reader.choice(node, f"{OFFLINE} of {spot.what}", Offline)
    return chosen == Offline.SKIP


def offline(steps: StepReader, spot: Spot) -> Slot[str]:
    """Written out, or a parameter, which is judged when it has a value."""
    slot = optional(spot, OFFLINE, steps.values.plain_text, Offline.FAIL.value)
    if OFFLINE in spot.keys and isinstance(slot, Constant):
        steps.values.reader.choice(spot.keys[OFFLINE], f"{OFFLINE} of {spot.what}", Offline)
    return slot


def read_forget(steps: StepReader, spot: Spot) -> BeatStep:
    """`forget: NAMES`: schedulers that stay stopped."""
    return BeatStep(
        id=spot.id,
        verb=WorkerVerb.START,
        timeout=Constant(0.0),
        when=steps.when(spot),
        place=spot.place,
        forgets=steps.values.plain_text(spot.value, spot.what),
    )


def _on_timeout(steps: StepReader, spot: Spot) -> OnTimeout:
    node = spot.keys.get("on_timeout")
    if node is None:
        return OnTimeout.FAIL
    chosen = steps.values.reader.choice(node, f"on_timeout of {spot.what}", OnTimeout)
    if chosen == OnTimeout.DEFER and spot.where is not Where.ROLL:
        says = "`on_timeout: defer` is for a roll: here there are no others to go on with"
        steps.wrong(node.place, says)
    return OnTimeout(chosen or OnTimeout.FAIL)


def optional(spot: Spot, key: str, read: Callable[[Node, str], Slot[T]], default: T) -> Slot[T]:
    node = spot.keys.get(key)
    return Constant(default) if node is None else read(node, f"{key} of {spot.what}")
