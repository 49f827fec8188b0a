"""kombu's envelope of a task's message, as the virtual transports write it: what it says of itself.

Protocol 2 says it in headers, protocol 1 in the body (`celery.app.amqp.AMQP.as_task_v1`, `_v2`).
Anybody may have pushed anything: what is not of its type is not known. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.model import Address, Body, StoredMessage
from celery_ops.model.bodies import Closed, opened

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 2**63 - 1
_LATEST = 253_402_300_799.0
"""The last second of the year 9999, which is as far as dates go."""
_NOTHING: Mapping[str, object] = {}


def stored(raw: bytes, priority: int) -> StoredMessage:
    """The message of that envelope. What is no envelope is a message that says nothing."""
    envelope = _object(raw)
    properties = _mapping(envelope.get("properties"))
    headers = _mapping(envelope.get("headers"))
    return told(
        raw,
        priority,
        headers=headers,
        body=_body(envelope, properties, headers),
        correlation_id=properties.get("correlation_id"),
        timestamp=properties.get("timestamp"),
        redelivered=_redelivered(properties, headers) if envelope else None,
        came_from=_address(properties),
    )


def told(
    raw: bytes,
    priority: int,
    *,
    headers: Mapping[str, object],
    body: Body | None,
    redelivered: bool | None,
    correlation_id: object = None,
    timestamp: object = None,
    kept: int | None = None,
    came_from: Address | None = None,
    expiry_removed: bool = False,
) -> StoredMessage:
    """A message with what its headers say, however its broker keeps them."""
    # As Celery tells them apart (`celery.worker.consumer.Consumer.create_task_handler`).
    says = headers if "task" in headers else _protocol_1(body)
    id_ = _text(says.get("id"))
    return StoredMessage(
        raw=raw,
        priority=priority,
        id=_text(correlation_id) if id_ is None else id_,
        task=_text(says.get("task")),
        retries=_count(says.get("retries")),
        eta=_moment(says.get("eta")),
        expires=_moment(says.get("expires")),
        origin=_text(headers.get("origin")),
        by_beat=headers.get("celery_beat_task") is True or "periodic_task_name" in headers,
        redelivered=redelivered,
        sent_at=_stamp(timestamp),
        args=_text(headers.get("argsrepr")),
        kwargs=_text(headers.get("kwargsrepr")),
        body=body,
        came_from=came_from,
        expiry_removed=expiry_removed,
        kept=kept,
    )


def _body(
    envelope: Mapping[str, object], properties: Mapping[str, object], headers: Mapping[str, object]
) -> Body | None:
    text = envelope.get("body")
    if not isinstance(text, str):
        return None
    data = text.encode(errors="surrogatepass")
    if properties.get("body_encoding") == "base64":
        try:
            data = base64.b64decode(data)
        except (binascii.Error, ValueError):
            return None
    return Body(
        data=data,
        content_type=_text(envelope.get("content-type")) or "",
        compression=_text(headers.get("compression")),
    )


def _protocol_1(body: Body | None) -> Mapping[str, object]:
    if body is None:
        return _NOTHING
    try:
        return _mapping(opened(body))
    except Closed:
        return _NOTHING


def _redelivered(properties: Mapping[str, object], headers: Mapping[str, object]) -> bool:
    """kombu marks what it gives back in both places, and nothing else."""
    info = _mapping(properties.get("delivery_info"))
    return headers.get("redelivered") is True or info.get("redelivered") is True


def _address(properties: Mapping[str, object]) -> Address | None:
    """Who moves a message as it is leaves it there where it belongs (FACTS 5)."""
    info = _mapping(properties.get("delivery_info"))
    exchange, key = _text(info.get("exchange")), _text(info.get("routing_key"))
    # Of an exchange of the name of a queue the key may be empty: it is a fanout.
    return Address(exchange or "", key) if key else None


def _object(raw: bytes) -> Mapping[str, object]:
    try:
        return _mapping(json.loads(raw))
    except (ValueError, RecursionError):
        return _NOTHING


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else _NOTHING


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and isinstance(value, int) and 0 <= value <= _LARGEST else None


def _moment(value: object) -> datetime | None:
    """Of an ISO 8601 text; one without a zone is UTC, as Celery reads it."""
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _stamp(value: object) -> datetime | None:
    """Of seconds since the epoch."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return datetime.fromtimestamp(value, UTC) if 0 <= value <= _LATEST else None
