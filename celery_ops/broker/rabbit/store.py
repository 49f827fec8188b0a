"""The messages in the queues of one RabbitMQ, behind the port: looked at by `reading`, moved
by `moving`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.broker.composing import LONGEST_NAME
from celery_ops.broker.rabbit import deaths
from celery_ops.broker.rabbit import messages as amqp_messages
from celery_ops.broker.rabbit.moving import RabbitMover
from celery_ops.broker.rabbit.reading import RabbitReader
from celery_ops.errors import PreconditionFailed
from celery_ops.ports import Priorities

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from celery_ops.broker.rabbit.address import AmqpAddress
    from celery_ops.broker.rabbit.lease import RabbitLease
    from celery_ops.broker.rabbit.management import Management
    from celery_ops.model import Address, StoredMessage, TaskMessage
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

    def compose(self, task: TaskMessage) -> StoredMessage:
        content = amqp_messages.composed(task)
        return amqp_messages.stored(
            content.encoded, content.body, redelivered=False, top_priority=task.priority
        )

    def revived(self, message: StoredMessage) -> StoredMessage:
        return replace(message, raw=deaths.revived(message.raw))

    async def leads_to(self, address: Address, known: Collection[str]) -> tuple[str, ...]:
        """Only where it was in a queue: that is what the broker notes."""
        del known
        if not 0 < len(address.queue.encode(errors="surrogatepass")) <= LONGEST_NAME:
            return ()
        try:
            is_there = await self._reader.nature(address.queue) is not None
        except PreconditionFailed:  # another connection's own
            return ()
        return (address.queue,) if is_there else ()

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

    async def priorities(self, queue: str) -> Priorities:
        """By `x-max-priority` of a classic queue. Those who are ready to take get what is sent one
        by one, before the rest of it is there.
        """
        nature = await self._reader.nature(queue)
        if nature is None:
            return Priorities(why="there is no such queue")
        if nature.kind is None:
            return Priorities(why="with which arguments it was declared cannot be told")
        if nature.kind != "classic":
            return Priorities(why=f"a {nature.kind} queue serves in no strict order of priorities")
        top = nature.top_priority
        if top < 1:
            return Priorities(why="it was declared without x-max-priority")
        return Priorities(tuple(dict.fromkeys((top, top // 2, 0))))

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str, fence: Fence
    ) -> frozenset[str]:
        return await self._mover.send_once(messages, queue=queue, fence=fence)

    async def sent(self, names: Collection[str]) -> frozenset[str]:
        return await self._mover.sent(names)

    async def counted(self, ticket: str) -> int:
        return await self._mover.counted(ticket)

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        await self._mover.forget(ticket, fence=fence)

    async def drop(self, queue: str, *, count: int, fence: Fence) -> int:
        return await self._mover.drop(queue, count=count, fence=fence)

    async def close(self) -> None:
        """The connections that read; the lease's is not ours."""
        await self._reader.close()
