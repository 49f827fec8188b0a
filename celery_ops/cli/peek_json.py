"""What waits in a queue as JSON: the shape that `queue peek --help` promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli.fleet_json import moment
from celery_ops.config.secret import masked
from celery_ops.fleet.contents import contents
from celery_ops.fleet.peeking import by_task as grouped

if TYPE_CHECKING:
    from celery_ops.cli.fleet_json import Json
    from celery_ops.cli.peek_text import Peeked
    from celery_ops.fleet.peeking import Placed, TaskGroup


def peeked(found: Peeked, *, by_task: bool) -> Json:
    """The document of a look into a queue."""
    look = found.look
    document: Json = {
        "context": found.context,
        "broker": masked(found.broker),
        "at": moment(found.at),
        "queue": found.queue,
        "ready": look.ready,
        "skipped": look.skipped,
        "looked_at": look.looked_at,
        "filter": found.filter,
        "unknown": look.unknown,
        "marked": look.marked,
    }
    if by_task:
        return document | {"tasks": [_task(group) for group in grouped(look)]}
    return document | {"messages": [_message(placed, found) for placed in look.wanted]}


def _message(placed: Placed, found: Peeked) -> Json:
    message = placed.message
    inside = contents(message, found.masks)
    return {
        "place": placed.place,
        "id": message.id,
        "task": message.task,
        "args": inside.args,
        "kwargs": inside.kwargs,
        "closed": inside.closed or None,
        "retries": message.retries,
        "eta": moment(message.eta),
        "expires": moment(message.expires),
        "age": message.age(found.at),
        "origin": message.origin,
        "priority": message.priority,
        "redelivered": message.redelivered,
        "size": message.size,
        "content_type": None if message.body is None else message.body.content_type,
        "compression": None if message.body is None else message.body.compression,
    }


def _task(group: TaskGroup) -> Json:
    return {
        "task": group.task,
        "count": group.count,
        "retried": group.retried,
        "eta": group.eta,
        "size": group.size,
    }
