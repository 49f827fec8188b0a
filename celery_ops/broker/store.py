"""The messages in the queues of one Redis, behind the port: looked at by `store_reading`,
moved by `store_moving`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker.store_moving import MessageMover
from celery_ops.broker.store_reading import MessageReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import StoredMessage
    from celery_ops.ports import Divided, Division, Fence, Transfer, Transferred


class RedisStore:
    """Implements `ports.MessageStore`, `ports.MessageSearch` and `ports.MessageDivider`."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._reader = MessageReader(wire, names)
        self._mover = MessageMover(wire, names)

    @property
    def kind(self) -> str:
        return "redis"

    async def count(self, queue: str) -> int:
        return await self._reader.count(queue)

    @property
    def marks(self) -> bool:
        return False

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        del requeue  # a look wears nothing out here
        return await self._reader.peek(queue, skip=skip, count=count)

    def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        del requeue
        return self._reader.read(queue)

    def search(
        self, queue: str, ids: Collection[str]
    ) -> AsyncGenerator[tuple[int, StoredMessage], None]:
        return self._reader.search(queue, ids)

    @property
    def puts_first(self) -> bool:
        return True

    def transfer(self, transfer: Transfer, *, fence: Fence) -> AsyncGenerator[Transferred, None]:
        return self._mover.transfer(transfer, fence=fence)

    async def divide(self, division: Division, *, fence: Fence) -> Divided:
        return await self._mover.divide(division, fence=fence)

    async def put(
        self,
        messages: Sequence[StoredMessage],
        *,
        queue: str,
        ticket: str,
        done: int,
        fence: Fence,
        address: str | None = None,
    ) -> bool:
        return await self._mover.put(
            messages, queue=queue, ticket=ticket, done=done, fence=fence, address=address
        )

    async def counted(self, ticket: str) -> int:
        return await self._mover.counted(ticket)

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        await self._mover.forget(ticket, fence=fence)

    async def drop(self, queue: str, *, fence: Fence) -> int:
        return await self._mover.drop(queue, fence=fence)
