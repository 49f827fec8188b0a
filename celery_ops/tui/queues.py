"""The queues: what waits, what is held, and who consumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.tui.columns import Column, natural
from celery_ops.tui.picture import Kind, Picture
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import FRESH, NOTHING, UNKNOWN, Cell, Tone, age, aged, known, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import Queue


def consumers_cell(queue: Queue) -> Cell:
    """The number of consumers; none at all is bad while messages wait, unless it is paused."""
    if queue.consumers is None:
        return Cell(UNKNOWN, Tone.DIM)
    if queue.consumers:
        return Cell(number(queue.consumers))
    if queue.paused:
        return Cell("paused", Tone.WARN)
    return Cell("none", Tone.BAD if queue.ready else Tone.WARN)


def _size(value: int | None, queue: Queue, now: datetime) -> Cell:
    if value is None:
        return Cell(UNKNOWN, Tone.DIM)
    if queue.seen_at is None:
        return Cell(number(value))
    return aged(number(value), (now - queue.seen_at).total_seconds())


def _age(queue: Queue, now: datetime) -> Cell:
    if queue.seen_at is None:
        return Cell(UNKNOWN, Tone.DIM)
    seconds = (now - queue.seen_at).total_seconds()
    return Cell(age(seconds), Tone.DIM if seconds <= FRESH else Tone.WARN)


def _oldest(queue: Queue, now: datetime) -> Cell:
    if queue.oldest is None:
        return Cell(NOTHING if queue.ready == 0 else UNKNOWN, Tone.DIM)
    return Cell(age((now - queue.oldest).total_seconds()))


def _steps(queue: Queue, _now: datetime) -> Cell:
    text = "  ".join(f"{step}:{number(ready)}" for step, ready in queue.by_priority if ready)
    return known(text) if text else Cell(NOTHING, Tone.DIM)


def _note(queue: Queue, _now: datetime) -> Cell:
    if queue.orphans:
        return Cell(f"{number(queue.orphans)} of dead workers", Tone.BAD)
    if queue.paused:
        again = ", and consumed again" if queue.consumers else ""
        return Cell(f"paused by a run{again}", Tone.WARN)
    if queue.consumers == 0:
        return Cell("nobody consumes it", Tone.BAD if queue.ready else Tone.WARN)
    return Cell("")


def _moment(at: datetime | None) -> float | None:
    """Sorts by age: what is older comes later."""
    return None if at is None else -at.timestamp()


COLUMNS: tuple[Column[Queue], ...] = (
    Column("queue", lambda one, _: Cell(one.name), lambda one: natural(one.name), 18, grow=4),
    Column("ready", lambda one, now: _size(one.ready, one, now), lambda one: one.ready,
           10, right=True, counts=True),
    Column("unacked", lambda one, now: _size(one.unacked, one, now), lambda one: one.unacked,
           10, right=True, counts=True),
    Column("consumers", lambda one, _: consumers_cell(one), lambda one: one.consumers,
           9, right=True, counts=True),
    Column("oldest", _oldest, lambda one: _moment(one.oldest),
           6, drop=3, right=True),
    Column("age", _age, lambda one: _moment(one.seen_at), 4, right=True),
    Column("priorities", _steps, lambda one: len(one.by_priority) or None, 16, grow=2, drop=4),
    Column("note", _note, lambda one: one.consumers, 18, grow=2, drop=2),
)  # fmt: skip


class QueuesView(TableView["Queue"]):
    """Every queue that was found."""

    noun = "queue"
    kind = Kind.QUEUE

    def __init__(self, picture: Picture) -> None:
        super().__init__(picture, COLUMNS, id="queues")

    def rows(self, picture: Picture) -> Sequence[Queue]:
        return picture.shown.queues if picture.shown else ()

    def key(self, row: Queue) -> str:
        return row.name

    def is_wrong(self, row: Queue, troubled: frozenset[str]) -> bool:
        return not row.consumers or bool(row.orphans) or row.ready is None or row.name in troubled

    def nothing(self, picture: Picture) -> str:
        return "no queue was found" if picture.shown else "no snapshot yet"
