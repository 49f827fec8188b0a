"""What is known of one queue, in a few lines. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.fleet import waiting
from celery_ops.tui import queues, rates, workers
from celery_ops.tui.depths import POINTS, SECONDS, sparkline
from celery_ops.tui.lines import Line, line
from celery_ops.tui.text import FRESH, NOTHING, UNKNOWN, Tone, age, counted, number

if TYPE_CHECKING:
    from datetime import datetime

    from celery_ops.model import Elsewhere, FleetSnapshot, Queue
    from celery_ops.tui.picture import Picture

LABEL = 12
_MOST_CONSUMERS = 20


def lines(queue: Queue, picture: Picture) -> list[Line]:
    """What waits, what is held, how that changes, and who works it off."""
    now, shown = picture.now, picture.shown
    found = [
        _waiting(queue, now),
        *_steps(queue),
        _held(queue, shown, now),
        *_rates(queue),
        _drains(queue),
    ]
    if shown is not None:
        found += [_depth(queue, picture, shown.at), _consumers(queue, shown)]
        delayed = waiting.elsewhere(shown)[queue.name].delayed
        if delayed:
            says = f"{counted(delayed, 'message')} in the queues for delayed delivery of all queues"
            found.append(_field("delayed", says))
    return found


def _field(label: str, *parts: str | tuple[str, Tone]) -> Line:
    return line((f"  {label}", Tone.DIM), *parts, indent=LABEL)


def _waiting(queue: Queue, now: datetime) -> Line:
    parts: list[str | tuple[str, Tone]] = [(f"{number(queue.ready)} ready", Tone.STRONG)]
    if queue.ready:
        size = rates.size(queue).text
        parts += ["   the oldest for ", rates.oldest(queue, now), f"   memory {size}"]
    seen = queue.seen_at
    if seen is not None:
        seconds = (now - seen).total_seconds()
        tone = Tone.DIM if seconds <= FRESH else Tone.WARN
        parts.append((f"   read {age(seconds)} ago", tone))
    return _field("waits", *parts)


def _steps(queue: Queue) -> list[Line]:
    """Only where there is more than the usual one."""
    steps = [(step, ready) for step, ready in queue.by_priority if ready]
    if not any(step for step, _ in steps):
        return []
    return [_field("priorities", "  ".join(f"{step}: {ready:,}" for step, ready in steps))]


def _held(queue: Queue, shown: FleetSnapshot | None, now: datetime) -> Line:
    parts: list[str | tuple[str, Tone]] = [(f"{number(queue.unacked)} unacked", Tone.STRONG)]
    if shown is not None and queue.unacked != 0:
        parts += [f"   {says}" for says in _of_these(waiting.elsewhere(shown)[queue.name], now)]
    if queue.orphans:
        parts.append((f"   {queue.orphans:,} of dead workers", Tone.BAD))
    return _field("held", *parts)


def _of_these(waits: Elsewhere, now: datetime) -> list[str]:
    if waits.eta is None:
        return [f"{UNKNOWN} until their ETA"]
    found = []
    if waits.eta:
        due = ""
        if waits.next_eta is not None:
            left = (waits.next_eta - now).total_seconds()
            due = f" (the next in {age(left)})" if left > 0 else " (the next is due now)"
        found.append(f"{waits.eta:,} until their ETA{due}")
    if waits.limited:
        found.append(f"{waits.limited:,} held back by a rate limit, as it seems")
    return found


def _rates(queue: Queue) -> list[Line]:
    flow = queue.flow
    if not flow.span:
        return [_field("rates", (f"{UNKNOWN} {flow.why}", Tone.DIM))]
    growth = rates.rate(abs(flow.growth)) if flow.growth is not None else UNKNOWN
    sign = {True: "+", False: "-"}[flow.growth > 0] if flow.growth else ""
    said = f"in {rates.arrivals(queue)}   out {rates.completions(queue)}   growth {sign}{growth}"
    found = [_field("rates", said, (f"   over {age(flow.span)}", Tone.DIM))]
    if flow.why:
        found.append(_field("", (flow.why, Tone.DIM)))
    return found


def _drains(queue: Queue) -> Line:
    cell = rates.drain(queue)
    says = {
        "never": "nobody consumes it",
        "paused": "nobody consumes it until it is resumed",
        "parked": "nobody consumes it until it is unparked",
        "grows": "more comes than goes",
        "steady": "as much comes as goes",
        NOTHING: "nothing waits",
        UNKNOWN: "not known",
    }.get(cell.text, "at the present rate")
    return _field("drains", cell, (f"   {says}", Tone.DIM))


def _depth(queue: Queue, picture: Picture, at: datetime) -> Line:
    points = picture.depths.of(queue.name, at)
    known = [point for point in points if point is not None]
    if not known:
        return _field("depth", (f"{UNKNOWN} not read yet", Tone.DIM))
    drawn = sparkline(points).lstrip()
    watched = len(points) - next(n for n, point in enumerate(points) if point is not None)
    said = f"   {age(min(watched, POINTS) * SECONDS)}, {min(known):,} to {max(known):,}"
    return _field("depth", (drawn, Tone.NOTE), (said, Tone.DIM))


def _consumers(queue: Queue, shown: FleetSnapshot) -> Line:
    consuming = shown.consumers_of(queue.name)
    if queue.consumers == 0:
        return _field("consumers", queues.consumers_cell(queue))
    parts: list[str | tuple[str, Tone]] = []
    if queue.consumers is None:
        parts.append((f"{UNKNOWN} not every worker has told  ", Tone.WARN))
    for worker in consuming[:_MOST_CONSUMERS]:
        parts += [f"{worker.name} ", workers.state_cell(worker.state), "  "]
    more = len(consuming) - _MOST_CONSUMERS
    return _field("consumers", *parts, f"and {more:,} more" if more > 0 else "")
