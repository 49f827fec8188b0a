"""Messages in `unacked`, as kombu leaves them there when a worker dies."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any


def hold(
    redis: Any,
    queue: str,
    *,
    exchange: str = "",
    priority: object = 0,
    age: float = 60.0,
    task: str = "app.work",
    body: str = "W1sxXSwge30sIHt9XQ==",
    headers: dict[str, object] | None = None,
    unacked: str = "unacked",
    index: str = "unacked_index",
) -> str:
    """Hold a message that came by this exchange and routing key (`queue`); its task's id."""
    id_ = str(uuid.uuid4())
    message = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": id_, **(headers or {})},
        "properties": {
            "correlation_id": id_,
            "delivery_mode": 2,
            "delivery_info": {"exchange": exchange, "routing_key": queue},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": id_,
        },
    }
    redis.hset(unacked, id_, json.dumps([message, exchange, queue]))
    redis.zadd(index, {id_: time.time() - age})
    return id_
