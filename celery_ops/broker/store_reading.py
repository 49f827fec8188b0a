"""Looks at the messages that wait in a queue on Redis, and takes none of them.

A queue is one list for each priority step. Consumers take from the right end, and from a list only
when those of all smaller steps are empty (`kombu.transport.redis.Channel._brpop_start`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import envelopes
from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Answer, Wire
    from celery_ops.model import StoredMessage

_BYTES_AT_A_TIME = 1024 * 1024
"""A reply of more keeps the server from everything else for too long."""
_FIRST_PORTION = 20
"""Of messages of whose size nothing is known yet."""
_LARGEST_PORTION = 1_000


class MessageReader:
    """Implements `ports.MessageReading` on one Redis."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names

    async def count(self, queue: str) -> int:
        return sum(await self._lengths(queue))

    async def peek(self, queue: str, *, skip: int, count: int) -> tuple[StoredMessage, ...]:
        """As the port says. Between two round trips the queue may have moved on by a few."""
        found: list[StoredMessage] = []
        for step, length in zip(self._names.steps, await self._lengths(queue), strict=True):
            passed = min(skip, length)
            skip -= passed
            wanted = min(count - len(found), length - passed)
            start = passed
            portion = _FIRST_PORTION
            while wanted > 0:
                some = await self._slice(queue, step, start, min(portion, wanted))
                found += some
                if not some:
                    break
                start += len(some)
                wanted -= len(some)
                portion = _next_portion(some)
        return tuple(found)

    async def read(self, queue: str) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        """As the port says; those that come meanwhile are not read."""
        portion = _FIRST_PORTION
        for step, length in zip(self._names.steps, await self._lengths(queue), strict=True):
            start = 0
            while start < length:
                some = await self._slice(queue, step, start, min(portion, length - start))
                if not some:
                    break
                yield some
                start += len(some)
                portion = _next_portion(some)

    async def _lengths(self, queue: str) -> list[int]:
        """Of each priority step, at one moment."""
        answers = await self._wire.read_many([("LLEN", key) for key in self._names.keys(queue)])
        return [int(self._of_a_list(answer, queue)) for answer in answers]

    async def _slice(
        self, queue: str, step: int, start: int, count: int
    ) -> tuple[StoredMessage, ...]:
        """Messages of one step, by their places from the end that is served next."""
        key = self._names.key(queue, step)
        (answer,) = await self._wire.read_many(
            [("LRANGE", key, -(start + count), -(start + 1))], at_once=False
        )
        raws: Iterable[bytes] = reversed(self._of_a_list(answer, queue))
        return tuple(envelopes.stored(raw, step) for raw in raws)

    def _of_a_list(self, answer: Answer, queue: str) -> Answer:
        if isinstance(answer, Exception):
            if "WRONGTYPE" in str(answer):
                raise PreconditionFailed(f"{queue!r} is not a queue: its key is no list.")
            raise self._wire.refused(answer)
        return answer


def _next_portion(read: tuple[StoredMessage, ...]) -> int:
    """As many as should fit, by the size of those read before."""
    mean = max(1, sum(message.size for message in read) // len(read))
    return max(1, min(_LARGEST_PORTION, _BYTES_AT_A_TIME // mean))
