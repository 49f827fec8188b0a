"""The messages in the queues of one RabbitMQ, behind the port: looked at by `amqp_reading`,
moved by `amqp_moving`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker.amqp_moving import RabbitMover
from celery_ops.broker.amqp_reading import RabbitReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from celery_ops.broker.amqp_address import AmqpAddress
    from celery_ops.broker.amqp_lease import RabbitLease
    from celery_ops.broker.management import Management
    from celery_ops.model import StoredMessage
    from celery_ops.ports import Fence, Transfer, Transferred


class RabbitStore:
    """Implements `ports.MessageStore`, with connections of its own to read, and the lease's."""

    def __init__(
        self, address: AmqpAddress, lease: RabbitLease, management: Management | None = None
    ) -> None:
        self._reader = RabbitReader(address, management)
        self._mover = RabbitMover(lease, self._reader, username=address.username)

    @property
    def kind(self) -> str:
        return "rabbitmq"

    @property
    def puts_first(self) -> bool:
        return False

    @property
    def marks(self) -> bool:
        return True

    async def count(self, queue: str) -> int:
        return await self._reader.count(queue)

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        return await self._reader.peek(queue, skip=skip, count=count, requeue=requeue)

    def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        return self._reader.read(queue, requeue=requeue)

    def transfer(self, transfer: Transfer, *, fence: Fence) -> AsyncGenerator[Transferred, None]:
        return self._mover.transfer(transfer, fence=fence)

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
        del address  # the broker gives a message back to the queue where it is
        return await self._mover.put(messages, queue=queue, ticket=ticket, done=done, fence=fence)

    async def counted(self, ticket: str) -> int:
        return await self._mover.counted(ticket)

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        await self._mover.forget(ticket, fence=fence)

    async def drop(self, queue: str, *, fence: Fence) -> int:
        return await self._mover.drop(queue, fence=fence)

    async def close(self) -> None:
        """The connections that read; the lease's is not ours."""
        await self._reader.close()
