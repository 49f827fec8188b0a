"""The messages that wait in a queue, the one that is served next first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.reactive import var

from celery_ops.config.units import as_size
from celery_ops.model.bodies import name_of
from celery_ops.tui.columns import Column, natural
from celery_ops.tui.lines import Line, line
from celery_ops.tui.messages import CopyAsked, MessageAsked
from celery_ops.tui.picture import Kind, Picture
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text import NOTHING, UNKNOWN, Cell, Tone, age, age_of, known, moment, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.fleet.peeking import Look
    from celery_ops.model import Reading, StoredMessage
    from celery_ops.tui.seams import MessageReader

LABEL = 14


@dataclass(frozen=True, slots=True)
class Row:
    """A message, its place (1 is served next), and its arguments, shortened and masked."""

    place: int
    message: StoredMessage
    arguments: str


def _eta(message: StoredMessage, now: datetime) -> Cell:
    if message.eta is None:
        return Cell(NOTHING, Tone.DIM)
    wait = (message.eta - now).total_seconds()
    return Cell(f"in {age(wait)}" if wait > 0 else "due")


def _sent(message: StoredMessage, now: datetime) -> Cell:
    return (
        Cell(UNKNOWN, Tone.DIM) if message.sent_at is None else Cell(age_of(message.sent_at, now))
    )


def _retries(message: StoredMessage) -> Cell:
    if message.retries is None:
        return Cell(UNKNOWN, Tone.DIM)
    return Cell(number(message.retries), Tone.WARN) if message.retries else Cell("0", Tone.DIM)


COLUMNS: tuple[Column[Row], ...] = (
    Column("#", lambda one, _: Cell(number(one.place), Tone.DIM), lambda one: one.place,
           6, right=True, counts=True),
    Column("task", lambda one, _: known(one.message.task),
           lambda one: natural(one.message.task or ""), 18, grow=3),
    Column("id", lambda one, _: known(one.message.id), lambda one: one.message.id,
           10, grow=1, drop=2),
    Column("retries", lambda one, _: _retries(one.message), lambda one: one.message.retries,
           7, right=True, counts=True),
    Column("eta", lambda one, now: _eta(one.message, now), lambda one: one.message.eta,
           8, right=True),
    Column("arguments", lambda one, _: Cell(one.arguments),
           lambda one: one.arguments, 18, grow=4),
    Column("priority", lambda one, _: Cell(str(one.message.priority)),
           lambda one: one.message.priority, 8, drop=3, right=True, counts=True),
    Column("size", lambda one, _: Cell(as_size(one.message.size)),
           lambda one: one.message.size, 6, drop=4, right=True, counts=True),
    Column("sent", lambda one, now: _sent(one.message, now), lambda one: one.message.sent_at,
           5, drop=5, right=True),
    Column("origin", lambda one, _: known(one.message.origin),
           lambda one: one.message.origin, 16, grow=1, drop=6),
)  # fmt: skip


class MessagesView(TableView[Row]):
    """What was seen at the last look. It grows old: `look` says when that was."""

    noun = "message"
    kind = Kind.QUEUE

    look: var[Reading[Look] | None] = var(None)
    error: var[str | None] = var(None)

    def __init__(self, picture: Picture, reader: MessageReader) -> None:
        super().__init__(picture, COLUMNS, id="messages")
        self._reader = reader
        self._rows: tuple[Row, ...] = ()

    def watch_picture(self, before: Picture, now: Picture) -> None:
        super().watch_picture(before, now)
        if self.is_mounted:
            self._said = self.counted(self._rows)
            self._draw_title()

    def watch_look(self, look: Reading[Look] | None) -> None:
        self._rows = tuple(
            Row(one.place, one.message, self._reader.arguments(one.message))
            for one in (look.value.wanted if look is not None else ())
        )
        self.refresh_rows()

    def watch_error(self) -> None:
        self.refresh_rows()

    def action_describe(self) -> None:
        if (row := self.table.row) is not None:
            title = f"message {row.message.id or UNKNOWN}"
            self.post_message(MessageAsked(title, self.lines(row)))

    def action_raw(self) -> None:
        self.action_describe()

    def action_copy(self) -> None:
        if (row := self.table.row) is not None:
            self.post_message(CopyAsked(row.message.id or ""))

    def source(self, picture: Picture) -> object:
        """A new snapshot tells nothing of the messages."""
        del picture
        return self.look

    def rows(self, picture: Picture) -> Sequence[Row]:
        del picture
        return self._rows

    def key(self, row: Row) -> str:
        return row.message.id or f"#{row.place}"

    def is_wrong(self, row: Row, troubled: frozenset[str]) -> bool:
        del troubled
        return bool(row.message.retries) or bool(row.message.redelivered)

    def nothing(self, picture: Picture) -> str:
        del picture
        if self.error is not None:
            return self.error
        return "looking…" if self.look is None else "no message waits in it"

    def counted(self, rows: Sequence[Row]) -> str:
        """Which part of the queue is shown, and when it was looked at."""
        if self.look is None:
            return "messages"
        ready, since = self.look.value.ready, age(self.look.age(self.picture.now))
        part = f"the next {len(rows):,} of {ready:,} messages" if rows else "no messages"
        said = f"{part}, looked at {since} ago"
        return f"{said}: {self.error}" if self.error is not None and rows else said

    def lines(self, row: Row) -> list[Line]:
        """All that a message says of itself; its arguments shortened and masked."""
        message, now = row.message, self.picture.now
        body = message.body
        kind = "none" if body is None else name_of(body.content_type) or UNKNOWN
        if body is not None and body.compression:
            kind += f", {name_of(body.compression)}"
        told = {
            "task": message.task or UNKNOWN,
            "id": message.id or UNKNOWN,
            "place": f"{row.place:,} (1 is served next)",
            "arguments": row.arguments or "none",
            "retries": number(message.retries),
            "eta": NOTHING if message.eta is None else moment(message.eta, now),
            "expires": NOTHING if message.expires is None else moment(message.expires, now),
            "priority": str(message.priority),
            "redelivered": {True: "yes", False: "no", None: UNKNOWN}[message.redelivered],
            "origin": message.origin or UNKNOWN,
            "sent": UNKNOWN if message.sent_at is None else moment(message.sent_at, now),
            "size": as_size(message.size),
            "body": kind,
        }
        return [line((f"  {label}", Tone.DIM), text, indent=LABEL) for label, text in told.items()]
