"""The messages that wait in a simulated fleet's queues."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from celery_ops.model import Body, StoredMessage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.standin.broker import StandinBroker
    from tests.standin.parts import Message

_A_PORTION = 3


class StandinStore:
    """Obeys `ports.MessageReading`."""

    def __init__(self, broker: StandinBroker) -> None:
        self._broker = broker

    @property
    def kind(self) -> str:
        return "standin"

    async def count(self, queue: str) -> int:
        return len(self._waiting(queue))

    async def peek(self, queue: str, *, skip: int, count: int) -> tuple[StoredMessage, ...]:
        return tuple(map(self._stored, self._waiting(queue)[skip : skip + count]))

    async def read(self, queue: str) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        waiting = self._waiting(queue)
        for start in range(0, len(waiting), _A_PORTION):
            yield tuple(map(self._stored, waiting[start : start + _A_PORTION]))

    def _waiting(self, queue: str) -> list[Message]:
        self._broker.check_reachable()
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
            redelivered=False,
            body=Body(b"[[], {}, {}]"),
        )
