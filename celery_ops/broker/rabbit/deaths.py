"""What RabbitMQ notes in a message when it dies (`x-death` and the headers beside it). Pure.

Source: RabbitMQ's guide to dead letter exchanges. What has the form of a note and was written by
somebody else counts as one: it cannot be told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker.rabbit import raw as amqp_raw
from celery_ops.broker.rabbit.raw import Unreadable
from celery_ops.model import Address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.broker.rabbit.raw import Properties

_NOTES = "x-death"
_ALSO = ("x-first-death-", "x-last-death-")
_BY_A_CONSUMER = frozenset({"rejected", "delivery_limit"})
"""Reasons of deaths in the hands of a consumer; of the others nobody was concerned with it."""


def came_from(properties: Properties) -> Address | None:
    """The queue in which it died; None if it has not, or that is not told.

    Of several deaths, newest first, the last in the hands of a consumer: what it expired in since
    was on its way. Where none was, the first of all.
    """
    deaths = _deaths(properties)
    by_consumers = [one for one in deaths if one.get("reason") in _BY_A_CONSUMER]
    died = by_consumers[0] if by_consumers else deaths[-1] if deaths else None
    queue = None if died is None else died.get("queue")
    return Address("", queue) if isinstance(queue, str) and queue else None


def expiry_removed(properties: Properties) -> bool:
    """Whether it had an `expiration` of its own, which RabbitMQ takes away when it dies of it."""
    return any("original-expiration" in one for one in _deaths(properties))


def revived(raw: bytes) -> bytes:
    """A message, as `amqp_raw` writes it, without the notes of its deaths."""
    if _NOTES.encode() not in raw and not any(name.encode() in raw for name in _ALSO):
        return raw
    try:
        encoded, body = amqp_raw.read(raw)
        properties = amqp_raw.read_properties(encoded)
    except Unreadable:
        return raw
    headers = [entry for entry in properties.get("headers", []) if not _is_note(entry[0])]
    rest = {name: value for name, value in properties.items() if name != "headers"}
    kept = {**rest, "headers": headers} if headers else rest
    return amqp_raw.written(amqp_raw.write_properties(kept), body)


def _is_note(name: object) -> bool:
    return isinstance(name, str) and (name == _NOTES or name.startswith(_ALSO))


def _deaths(properties: Properties) -> list[dict[str, object]]:
    """The newest first."""
    for entry in properties.get("headers", []):
        match entry:
            case ["x-death", "A", list() as notes]:
                return [_fields(note[1]) for note in notes if note[0] == "F"]
    return []


def _fields(table: Sequence[Sequence[object]]) -> dict[str, object]:
    found: Mapping[object, object] = {entry[0]: entry[2] for entry in table
                                      if isinstance(entry[0], str)}  # fmt: skip
    return {str(name): value for name, value in found.items()}
