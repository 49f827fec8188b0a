"""What waits in a queue as plain text: how much of it was looked at, then the messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.cli.text import Column, cut, table
from celery_ops.config.secret import masked
from celery_ops.config.units import as_share, as_size
from celery_ops.fleet.contents import contents
from celery_ops.fleet.peeking import by_task as grouped
from celery_ops.model.bodies import name_of
from celery_ops.tui.text import UNKNOWN, age_of, counted, moment, number, safe

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from celery_ops.fleet.masking import Masks
    from celery_ops.fleet.peeking import Look, TaskGroup
    from celery_ops.model import StoredMessage


@dataclass(frozen=True, slots=True)
class Peeked:
    """A look into a queue, and where and when it was taken. `note`: what else is to be said."""

    context: str
    broker: str
    at: datetime
    queue: str
    look: Look
    masks: Masks
    filter: str | None
    not_known: tuple[str, ...] = ()
    """Names of the filter that nothing was known of, in any message."""
    note: str = ""


def peeked(found: Peeked, *, by_task: bool, width: int) -> list[str]:
    """Head, what was looked at, the messages or their tasks."""
    head = f"{found.context}  {masked(found.broker)}  {found.at:%Y-%m-%d %H:%M:%S} UTC"
    lines = [safe(head), *(safe(line) for line in [*_said(found), *_marks(found)])]
    if not found.look.wanted:
        return lines
    rows = _tasks(found.look, width) if by_task else _messages(found, width)
    return [*lines, "", *rows]


def _said(found: Peeked) -> list[str]:
    """Which part of the queue this is; and of a filter, how much it was asked of."""
    look = found.look
    if not look.ready:
        return [f"{found.queue} is empty: no message waits in it.", *filter(None, [found.note])]
    waiting = counted(look.ready, "message")
    if not look.looked_at:
        return [f"{found.queue}: {waiting}, and --skip passes all of them."]
    part = f"the next {look.looked_at:,} of {waiting}"
    if look.looked_at == look.ready:
        part = f"all of its {waiting}" if look.ready > 1 else "its only message"
    if look.skipped:
        part = f"after the first {look.skipped:,}, {part}"
    if found.filter is None:
        return [f"{found.queue}: {part}."]
    matched = {0: "none matches", 1: "1 matches"}.get(
        len(look.wanted), f"{len(look.wanted):,} match"
    )
    lines = [f"{found.queue}: {part} looked at: {matched}."]
    if look.unknown:
        names = f"{' and '.join(found.not_known)} {'is' if len(found.not_known) == 1 else 'are'}"
        lines.append(f"{look.unknown:,} more cannot be judged: {names} not known of them.")
    if look.left:
        on = look.skipped + look.looked_at
        lines.append(f"{look.left:,} were not looked at; --skip {on} goes on there.")
    return lines


def _marks(found: Peeked) -> list[str]:
    """What the look itself has done to them."""
    marked = found.look.marked
    if not marked:
        return []
    if marked == 1:
        return ["It was taken out and given back to its place: RabbitMQ marks it as redelivered."]
    return [
        f"{marked:,} messages were taken out and given back to their places: RabbitMQ marks them as"
        " redelivered."
    ]


# --- messages -----------------------------------------------------------------------------------


_WIDE = 120
_ID_CELLS = 36
"""Of a UUID. It is whole where a line has room for it: then it can be copied."""
_SHORT_ID_CELLS = 9


@dataclass(frozen=True, slots=True)
class _Field:
    """A column, and what a message has there: left out if that is empty for all of them."""

    column: Column
    of: Callable[[StoredMessage], str]


def _messages(found: Peeked, width: int) -> list[str]:
    placed = found.look.wanted
    written = [
        (field.column, [field.of(one.message) for one in placed])
        for field in _fields(found, _ID_CELLS if width >= _WIDE else _SHORT_ID_CELLS)
    ]
    told = [(column, cells) for column, cells in written if any(cells)]
    columns = (Column("#", right=True), *(column for column, _ in told))
    places = [f"{one.place:,}" for one in placed]
    return table(columns, list(zip(places, *(cells for _, cells in told), strict=True)), width)


def _fields(found: Peeked, id_cells: int) -> tuple[_Field, ...]:
    at = found.at
    return (
        _Field(Column("task", gives=True), lambda one: one.task or UNKNOWN),
        _Field(Column("id", gives=True), lambda one: cut(one.id or UNKNOWN, id_cells)),
        _Field(Column("retries", right=True), _retries),
        _Field(Column("eta"), lambda one: "" if one.eta is None else moment(one.eta, at)),
        _Field(Column("expires"), lambda one: _expires(one, at)),
        _Field(Column("arguments", gives=True), lambda one: str(contents(one, found.masks))),
        _Field(Column("body", optional=True), _body),
        _Field(Column("prio", right=True, optional=True), lambda one: _unless_zero(one.priority)),
        _Field(Column("redelivered", optional=True), lambda one: "yes" if one.redelivered else ""),
        _Field(
            Column("age", right=True, optional=True),
            lambda one: "" if one.sent_at is None else age_of(one.sent_at, at),
        ),
        _Field(Column("size", right=True, optional=True), lambda one: as_size(one.size)),
        _Field(Column("origin", gives=True, optional=True), lambda one: one.origin or ""),
    )


def _body(message: StoredMessage) -> str:
    """What is sent in another way than as plain JSON."""
    if message.body is None:
        return "none"
    name = name_of(message.body.content_type)
    if message.body.compression:
        return f"{name}, {name_of(message.body.compression)}"
    return "" if name == "json" else name or UNKNOWN


def _retries(message: StoredMessage) -> str:
    return UNKNOWN if message.retries is None else _unless_zero(message.retries)


def _expires(message: StoredMessage, now: datetime) -> str:
    if message.expires is None:
        return ""
    return "expired" if message.expires <= now else moment(message.expires, now)


def _unless_zero(value: int) -> str:
    return number(value) if value else ""


# --- tasks --------------------------------------------------------------------------------------

_TASKS = (
    Column("task", gives=True),
    Column("messages", right=True),
    Column("share", right=True),
    Column("retries", right=True),
    Column("eta", right=True),
    Column("size", right=True),
)


def _tasks(look: Look, width: int) -> list[str]:
    total = len(look.wanted)
    return table(_TASKS, [_task_row(group, total) for group in grouped(look)], width)


def _task_row(group: TaskGroup, total: int) -> tuple[str, ...]:
    return (
        UNKNOWN if group.task is None else group.task,
        number(group.count),
        as_share(group.count / total),
        number(group.retried),
        number(group.eta),
        as_size(group.size),
    )
