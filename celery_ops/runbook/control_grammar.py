"""How the verbs that ask a worker itself are read: `control` and `scale`."""

from __future__ import annotations

import re

from celery_ops.config.document import Scalar, kind, shown
from celery_ops.config.units import Count
from celery_ops.runbook.dangers import control_danger
from celery_ops.runbook.release_steps import WatchStep
from celery_ops.runbook.schema import (
    Argument,
    Constant,
    ControlStep,
    CurrentWorker,
    ScaleStep,
    Slot,
)
from celery_ops.runbook.steps import Spot, StepReader, Where

WORKER = "worker"
MAX_FAILURES = Count(5, percent=True)
_METHOD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NEVER_SENT = {"hello": "it merges what others have revoked into whoever answers"}


def read_scale(steps: StepReader, spot: Spot) -> ScaleStep | None:
    """`scale: worker`, to so many processes or by so many."""
    target = worker_target(steps, spot)
    to, by = spot.keys.get("to"), spot.keys.get("by")
    if (to is None) == (by is None):
        steps.wrong(spot.place, f"{spot.what} needs one of the keys 'to' and 'by': how many")
    values = steps.values
    goal = None if to is None else values.positive(to, f"to of {spot.what}")
    change = None if by is None else values.signed(by, f"by of {spot.what}")
    timeout, when = steps.timeout(spot), steps.when(spot)
    if target is None:
        return None
    return ScaleStep(spot.id, target, goal, change, timeout, when, spot.place)


def read_watch(steps: StepReader, spot: Spot) -> WatchStep | None:
    """`watch: worker`: how its tasks end, for so long, and how many may fail."""
    target, values = worker_target(steps, spot), steps.values
    lasts, most = spot.keys.get("for"), spot.keys.get("max_failures")
    if target is None or lasts is None:
        return None
    return WatchStep(
        id=spot.id,
        target=target,
        lasts=values.duration(lasts, f"for of {spot.what}"),
        max_failures=Constant(MAX_FAILURES)
        if most is None
        else values.count(most, f"max_failures of {spot.what}"),
        when=steps.when(spot),
        place=spot.place,
    )


def read_control(steps: StepReader, spot: Spot) -> ControlStep | None:
    method = steps.values.reader.text(spot.value, f"the method of {spot.what}")
    takes = takes_worker(steps, spot)
    target = _directed_at(steps, spot)
    if method is None or target is None:
        return None
    if not _METHOD.fullmatch(method):
        steps.wrong(spot.value.place, f"{shown(method)} is no name of a control command")
    elif method in _NEVER_SENT:
        steps.wrong(spot.value.place, f"`{method}` is never sent: {_NEVER_SENT[method]}")
    elif control_danger(method) and not takes:
        where = "" if spot.where is Where.ROLL else ", inside a roll"
        says = f"`{method}` takes workers away: say `takes: worker`{where}, so that it is guarded"
        steps.wrong(spot.value.place, says)
    return ControlStep(
        id=spot.id,
        method=method,
        arguments=_arguments(steps, spot),
        target=target,
        timeout=steps.timeout(spot),
        takes_worker=takes,
        when=steps.when(spot),
        place=spot.place,
    )


def _directed_at(steps: StepReader, spot: Spot) -> CurrentWorker | Slot[str] | None:
    """Nothing is ever sent to everybody: the current worker, or a selector."""
    node = spot.keys.get("on")
    if spot.where is Where.ROLL:
        if node is not None and not (isinstance(node, Scalar) and node.text == WORKER):
            steps.wrong(node.place, "inside a roll it goes to the worker whose turn it is")
        return CurrentWorker()
    if node is None:
        steps.wrong(spot.place, f"{spot.what} needs the key 'on': the workers it is sent to")
        return None
    return steps.values.workers(node, f"on of {spot.what}")


def _arguments(steps: StepReader, spot: Spot) -> tuple[tuple[str, Argument], ...]:
    node = spot.keys.get("args")
    if node is None:
        return ()
    entries = steps.values.reader.any_table(node, f"args of {spot.what}")
    for name, entry in entries.items():
        if not _METHOD.fullmatch(name) or name in {"destination", "reply", "connection"}:
            steps.wrong(entry.key.place, f"{shown(name)} cannot be an argument here")
    return tuple(
        (name, steps.values.argument(entry.node, f"{name} of args", spot.names))
        for name, entry in entries.items()
    )


def worker_target(steps: StepReader, spot: Spot) -> CurrentWorker | Slot[str] | None:
    """Inside a roll the worker whose turn it is, else a selector."""
    word = spot.value.text if isinstance(spot.value, Scalar) else None
    if spot.where is Where.ROLL:
        if word == WORKER:
            return CurrentWorker()
        says = f"inside a roll it is `{spot.verb}: worker`, not {kind(spot.value)}"
        steps.wrong(spot.value.place, says)
        return None
    if word == WORKER:
        steps.wrong(spot.value.place, "worker is only known inside a roll; name the workers here")
        return None
    if word == "beat":
        says = f"beat can be stopped, started and restarted, and nothing else ({spot.verb})"
        steps.wrong(spot.value.place, says)
        return None
    return steps.values.workers(spot.value, spot.what)


def takes_worker(steps: StepReader, spot: Spot) -> bool:
    """Whether the step says that it takes the worker whose turn it is."""
    node = spot.keys.get("takes")
    if node is None:
        return False
    if spot.where is not Where.ROLL:
        steps.wrong(node.place, "`takes: worker` is only possible inside a roll")
        return False
    return steps.values.reader.choice(node, f"takes of {spot.what}", [WORKER]) is not None
