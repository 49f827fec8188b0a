"""How a queue is doing, in a few cells: rates, time to drain, how long its oldest message waits.

`≥` stands before what is at least that much, `~` before what is about that much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_size
from celery_ops.model import parked
from celery_ops.tui.text import NOTHING, UNKNOWN, Cell, Tone, age

if TYPE_CHECKING:
    from datetime import datetime

    from celery_ops.model import Queue

_SLOW = 0.1
"""Messages a second; what is slower is told by the minute."""


def rate(value: float | None, *, at_least: bool = False) -> str:
    """`12/s`, `0.4/s`, `3/m`, `≥2/s`; `0` only where that is known."""
    if value is None or (at_least and value == 0):
        return UNKNOWN
    if value == 0:
        return "0"
    amount, unit = (value * 60, "m") if value < _SLOW else (value, "s")
    shown = f"{amount:,.0f}" if amount >= 9.95 else f"{amount:.1f}".removesuffix(".0")
    return f"{'≥' if at_least else ''}{shown}/{unit}"


def arrivals(queue: Queue) -> str:
    return rate(queue.flow.arrivals, at_least=queue.flow.at_least)


def completions(queue: Queue) -> str:
    return rate(queue.flow.completions, at_least=queue.flow.at_least)


def drain(queue: Queue) -> Cell:
    """How long it takes until it is empty at the present rate, or that it does not get there."""
    if queue.ready == 0:
        return Cell(NOTHING, Tone.DIM)
    if queue.drains_in is not None:
        return Cell(age(queue.drains_in))
    if parked(queue.name) is not None:
        return Cell("parked", Tone.DIM)
    if queue.consumers == 0:
        if queue.paused or queue.held:
            return Cell("paused" if queue.paused else "held", Tone.WARN)
        return Cell("never", Tone.BAD)
    if queue.flow.growth is None or queue.ready is None or queue.unacked is None:
        return Cell(UNKNOWN, Tone.DIM)
    return Cell("grows", Tone.WARN) if queue.flow.growth > 0 else Cell("steady", Tone.DIM)


def oldest(queue: Queue, now: datetime) -> Cell:
    """How long the message waits that has waited longest."""
    if queue.ready == 0:
        return Cell(NOTHING, Tone.DIM)
    if queue.oldest is not None:
        return Cell(age((now - queue.oldest).total_seconds()))
    if queue.waits_since is None:
        return Cell(UNKNOWN, Tone.DIM)
    return Cell(f"≥{age((now - queue.waits_since).total_seconds())}")


def size(queue: Queue) -> Cell:
    """Memory of what is ready."""
    if queue.ready == 0:
        return Cell(NOTHING, Tone.DIM)
    if queue.bytes is None:
        return Cell(UNKNOWN, Tone.DIM)
    return Cell(f"~{as_size(queue.bytes)}")
