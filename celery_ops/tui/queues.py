"""The queues: what waits, what is held, how that changes, who consumes, and the keys to act."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from celery_ops.model import parked
from celery_ops.tui import rates
from celery_ops.tui.columns import Column, natural
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.depths import sparkline
from celery_ops.tui.messages import ChangeAsked, QueueAsked
from celery_ops.tui.picture import Kind, Picture
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import FRESH, NOTHING, UNKNOWN, Cell, Tone, age, known, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from textual.binding import BindingType

    from celery_ops.model import Queue

HISTORY = 30
"""Points of a queue's history that the table shows where there is room."""


def consumers_cell(queue: Queue) -> Cell:
    """The number of consumers; none at all is bad while messages wait, unless that is meant."""
    if queue.consumers is None:
        return Cell(UNKNOWN, Tone.DIM)
    if queue.consumers:
        return Cell(number(queue.consumers))
    if parked(queue.name) is not None:
        return Cell("parked", Tone.DIM)
    if queue.paused or queue.held:
        return Cell("paused" if queue.paused else "held", Tone.WARN)
    return Cell("none", Tone.BAD if queue.ready else Tone.WARN)


def _size(value: int | None, queue: Queue, now: datetime) -> Cell:
    """How old it is stands beside it, in a column of its own."""
    if value is None:
        return Cell(UNKNOWN, Tone.DIM)
    is_old = queue.seen_at is not None and (now - queue.seen_at).total_seconds() > FRESH
    return Cell(number(value), Tone.DIM if is_old else Tone.PLAIN)


def _age(queue: Queue, now: datetime) -> Cell:
    if queue.seen_at is None:
        return Cell(UNKNOWN, Tone.DIM)
    seconds = (now - queue.seen_at).total_seconds()
    return Cell(age(seconds), Tone.DIM if seconds <= FRESH else Tone.WARN)


def _steps(queue: Queue, _now: datetime) -> Cell:
    text = "  ".join(f"{step}:{number(ready)}" for step, ready in queue.by_priority if ready)
    return known(text) if text else Cell(NOTHING, Tone.DIM)


def _note(queue: Queue, _now: datetime) -> Cell:
    if queue.orphans:
        return Cell(f"{number(queue.orphans)} of dead workers", Tone.BAD)
    place = parked(queue.name)
    if place is not None:
        return Cell(f"parked from {place.queue}", Tone.DIM)
    if queue.held:
        return Cell(f"{', '.join(queue.held)} held, all others go through a run", Tone.WARN)
    if queue.paused:
        again = ", and consumed again" if queue.consumers else ""
        return Cell(f"paused by a run{again}", Tone.WARN)
    if queue.consumers == 0:
        return Cell("nobody consumes it", Tone.BAD if queue.ready else Tone.WARN)
    return Cell("")


def _rate(text: str) -> Cell:
    return Cell(text, Tone.DIM if text in {UNKNOWN, "0"} else Tone.PLAIN)


def _moment(at: datetime | None) -> float | None:
    """Sorts by age: what is older comes later."""
    return None if at is None else -at.timestamp()


def columns(history: Callable[[Queue], Cell]) -> tuple[Column[Queue], ...]:
    """The columns; `history` draws how the depth of a queue went."""
    return (
        Column("queue", lambda one, _: Cell(one.name), lambda one: natural(one.name), 14, grow=4),
        Column("ready", lambda one, now: _size(one.ready, one, now), lambda one: one.ready,
               7, right=True, counts=True),
        Column("unacked", lambda one, now: _size(one.unacked, one, now), lambda one: one.unacked,
               7, right=True, counts=True),
        Column("consumers", lambda one, _: consumers_cell(one), lambda one: one.consumers,
               9, right=True, counts=True),
        Column("depth", lambda one, _: history(one), lambda one: one.ready,
               8, grow=2, right=True, history=HISTORY),
        Column("in", lambda one, _: _rate(rates.arrivals(one)), lambda one: one.flow.arrivals,
               7, drop=1, right=True, counts=True),
        Column("out", lambda one, _: _rate(rates.completions(one)),
               lambda one: one.flow.completions, 7, right=True, counts=True),
        Column("drains", lambda one, _: rates.drain(one), lambda one: one.drains_in,
               6, right=True, counts=True),
        Column("oldest", rates.oldest, lambda one: _moment(one.oldest or one.waits_since),
               6, drop=3, right=True),
        Column("age", _age, lambda one: _moment(one.seen_at), 4, right=True),
        Column("size", lambda one, _: rates.size(one), lambda one: one.bytes,
               6, drop=4, right=True, counts=True),
        Column("priorities", _steps, lambda one: len(one.by_priority) or None,
               16, grow=2, drop=5),
        Column("note", _note, lambda one: one.consumers, 18, grow=2, drop=2),
    )  # fmt: skip


def may_change(runbook: object, picture: Picture) -> bool:
    """Whether a key for that runbook is offered: it has to be there, and to take a queue."""
    params = picture.runbooks.get(str(runbook), ())
    return not picture.read_only and any(one.name == "queue" for one in params)


def change_of(runbook: str, queue: Queue) -> ChangeAsked:
    """The wish to see what a runbook would do with a queue."""
    return ChangeAsked(runbook, {"queue": queue.name}, (queue.name,), "queue")


class QueuesView(TableView["Queue"]):
    """Every queue that was found. Upper-case keys open the plan of a change of one of them."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.QUEUES)]

    noun = "queue"
    kind = Kind.QUEUE

    def __init__(self, picture: Picture) -> None:
        super().__init__(picture, columns(self.history), id="queues")

    def watch_picture(self, before: Picture, now: Picture) -> None:
        super().watch_picture(before, now)
        if before.runbooks is not now.runbooks:
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "change":
            return may_change(parameters[0], self.picture)
        return super().check_action(action, parameters)

    def action_open(self) -> None:
        if (row := self.table.row) is not None:
            self.post_message(QueueAsked(row.name))

    def action_change(self, runbook: str) -> None:
        """Ask for the plan of a runbook, which takes one queue."""
        chosen = self.chosen
        if len(chosen) > 1:
            says = f"{len(chosen)} queues are marked, and this is done to one at a time."
            self.notify(says, severity="error", markup=False)
        elif chosen:
            self.post_message(change_of(runbook, chosen[0]))

    def history(self, row: Queue) -> Cell:
        """How its depth went, up to the snapshot that is shown."""
        shown = self.picture.shown
        if shown is None:
            return Cell("")
        return Cell(sparkline(self.picture.depths.of(row.name, shown.at, HISTORY)), Tone.NOTE)

    def rows(self, picture: Picture) -> Sequence[Queue]:
        return picture.shown.queues if picture.shown else ()

    def key(self, row: Queue) -> str:
        return row.name

    def is_wrong(self, row: Queue, troubled: frozenset[str]) -> bool:
        return not row.consumers or bool(row.orphans) or row.ready is None or row.name in troubled

    def nothing(self, picture: Picture) -> str:
        return "no queue was found" if picture.shown else "no snapshot yet"
