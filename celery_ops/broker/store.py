"""The messages in the queues of one Redis, behind the port: looked at by `store_reading`,
moved by `store_moving`.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.broker import composing, envelopes
from celery_ops.broker.messages import is_message
from celery_ops.broker.names import DEFAULT_SEPARATOR, DEFAULT_STEPS
from celery_ops.broker.store_moving import MessageMover
from celery_ops.broker.store_reading import MessageReader
from celery_ops.errors import PreconditionFailed
from celery_ops.ports import Priorities

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from celery_ops.broker.first_in_line import FirstInLine
    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import Address, StoredMessage, TaskMessage
    from celery_ops.ports import Divided, Division, Fence, Transfer, Transferred


class RedisStore:
    """Implements `ports.MessageStore`, `ports.MessageSearch` and `ports.MessageDivider`."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._names = names
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

    def compose(self, task: TaskMessage) -> StoredMessage:
        tagged = replace(task, tag=task.tag or str(uuid.uuid4()))
        return envelopes.stored(composing.envelope(tagged), self._names.step(task.priority))

    def revived(self, message: StoredMessage) -> StoredMessage:
        return message  # nobody notes anything in it here

    async def leads_to(self, address: Address, known: Collection[str]) -> tuple[str, ...]:
        """A queue on Redis is there as long as something is in it."""
        if not address.queue:
            return await self._reader.bound(address)
        is_there = address.queue in known or await self._has_messages(address.queue)
        return (address.queue,) if is_there else ()

    async def _has_messages(self, name: str) -> bool:
        """Whether that is the list of a queue: a message may name whatever it likes."""
        try:
            return any(is_message(one.raw) for one in await self.peek(name, skip=0, count=1))
        except PreconditionFailed:
            return False

    def transfer(self, transfer: Transfer, *, fence: Fence) -> AsyncGenerator[Transferred, None]:
        return self._mover.transfer(transfer, fence=fence)

    def first_in_line(self) -> FirstInLine:
        return self._mover.first_in_line()

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

    async def priorities(self, queue: str) -> Priorities:
        """The same for every queue: consumers look into its lists in the order of their steps."""
        del queue
        names = self._names
        return Priorities(
            names.steps if len(names.steps) > 1 else (),
            "" if len(names.steps) > 1 else "priority_steps has one step only",
            at_once=True,
            options={"priority_steps": names.steps, "sep": names.separator},
            defaults={"priority_steps": DEFAULT_STEPS, "sep": DEFAULT_SEPARATOR},
        )

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
