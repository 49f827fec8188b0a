"""The messages that wait in a simulated fleet's queues."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable
from celery_ops.model import Address, Body, StoredMessage, parked
from celery_ops.ports import Priorities, Transferred
from tests.standin.parts import Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence

    from celery_ops.model import TaskMessage
    from celery_ops.ports import Fence, Transfer
    from tests.standin.broker import StandinBroker

_A_PORTION = 3


class StandinStore:
    """Obeys `ports.MessageStore`. The fleet has no priorities."""

    def __init__(self, broker: StandinBroker) -> None:
        self._broker = broker

    @property
    def kind(self) -> str:
        return "standin"

    async def count(self, queue: str) -> int:
        return len(self._waiting(queue))

    @property
    def marks(self) -> bool:
        return self._broker.marks

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        del requeue
        return tuple(map(self._stored, self._waiting(queue)[skip : skip + count]))

    async def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        del requeue
        waiting = self._waiting(queue)
        for start in range(0, len(waiting), _A_PORTION):
            yield tuple(map(self._stored, waiting[start : start + _A_PORTION]))

    @property
    def puts_first(self) -> bool:
        return self._broker.puts_first

    def compose(self, task: TaskMessage) -> StoredMessage:
        return self._stored(self._broker.fleet.composed(task, self._broker.clock.now()))

    def revived(self, message: StoredMessage) -> StoredMessage:
        return message

    async def leads_to(self, address: Address, known: Collection[str]) -> tuple[str, ...]:
        is_there = address.queue in known or self._waiting(address.queue)
        return (address.queue,) if address.queue and is_there else ()

    async def transfer(
        self, transfer: Transfer, *, fence: Fence
    ) -> AsyncGenerator[Transferred, None]:
        left = len(self._waiting(transfer.queue))
        passed = seen = 0
        known = self._broker.tickets[transfer.ticket]
        while left > 0:
            self._check(fence)
            self._check_known(transfer, known)
            waiting = list(self._broker.fleet.queues.get(transfer.queue, ()))[passed:]
            some = waiting[: min(_A_PORTION, left, transfer.portion or _A_PORTION)]
            if transfer.first and self.puts_first:
                some = waiting[-len(some) :][::-1]
            moved = 0
            for message in some:
                done = self._broker.tickets[transfer.ticket]
                if transfer.limit is not None and done >= transfer.limit:
                    left = 0
                    break
                seen += 1
                if transfer.choose is None or transfer.choose(self._stored(message)):
                    self._pass_on(message, transfer)
                    moved += 1
            passed += len(some) - moved
            left -= len(some)
            self._broker.after_an_effect()
            known = self._broker.tickets[transfer.ticket]
            yield Transferred(known, seen)
            if not some:
                return
        self._check_known(transfer, known)

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
        self._check(fence)
        if self._broker.tickets[ticket] != done:
            return False
        fleet = self._broker.fleet
        waiting = fleet.queues.setdefault(queue, deque())
        for stored in reversed(messages) if self.puts_first else messages:
            message = _read(stored.raw)
            message.queue = address or message.queue
            (waiting.appendleft if self.puts_first else waiting.append)(message)
        self._broker.tickets[ticket] += len(messages)
        fleet.settle()
        self._broker.after_an_effect()
        return True

    async def priorities(self, queue: str) -> Priorities:
        del queue
        return Priorities(why="the fleet has none")

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str, fence: Fence
    ) -> frozenset[str]:
        self._check(fence)
        names = frozenset(messages.keys() - self._broker.sent_once)
        self._broker.sent_once |= names
        waiting = self._broker.fleet.queues.setdefault(queue, deque())
        waiting.extend(Message(**json.loads(messages[name].raw)) for name in messages
                       if name in names)  # fmt: skip
        self._broker.fleet.settle()
        self._broker.after_an_effect()
        return names

    async def sent(self, names: Collection[str]) -> frozenset[str]:
        self._broker.check_reachable()
        return frozenset(names) & self._broker.sent_once

    async def counted(self, ticket: str) -> int:
        self._broker.check_reachable()
        self._broker.before_a_look()
        return self._broker.tickets[ticket]

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        self._check(fence)
        self._broker.tickets.pop(ticket, None)

    async def drop(self, queue: str, *, count: int, fence: Fence) -> int:
        if parked(queue) is None:
            raise ValueError(queue)
        self._check(fence)
        there = len(self._broker.fleet.queues.get(queue, ()))
        if there == count:
            self._broker.fleet.queues.pop(queue, None)
            self._broker.after_an_effect()
        return there

    def _check(self, fence: Fence) -> None:
        self._broker.check_writable()
        self._broker.before_a_look()
        self._broker.lease.check(fence)
        self._broker.fleet.settle()

    def _check_known(self, transfer: Transfer, known: int) -> None:
        if self._broker.tickets[transfer.ticket] < known:
            raise BrokerUnreachable("the broker has forgotten that some were moved")

    def _pass_on(self, message: Message, transfer: Transfer) -> None:
        """Out of one queue, into the other, and counted."""
        queues = self._broker.fleet.queues
        queues[transfer.queue].remove(message)
        if transfer.become is not None:
            message = _read(transfer.become(self._stored(message)).raw)
        message.queue = transfer.address or message.queue
        to = queues.setdefault(transfer.to, deque())
        (to.appendleft if transfer.first and self.puts_first else to.append)(message)
        self._broker.tickets[transfer.ticket] += 1
        self._broker.fleet.settle()

    def _waiting(self, queue: str) -> list[Message]:
        self._broker.check_reachable()
        self._broker.before_a_look()
        self._broker.fleet.settle()
        return list(self._broker.fleet.queues.get(queue, ()))

    def _stored(self, message: Message) -> StoredMessage:
        fleet = self._broker.fleet
        return StoredMessage(
            raw=json.dumps(asdict(message), default=str).encode(),
            id=message.id,
            task=message.task,
            retries=0,
            eta=None if message.eta is None else fleet.wall_time(message.eta),
            expires=None if message.expires is None else fleet.wall_time(message.expires),
            origin=message.origin,
            by_beat=message.by_beat,
            redelivered=message.redelivered,
            body=Body(self._broker.bodies.get(message.id, b"[[], {}, {}]")),
            came_from=Address("", message.queue),
        )


def _read(raw: bytes) -> Message:
    return Message(**json.loads(raw))
