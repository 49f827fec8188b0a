"""One task: sent to a queue, looked for there, and followed by what workers announce of it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from celery_ops.broker import composing, messages, scripts
from celery_ops.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio.connection import AbstractConnection

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import TaskMessage, TaskNews
    from celery_ops.ports import Fence

LOOKED_THROUGH = 100_000
"""So many messages, the newest, are compared with one that is looked for: some milliseconds."""
_FROM_ITS_END = {
    False: ("MAXLEN", LOOKED_THROUGH),
    True: ("RANK", -1, "MAXLEN", LOOKED_THROUGH),
}
CONFIRMED_WITHIN = 3.0
"""Seconds until the server has to confirm a subscription."""


class Tasks:
    """Sends tasks and follows them, on one Redis."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        """As the port says. Consumers take from the right end of the list."""
        keys = (self._names.lease, self._names.key(message.queue, message.priority))
        raw = composing.envelope(message)
        side = "RPUSH" if message.first else "LPUSH"
        said = (*keys, fence.token, raw, side)
        if not await self._wire.write("EVAL", scripts.SEND, len(keys), *said):
            raise LeaseLost("The lease of this context is no longer ours; nothing was sent.")

    async def ahead_of(self, message: TaskMessage) -> int | None:
        """As the port says. A server before Redis 6.0.6 has no LPOS: then it is not found."""
        key = self._names.key(message.queue, message.priority)
        raw = composing.envelope(message)
        length, at = await self._wire.read_many(
            [("LLEN", key), ("LPOS", key, raw, *_FROM_ITS_END[message.first])]
        )
        if at is None or isinstance(at, Exception) or isinstance(length, Exception):
            return None
        return int(length) - int(at) - 1

    @asynccontextmanager
    async def follow(self, task: str | None) -> AsyncIterator[FollowedTask]:
        """As the port says: subscribed to, and confirmed, before it is entered."""
        async with self._wire.connection() as connection:
            await connection.send_command(*self._names.task_events)
            await connection.read_response(timeout=CONFIRMED_WITHIN, disconnect_on_error=False)
            yield FollowedTask(connection, task)


class FollowedTask:
    """Implements `ports.Followed` by a subscription to all task events."""

    def __init__(self, connection: AbstractConnection, task: str | None) -> None:
        self._connection = connection
        self._task = task

    async def news(self, timeout: float) -> tuple[TaskNews, ...]:
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            answer = await self._connection.read_response(timeout=left, disconnect_on_error=False)
            if not isinstance(answer, list) or answer[0] not in (b"pmessage", b"message"):
                continue
            news = messages.read_task_events(bytes(answer[-1]), self._task)
            if news:
                return news
        return ()
