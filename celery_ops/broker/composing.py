"""The messages of tasks that are sent from here, as Celery itself sends them (protocol 2). Pure.

All of one follows from its values: nothing is left to chance or to the moment.

Source: `celery.app.amqp.AMQP.as_task_v2` and `kombu.transport.virtual.base.Channel`.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from celery_ops.model import TaskMessage

CONTENT_TYPE = "application/json"
CONTENT_ENCODING = "utf-8"
DURABLE = 2
"""The mode of delivery."""
LONGEST_NAME = 255
"""Bytes of a name or an id, as AMQP has it."""
_LONGEST_TOLD = 1_024
"""Characters of arguments as they are told to people (`argsrepr_maxsize`)."""


def body(task: TaskMessage) -> bytes:
    """Its arguments, and what follows it, which is nothing. Raise PreconditionFailed."""
    follows = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    try:
        return json.dumps([list(task.args), dict(task.kwargs), follows]).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _unsendable(task, f"its arguments cannot be written as JSON: {error}") from error


def headers(task: TaskMessage) -> dict[str, object]:
    """Its headers. Raise PreconditionFailed."""
    for name in (task.task, task.id, task.queue, task.root, task.parent):
        if name is not None:
            _check(name, task)
    return {
        "lang": "py",
        "task": task.task,
        "id": task.id,
        "shadow": None,
        "eta": None if task.eta is None else task.eta.isoformat(),
        "expires": None if task.expires is None else task.expires.isoformat(),
        "group": None,
        "group_index": None,
        "retries": task.retries,
        "timelimit": [None, None],
        "root_id": task.root or task.id,
        "parent_id": task.parent,
        "argsrepr": _told(tuple(task.args), task),
        "kwargsrepr": _told(dict(task.kwargs), task),
        "origin": task.origin,
        "ignore_result": None,  # as the task itself has it
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def envelope(task: TaskMessage) -> bytes:
    """The message as kombu's virtual transports keep it, straight to its queue; raise
    PreconditionFailed.
    """
    message = {
        "body": base64.b64encode(body(task)).decode(),
        "content-encoding": CONTENT_ENCODING,
        "content-type": CONTENT_TYPE,
        "headers": headers(task),
        "properties": {
            "correlation_id": task.id,
            "reply_to": "",
            "delivery_mode": DURABLE,
            "delivery_info": {"exchange": "", "routing_key": task.queue},
            "priority": task.priority,
            "body_encoding": "base64",
            "delivery_tag": task.tag or task.id,
        },
    }
    return json.dumps(message).encode()


def _check(name: str, task: TaskMessage) -> None:
    try:
        is_one = 0 < len(name.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:
        is_one = False
    if not is_one:
        raise _unsendable(task, f"{name[:40]!r} is no name: at most {LONGEST_NAME} bytes of UTF-8")


def _told(value: object, task: TaskMessage) -> str:
    try:
        text = repr(value)
    except RecursionError as error:
        raise _unsendable(task, "its arguments are nested too deeply") from error
    return text if len(text) <= _LONGEST_TOLD else text[: _LONGEST_TOLD - 3] + "..."


def _unsendable(task: TaskMessage, why: str) -> PreconditionFailed:
    return PreconditionFailed(f"The task {task.id[:40]!r} cannot be sent: {why}.")
