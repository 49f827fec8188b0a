"""The queues as plain text: how much waits, how it comes and goes, who works it off."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.cli.text import Column, table
from celery_ops.fleet import waiting
from celery_ops.model import parked
from celery_ops.model.holding import hold_of
from celery_ops.tui import rates
from celery_ops.tui.text import UNKNOWN, age, counted, number, safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from celery_ops.model import Elsewhere, FleetSnapshot, Queue

_COLUMNS = (
    Column("queue", gives=True),
    Column("ready", right=True),
    Column("unacked", right=True),
    Column("consumers", right=True),
    Column("in", right=True),
    Column("out", right=True),
    Column("drains", right=True),
    Column("oldest", right=True, optional=True),
    Column("size", right=True, optional=True),
    Column("consumed by", gives=True, optional=True),
)
_MOST_NAMES = 3
_ONE_LOOK = "note: rates and times take some seconds of watching: --watch tells them"


def lines(snapshot: FleetSnapshot, width: int) -> list[str]:
    """The table, and below it what has to be known beside the numbers."""
    if not snapshot.queues:
        return ["no queues were seen"]
    consumed_by = waiting.consumers(snapshot)
    rows = [_row(one, consumed_by.get(one.name, ()), snapshot.at) for one in snapshot.queues]
    return [*table(_COLUMNS, rows, width), "", *map(safe, _remarks(snapshot))]


def _row(queue: Queue, consumed_by: Sequence[str], now: datetime) -> tuple[str, ...]:
    return (
        queue.name,
        number(queue.ready),
        number(queue.unacked),
        consumers(queue),
        rates.arrivals(queue),
        rates.completions(queue),
        rates.drain(queue).text,
        rates.oldest(queue, now).text,
        rates.size(queue).text,
        UNKNOWN if queue.consumers is None and not consumed_by else ",".join(consumed_by) or "none",
    )


def consumers(queue: Queue) -> str:
    """How many there are, or why it is meant that there are none."""
    if parked(queue.name) is not None:
        return "parked"
    if queue.held and queue.consumers == 0:
        return "held"
    return "paused" if queue.paused and queue.consumers == 0 else number(queue.consumers)


def _remarks(snapshot: FleetSnapshot) -> Iterator[str]:
    unconsumed = [one for one in snapshot.queues if one.ready and one.consumers == 0]
    places = {one.name: parked(one.name) for one in unconsumed}
    alone = [
        one.name for one in unconsumed if places[one.name] is None and not (one.paused or one.held)
    ]
    held = [one.name for one in snapshot.queues if one.held]
    hold = hold_of(snapshot.taken)
    if hold is not None and held:
        yield f"note: {', '.join(hold.tasks)} held in {named(held)}: {hold.mend}"
    if alone:
        yield f"nobody consumes {named(alone)}"
    for name, place in places.items():
        if place is not None and (hold is None or place.run != hold.run):
            back = f"celery-ops queue unpark {shlex.quote(name)}"
            yield f"note: messages of {place.queue} are parked: {back} gives them back"
    waits = waiting.elsewhere(snapshot)
    for queue in snapshot.queues:
        if queue.orphans:
            yield (
                f"note: {queue.name}: {queue.orphans} of the unacked lie where a dead worker"
                " left them"
            )
        yield from (
            f"note: {queue.name}: {says}" for says in elsewhere(waits[queue.name], snapshot.at)
        )
    delayed = next((one.delayed for one in waits.values()), None)
    if delayed:
        yield f"note: {counted(delayed, 'message')} in the queues for delayed delivery"
    yield from _unknown_rates(snapshot.queues)


def elsewhere(waits: Elsewhere, now: datetime) -> Iterator[str]:
    """What waits for a queue in workers, in words."""
    if waits.eta:
        due = ""
        if waits.next_eta is not None:
            left = (waits.next_eta - now).total_seconds()
            due = f", the next in {age(left)}" if left > 0 else ", the next is due now"
        yield f"{counted(waits.eta, 'task')} in workers until their ETA{due}"
    if waits.limited:
        yield f"{counted(waits.limited, 'message')} held back by a rate limit, as it seems"


def _unknown_rates(queues: Iterable[Queue]) -> Iterator[str]:
    """Each reason once, with the queues that it is true of."""
    reasons: dict[str, list[str]] = {}
    for queue in queues:
        if queue.flow.span == 0:
            yield _ONE_LOOK
            return
        if queue.flow.why and (queue.ready or queue.unacked):
            reasons.setdefault(queue.flow.why, []).append(queue.name)
    for why, names in reasons.items():
        yield f"note: rates of {named(names)}: {why}"


def named(names: Sequence[str]) -> str:
    """The first few of them."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
