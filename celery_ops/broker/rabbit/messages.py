"""Messages of RabbitMQ as they are stored, and what keeps one from being published again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import composing, envelopes
from celery_ops.broker.rabbit import deaths
from celery_ops.broker.rabbit import raw as amqp_raw
from celery_ops.broker.rabbit.content import Content
from celery_ops.broker.rabbit.raw import Unreadable
from celery_ops.model import Body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.broker.rabbit.raw import Properties
    from celery_ops.model import StoredMessage, TaskMessage

_ALSO_TO = (b"\x02CC", b"\x03BCC")
_HAS_USER = 1 << 4
_COUNTS_OF_QUORUM_QUEUES = (b"x-delivery-count", b"x-acquired-count")
_SCALARS = frozenset("StIlLbBsui")


def stored(encoded: bytes, body: bytes, *, redelivered: bool, top_priority: int) -> StoredMessage:
    """The message with these properties. `top_priority` is the highest that its queue knows."""
    kept = len(encoded) + len(body)
    try:
        properties: Properties = amqp_raw.read_properties(encoded)
    except Unreadable:
        raw = amqp_raw.written(encoded, body)
        return envelopes.told(raw, 0, headers={}, body=None, redelivered=redelivered, kept=kept)
    headers = _headers(properties)
    compression = headers.get("compression")
    return envelopes.told(
        amqp_raw.written(encoded, body, properties),
        min(properties.get("priority", 0), top_priority),
        headers=headers,
        body=Body(
            data=body,
            content_type=_text(properties.get("content_type")),
            compression=compression if isinstance(compression, str) else None,
        ),
        correlation_id=properties.get("correlation_id"),
        timestamp=properties.get("timestamp"),
        redelivered=redelivered,
        kept=kept,
        came_from=deaths.came_from(properties),
        expiry_removed=deaths.expiry_removed(properties),
    )


def composed(task: TaskMessage) -> Content:
    """The message of a task that is sent from here; raise PreconditionFailed."""
    properties: Properties = {
        "content_type": composing.CONTENT_TYPE,
        "content_encoding": composing.CONTENT_ENCODING,
        "headers": _typed_table(composing.headers(task)),
        "delivery_mode": composing.DURABLE,
        "priority": task.priority,
        "correlation_id": task.id,
    }
    return Content(amqp_raw.write_properties(properties), composing.body(task))


def hindrance(encoded: bytes, username: str) -> str | None:
    """Why a message cannot be published again as it is, to its queue alone; None: it can."""
    flags = int.from_bytes(encoded[:2], "big")
    if not (flags & _HAS_USER or any(name in encoded for name in _ALSO_TO)):
        return None
    try:
        properties = amqp_raw.read_properties(encoded)
    except Unreadable:
        return "its properties cannot be read"
    if {"CC", "BCC"} & {entry[0] for entry in properties.get("headers", []) if _is_named(entry)}:
        return "its header CC would send it to other queues once more"
    if properties.get("user_id") not in {None, username}:
        return "it bears another user's name (user_id), and RabbitMQ takes it from that user only"
    return None


def as_published(encoded: bytes) -> bytes:
    """Properties without what quorum queues add when they deliver a message again."""
    if not any(name in encoded for name in _COUNTS_OF_QUORUM_QUEUES):
        return encoded
    try:
        properties = amqp_raw.read_properties(encoded)
    except Unreadable:
        return encoded
    added = {name.decode() for name in _COUNTS_OF_QUORUM_QUEUES}
    headers = [entry for entry in properties.get("headers", []) if entry[0] not in added]
    rest = {name: value for name, value in properties.items() if name != "headers"}
    return amqp_raw.write_properties({**rest, "headers": headers} if headers else rest)


def _typed_table(table: Mapping[str, object]) -> list[list[object]]:
    return [[name, *_typed(value)] for name, value in table.items()]


def _typed(value: object) -> list[object]:
    """With its letter, as py-amqp chooses it."""
    match value:
        case None:
            return ["V", None]
        case str():
            return ["S", value]
        case int():
            return ["I", value]
        case list():
            return ["A", [_typed(item) for item in value]]
        case dict():
            return ["F", _typed_table(value)]
        case _:
            raise TypeError(f"a header that is a {type(value).__name__}")


def _headers(properties: Properties) -> dict[str, object]:
    """Those by name that are a text, a number or a truth."""
    return {
        entry[0]: entry[2]
        for entry in properties.get("headers", [])
        if _is_named(entry) and entry[1] in _SCALARS
    }


def _is_named(entry: list[object]) -> bool:
    return isinstance(entry[0], str)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
