"""kombu's message envelope, and the messages of remote control inside it.

Source: `kombu.pidbox.Mailbox._publish`, `kombu.transport.virtual.base.Channel` and
`celery.events.dispatcher`. What workers send is hostile input: it is decoded as JSON or not at all,
and a message that is not what it should be becomes None or says that it is unreadable. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.model import Heartbeat
from celery_ops.ports import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

HIGHEST_PRIORITY = 9
_HEARTBEAT_INTERVAL = 2.0
_KOMBU_TYPED = {"__type__", "__value__"}
_STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_OPCODES_TO_NODE = 12
"""A pickled `{node: value}` names the node within its first opcodes."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where a worker shall send its reply, and the ticket that the reply shall carry."""

    exchange: str
    routing_key: str
    ticket: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a message in `unacked` says of itself: its task, and how it had been routed."""

    task_id: str | None
    exchange: str
    routing_key: str
    task: str | None = None


def control_message(
    method: str,
    arguments: Mapping[str, object],
    *,
    destination: Sequence[str] | None,
    reply_to: ReplyTo,
    expires: float,
    clock: int,
    exchange: str,
) -> str:
    """What is published for one control command. `expires` is in seconds since the epoch."""
    if destination is not None and not destination:
        raise ValueError("an empty destination reaches every worker")
    body = {
        "method": method,
        "arguments": dict(arguments),
        "destination": destination,
        "pattern": None,
        "matcher": None,
        "ticket": reply_to.ticket,
        "reply_to": {"exchange": reply_to.exchange, "routing_key": reply_to.routing_key},
    }
    envelope = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": clock, "expires": expires},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": exchange, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": reply_to.ticket,
        },
    }
    return json.dumps(envelope)


def read_reply(raw: bytes, at: datetime) -> tuple[str, Reply] | None:
    """(ticket, reply) of what a worker pushed; None for what is not a reply.

    A body that is not JSON is not loaded. A pickled one tells its node without being loaded; of
    other types the node is not known and is empty.
    """
    envelope = _json_object(raw)
    if envelope is None:
        return None
    headers = envelope.get("headers")
    if not isinstance(headers, dict) or not isinstance(headers.get("ticket"), str):
        return None
    ticket = str(headers["ticket"])
    content_type = str(envelope.get("content-type"))
    body = _body(envelope)
    if content_type != "application/json" or body is None or headers.get("compression"):
        node = _node_of_pickle(body) if content_type == "application/x-python-serialize" else ""
        return ticket, Reply(node, at, unreadable=content_type)
    return _read_answer(ticket, body, at)


def read_heartbeat(raw: bytes) -> Heartbeat | None:
    """A `worker-online`, `-heartbeat` or `-offline` event; None for anything else."""
    envelope = _json_object(raw)
    if envelope is None or envelope.get("content-type") != "application/json":
        return None
    event = _json_object(_body(envelope) or b"")
    if event is None:
        return None
    kind, node = event.get("type"), event.get("hostname")
    if kind not in {"worker-online", "worker-heartbeat", "worker-offline"} or not _is_name(node):
        return None
    load = event.get("loadavg")
    version, freq = event.get("sw_ver"), _number(event.get("freq"))
    return Heartbeat(
        node=str(node),
        pid=_whole(event.get("pid")),
        active=_whole(event.get("active")),
        processed=_whole(event.get("processed")),
        load=_number(load[0]) if isinstance(load, list) and load else None,
        version=version if isinstance(version, str) else None,
        interval=freq if freq is not None and freq > 0 else _HEARTBEAT_INTERVAL,
        online=kind != "worker-offline",
    )


def read_held(raw: bytes) -> Held | None:
    """A value of the `unacked` hash: `[envelope, exchange, routing key]`."""
    try:
        message, exchange, routing_key = json.loads(raw)
        headers, properties = message.get("headers"), message.get("properties")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    task_id = headers.get("id") if isinstance(headers, dict) else None
    if task_id is None and isinstance(properties, dict):
        task_id = properties.get("correlation_id")
    task = headers.get("task") if isinstance(headers, dict) else None
    return Held(
        task_id=task_id if isinstance(task_id, str) else None,
        task=task if isinstance(task, str) else None,
        exchange=exchange if isinstance(exchange, str) else "",
        routing_key=routing_key if isinstance(routing_key, str) else "",
    )


def given_back(raw: bytes) -> tuple[bytes, int] | None:
    """The message of a value of the `unacked` hash as it goes back, and its priority.

    Marked as redelivered in both places where kombu marks it: that is how a worker that
    deduplicates (`worker_deduplicate_successful_tasks`) knows that it may have run already. All
    else is kept as it was: JSON is decoded without kombu's own types, and the body is one text.
    """
    try:
        message = json.loads(raw)[0]
        headers, properties = message["headers"], message["properties"]
        info = properties["delivery_info"]
        headers["redelivered"] = info["redelivered"] = True
        message["body"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    try:
        priority = max(0, min(int(properties.get("priority")), HIGHEST_PRIORITY))
    except (TypeError, ValueError):
        priority = 0
    return json.dumps(message).encode(), priority


def is_message(raw: bytes) -> bool:
    """Whether a list's element is a message of kombu's, so that the list is a queue."""
    envelope = _json_object(raw)
    return (
        envelope is not None and "body" in envelope and isinstance(envelope.get("properties"), dict)
    )


def _read_answer(ticket: str, body: bytes, at: datetime) -> tuple[str, Reply] | None:
    answer = _json_object(body)
    if answer is None or len(answer) != 1:
        return None
    node, value = next(iter(answer.items()))
    if not _is_name(node):
        return None
    if isinstance(value, dict) and value.keys() == {"error"}:
        return ticket, Reply(node, at, error=str(value["error"]))
    return ticket, Reply(node, at, value=value)


def _body(envelope: Mapping[str, object]) -> bytes | None:
    body, properties = envelope.get("body"), envelope.get("properties")
    if not isinstance(body, str):
        return None
    encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
    if encoding != "base64":
        return body.encode(errors="surrogatepass")
    try:
        return base64.b64decode(body)
    except (binascii.Error, ValueError):
        return None


def _node_of_pickle(body: bytes | None) -> str:
    """The first string of a pickle, found by reading its opcodes; nothing of it is executed."""
    try:
        for index, (opcode, argument, _) in enumerate(pickletools.genops(body or b"")):
            if opcode.name in _STRING_OPCODES:
                return str(argument) if _is_name(argument) else ""
            if index == _OPCODES_TO_NODE:
                break
    except (ValueError, UnicodeDecodeError):
        return ""
    return ""


def _json_object(raw: bytes) -> dict[str, object] | None:
    # A hook in Python doubles the time of decoding, and hardly a reply has a value of that kind.
    hook = _plain if b'"__type__"' in raw else None
    try:
        value = json.loads(raw, object_hook=hook)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _plain(value: dict[str, object]) -> object:
    """kombu writes dates, UUIDs, decimals as `{"__type__": …, "__value__": …}`: they stay text."""
    return value["__value__"] if value.keys() == _KOMBU_TYPED else value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # Compared, not converted: JSON knows integers that no float can hold, and infinity.
    return float(value) if abs(value) < 1e18 else None
