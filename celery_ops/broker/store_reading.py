"""Looks at the messages that wait in a queue on Redis, and takes none of them.

A queue is one list for each priority step. Consumers take from the right end, and from a list only
when those of all smaller steps are empty (`kombu.transport.redis.Channel._brpop_start`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery_ops.broker import envelopes
from celery_ops.broker.routes import routed
from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Answer, Wire
    from celery_ops.model import Address, StoredMessage

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

    async def search(
        self, queue: str, ids: Collection[str]
    ) -> AsyncGenerator[tuple[int, StoredMessage], None]:
        """As the port says. Only what may be meant is decoded, which takes 50 times as long as to
        find it.
        """
        wanted = _written(ids)
        before = 0
        portion = _FIRST_PORTION
        for step, length in zip(self._names.steps, await self._lengths(queue), strict=True):
            start = 0
            while start < length:
                raws = await self._raws(queue, step, start, min(portion, length - start))
                if not raws:
                    break
                for place, raw in enumerate(raws, before + start):
                    if any(text in raw for text in wanted):
                        yield place, envelopes.stored(raw, step)
                start += len(raws)
                portion = _portion(sum(map(len, raws)), len(raws))
            before += length

    async def bound(self, address: Address) -> tuple[str, ...]:
        """The queues that are bound there to its key."""
        (members,) = await self._wire.read_many(
            [("SMEMBERS", self._names.binding(address.exchange))], at_once=False
        )
        if isinstance(members, Exception):
            return ()
        entries = (self._names.bound(one.decode(errors="replace")) for one in members)
        table = {address.exchange: tuple(entry for entry in entries if entry is not None)}
        return tuple(sorted(routed(address.exchange, address.routing_key, table)))

    async def _lengths(self, queue: str) -> list[int]:
        """Of each priority step, at one moment."""
        answers = await self._wire.read_many([("LLEN", key) for key in self._names.keys(queue)])
        return [int(self._of_a_list(answer, queue)) for answer in answers]

    async def _slice(
        self, queue: str, step: int, start: int, count: int
    ) -> tuple[StoredMessage, ...]:
        """Messages of one step, by their places from the end that is served next."""
        raws = await self._raws(queue, step, start, count)
        return tuple(envelopes.stored(raw, step) for raw in raws)

    async def _raws(self, queue: str, step: int, start: int, count: int) -> list[bytes]:
        key = self._names.key(queue, step)
        (answer,) = await self._wire.read_many(
            [("LRANGE", key, -(start + count), -(start + 1))], at_once=False
        )
        return list(reversed(self._of_a_list(answer, queue)))

    def _of_a_list(self, answer: Answer, queue: str) -> Answer:
        if isinstance(answer, Exception):
            if "WRONGTYPE" in str(answer):
                raise PreconditionFailed(f"{queue!r} is not a queue: its key is no list.")
            raise self._wire.refused(answer)
        return answer


def _next_portion(read: tuple[StoredMessage, ...]) -> int:
    """As many as should fit, by the size of those read before."""
    return _portion(sum(message.size for message in read), len(read))


def _portion(size: int, count: int) -> int:
    return max(1, min(_LARGEST_PORTION, _BYTES_AT_A_TIME // max(1, size // count)))


def _written(texts: Collection[str]) -> set[bytes]:
    """As JSON has them inside of its quotes, in either of the ways it is written."""
    return {
        json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode(errors="surrogatepass")
        for text in texts
        for ascii_only in (True, False)
    }
