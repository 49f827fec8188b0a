"""Looks at the next messages of a queue, as many as are wanted, and never at all of a long one."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from celery_ops.model import StoredMessage
    from celery_ops.ports import MessageReading

MOST_LOOKED_AT = 10_000
"""Messages that are looked at for those that are wanted."""
MOST_BYTES = 64 * 1024 * 1024
MOST_SECONDS = 6.0
"""For which a look withholds messages from who consumes them (`MessageReading.marks`)."""
_AT_A_TIME = 200


@dataclass(frozen=True, slots=True)
class Placed:
    """A message, and its place in the queue: 1 is served next."""

    place: int
    message: StoredMessage


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen: `wanted` of the `looked_at` messages after `skipped` others, of `ready`.

    Of `unknown` more it is not known whether they are wanted.
    """

    ready: int
    skipped: int
    looked_at: int
    wanted: tuple[Placed, ...]
    unknown: int = 0
    marked: int = 0
    """So many bear a mark of it: they were taken out and given back (`MessageReading.marks`)."""

    @property
    def left(self) -> int:
        """How many come after those that were looked at."""
        return max(0, self.ready - self.skipped - self.looked_at)


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """The messages of one task: how many, how many of them are retries, or wait for an ETA, and
    their bytes. `task` is None for messages that name none.
    """

    task: str | None
    count: int
    retried: int
    eta: int
    size: int


async def look(
    store: MessageReading,
    queue: str,
    *,
    skip: int,
    limit: int,
    wants: Callable[[StoredMessage], bool | None] | None = None,
    requeue: bool = False,
) -> Look:
    """The next messages, at most `limit`; with `wants`, those of a bounded number that it wants.

    `wants` tells None where it cannot tell. What is taken or comes meanwhile moves the others: one
    may be missed or seen twice then. `requeue` as in `MessageReading`. Raise BrokerUnreachable and
    PreconditionFailed.
    """
    ready = await store.count(queue)
    wanted: list[Placed] = []
    looked_at = unknown = size = 0
    most = limit if wants is None else MOST_LOOKED_AT
    come = _marking if store.marks and wants is not None else _peeking
    marked = 0
    until = time.monotonic() + MOST_SECONDS
    async with aclosing(come(store, queue, skip, most, requeue=requeue)) as portions:
        async for some, taken in portions:
            marked += taken if store.marks else 0
            for message in some:
                looked_at += 1
                size += message.size
                verdict = True if wants is None else wants(message)
                unknown += verdict is None
                if verdict:
                    wanted.append(Placed(skip + looked_at, message))
                    if len(wanted) == limit:
                        break
            if len(wanted) == limit or looked_at >= most or size >= MOST_BYTES:
                break
            if store.marks and time.monotonic() > until:
                break
    ready = max(ready, skip + looked_at if looked_at else 0)  # some came while we looked
    return Look(ready, skip, looked_at, tuple(wanted), unknown, min(marked, ready))


async def _peeking(
    store: MessageReading, queue: str, skip: int, most: int, *, requeue: bool
) -> AsyncGenerator[tuple[tuple[StoredMessage, ...], int], None]:
    """No more of them than are looked at; those before them are taken out with the first."""
    passed = skip
    while most > 0:
        count = min(_AT_A_TIME, most)
        some = await store.peek(queue, skip=skip, count=count, requeue=requeue)
        yield some, passed + len(some)
        if len(some) < count:
            return
        skip, most, passed = skip + count, most - count, 0


async def _marking(
    store: MessageReading, queue: str, skip: int, most: int, *, requeue: bool
) -> AsyncGenerator[tuple[tuple[StoredMessage, ...], int], None]:
    """Each of them taken out once."""
    async with aclosing(store.read(queue, requeue=requeue)) as portions:
        async for portion in portions:
            passed = min(skip, len(portion))
            some = portion[passed : passed + most]
            yield some, len(portion)
            skip, most = skip - passed, most - len(some)
            if most <= 0:
                return


def by_task(found: Look) -> tuple[TaskGroup, ...]:
    """The wanted messages by their tasks, the most frequent first."""
    counts: Counter[str | None] = Counter()
    retried: Counter[str | None] = Counter()
    eta: Counter[str | None] = Counter()
    size: Counter[str | None] = Counter()
    for placed in found.wanted:
        message = placed.message
        counts[message.task] += 1
        retried[message.task] += bool(message.retries)
        eta[message.task] += message.eta is not None
        size[message.task] += message.size
    return tuple(
        TaskGroup(task, count, retried[task], eta[task], size[task])
        for task, count in counts.most_common()
    )
