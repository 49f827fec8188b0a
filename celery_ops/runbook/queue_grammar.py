"""How the verbs that are about queues are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.document import Items, Scalar, shown
from celery_ops.runbook.control_grammar import WORKER
from celery_ops.runbook.schema import ProbeStep
from celery_ops.runbook.steps import Spot, StepReader, Where

if TYPE_CHECKING:
    from celery_ops.config.document import Node


def read_probe(steps: StepReader, spot: Spot) -> ProbeStep | None:
    """`probe: mail`, `probe: [mail, default]`, `probe: configured`."""
    values = steps.values
    nodes = spot.value.nodes if isinstance(spot.value, Items) else (spot.value,)
    if not nodes:
        steps.wrong(spot.value.place, f"{spot.what} names no queue")
    for node in nodes:
        _check_queue(steps, spot, node)
    timeout = spot.keys.get("timeout")
    return ProbeStep(
        id=spot.id,
        queues=tuple(values.plain_text(node, spot.what) for node in nodes),
        timeout=None if timeout is None else values.some_time(timeout, f"timeout of {spot.what}"),
        when=steps.when(spot),
        place=spot.place,
    )


def _check_queue(steps: StepReader, spot: Spot, node: Node) -> None:
    if not isinstance(node, Scalar):
        return
    if node.text == WORKER and not node.quoted:
        where = "by the queues that it consumes" if spot.where is Where.ROLL else "by its queues"
        says = f"a single worker cannot be probed by this version: probe it {where}"
        steps.wrong(node.place, says)
    elif any(mark in node.text for mark in "*?") and "${{" not in node.text:
        says = f"{spot.what}: {shown(node.text)} is a pattern, and each queue is named by its name"
        steps.wrong(node.place, says)
