"""The messages in the queues of one Redis, behind the port: looked at by `store_reading`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker.store_reading import MessageReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import StoredMessage


class RedisStore:
    """Implements `ports.MessageReading`."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._reader = MessageReader(wire, names)

    @property
    def kind(self) -> str:
        return "redis"

    async def count(self, queue: str) -> int:
        return await self._reader.count(queue)

    async def peek(self, queue: str, *, skip: int, count: int) -> tuple[StoredMessage, ...]:
        return await self._reader.peek(queue, skip=skip, count=count)

    def read(self, queue: str) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        return self._reader.read(queue)
