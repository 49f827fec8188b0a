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
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.model import Heartbeat, StoredCall, StoredResult, TaskNews, TaskState
from celery_ops.ports import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


HIGHEST_PRIORITY = 9
_HEARTBEAT_INTERVAL = 2.0
_KOMBU_TYPED = {"__type__", "__value__"}
_TYPED = b'"__type__"'
_STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_OPCODES_TO_NODE = 12
"""A pickled `{node: value}` names the node within its first opcodes."""
_MOST_OF_AN_ERROR = 500
"""Characters."""
_MOST_OF_A_WORD = 500
_MOST_OF_A_TRACEBACK = 4_000
"""Its end is kept, which tells where it happened."""
_STATES = {
    "task-received": TaskState.RECEIVED,
    "task-started": TaskState.STARTED,
    "task-retried": TaskState.RETRY,
    "task-succeeded": TaskState.SUCCESS,
    "task-failed": TaskState.FAILURE,
    "task-revoked": TaskState.REVOKED,
    "task-rejected": TaskState.REJECTED,
}
_STORED = {state.value: state for state in TaskState}


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
    body = control_body(method, arguments, destination=destination, reply_to=reply_to)
    envelope = {
        "body": base64.b64encode(body).decode(),
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


def control_body(
    method: str,
    arguments: Mapping[str, object],
    *,
    destination: Sequence[str] | None,
    reply_to: ReplyTo,
) -> bytes:
    """The command itself, as it is inside of a message."""
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
    return json.dumps(body).encode()


def read_reply(raw: bytes, at: datetime) -> tuple[str, Reply] | None:
    """(ticket, reply) of what a worker pushed; None for what is not a reply."""
    envelope = _json_object(raw)
    headers = None if envelope is None else envelope.get("headers")
    if envelope is None or not isinstance(headers, dict):
        return None
    return reply_of(headers, str(envelope.get("content-type")), _body(envelope), at)


def reply_of(
    headers: Mapping[str, object], content_type: str, body: bytes | None, at: datetime
) -> tuple[str, Reply] | None:
    """(ticket, reply) of a message; None for what is not a reply.

    A body that is not JSON is not loaded. A pickled one tells its node without being loaded; of
    other types the node is not known and is empty.
    """
    ticket = headers.get("ticket")
    if not isinstance(ticket, str):
        return None
    if content_type != "application/json" or body is None or headers.get("compression"):
        node = _node_of_pickle(body) if content_type == "application/x-python-serialize" else ""
        return ticket, Reply(node, at, unreadable=content_type)
    return _read_answer(ticket, body, at)


def read_heartbeat(raw: bytes) -> Heartbeat | None:
    """A `worker-online`, `-heartbeat` or `-offline` event; None for anything else."""
    envelope = _json_object(raw)
    if envelope is None:
        return None
    return heartbeat_of(str(envelope.get("content-type")), _body(envelope) or b"")


def heartbeat_of(content_type: str, body: bytes) -> Heartbeat | None:
    """The same of a message's body."""
    event = _json_object(body) if content_type == "application/json" else None
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


def read_task_events(raw: bytes, task: str | None) -> tuple[TaskNews, ...]:
    """What a message of events tells of the task with that id, or of every task (None)."""
    envelope = _json_object(raw)
    if envelope is None:
        return ()
    return task_news_of(str(envelope.get("content-type")), _body(envelope) or b"", task)


def task_news_of(content_type: str, body: bytes, task: str | None) -> tuple[TaskNews, ...]:
    """The same of a message's body; of thousands, hardly any is about one task."""
    if content_type != "application/json" or (task is not None and task.encode() not in body):
        return ()
    try:
        events = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    read = (_task_news(one, task) for one in (events if isinstance(events, list) else [events]))
    return tuple(news for news in read if news is not None)


def read_result(raw: bytes) -> TaskNews | None:
    """What a result backend keeps of a task (`celery.backends.base.Backend._get_result_meta`).

    None for what is not read here, as a pickled one.
    """
    meta = _json_object(raw)
    state = None if meta is None else _STORED.get(str(meta.get("status")))
    if meta is None or state is None:
        return None
    worker = meta.get("worker")
    return TaskNews(
        state,
        worker if isinstance(worker, str) and worker else None,
        error="" if state is TaskState.SUCCESS else _exception(meta.get("result")),
    )


def read_stored_result(raw: bytes) -> StoredResult:
    """The same with all that may be in it; of one that is not JSON only that it is there."""
    meta = _json_object(raw)
    state = None if meta is None else meta.get("status")
    if meta is None or not isinstance(state, str):
        return StoredResult("", unreadable="it is no JSON: results in other formats are not loaded")
    traceback, result = meta.get("traceback"), meta.get("result")
    ended_at = _moment(meta.get("date_done"))
    call = _call(json.loads(raw) if _TYPED in raw else meta)
    return StoredResult(
        state[:_MOST_OF_A_WORD],
        task=_word(meta.get("name")),
        worker=_word(meta.get("worker")),
        queue=_word(meta.get("queue")),
        retries=_whole(meta.get("retries")),
        ended_at=ended_at,
        error="" if state == TaskState.SUCCESS else _exception(meta.get("result")),
        traceback=traceback[-_MOST_OF_A_TRACEBACK:] if isinstance(traceback, str) else "",
        exception=_word(result.get("exc_type")) if isinstance(result, dict) else None,
        ended="" if ended_at is None else str(meta.get("date_done")),
        group=_word(meta.get("group_id")),
        call=call if isinstance(call, StoredCall) else None,
        uncalled="" if isinstance(call, StoredCall) else call,
    )


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


def _task_news(event: object, task: str | None) -> TaskNews | None:
    if not isinstance(event, dict) or (task is not None and event.get("uuid") != task):
        return None
    state, worker = _STATES.get(str(event.get("type"))), event.get("hostname")
    if state is None:
        return None
    error = "expired" if event.get("expired") is True else event.get("exception")
    id_ = event.get("uuid")
    return TaskNews(
        state,
        worker if isinstance(worker, str) and worker else None,
        _number(event.get("runtime")),
        error[:_MOST_OF_AN_ERROR] if isinstance(error, str) else "",
        id_ if isinstance(id_, str) else "",
    )


def _call(meta: Mapping[str, object]) -> StoredCall | str:
    """What a task was called with, or why that is not known.

    Source: `celery.backends.base.Backend._get_result_meta`. Its `meta` is decoded without a hook:
    kombu's own types go back as they are. Backends of other makes keep arguments as text for
    people, shortened: these are of no use.
    """
    name, args, kwargs = meta.get("name"), meta.get("args"), meta.get("kwargs")
    if not isinstance(name, str) or not name:
        return "its name and its arguments are not stored"
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return "its arguments are not stored as they were sent"
    routing_key = meta.get("queue")
    return StoredCall(name, args, kwargs, routing_key if isinstance(routing_key, str) else None)


def _exception(result: object) -> str:
    """`ValueError: no such user`, of an exception as the JSON serialiser stores it."""
    if not isinstance(result, dict):
        return ""
    kind, said = result.get("exc_type"), result.get("exc_message")
    words = [str(one) for one in said] if isinstance(said, list) else [str(said)] if said else []
    parts = [str(kind)] if kind else []
    return ": ".join([*parts, *filter(None, [" ".join(words)])])[:_MOST_OF_AN_ERROR]


def _word(value: object) -> str | None:
    return value[:_MOST_OF_A_WORD] if isinstance(value, str) and value else None


def _moment(value: object) -> datetime | None:
    """ISO 8601, in UTC where it names no zone."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)


def _json_object(raw: bytes) -> dict[str, object] | None:
    # A hook in Python doubles the time of decoding, and hardly a reply has a value of that kind.
    hook = _plain if _TYPED in raw else None
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
