"""How many messages wait in each queue of RabbitMQ, and, where that is told, how many are held.

A passive declare tells what is ready at that very moment, and how many consume it; nothing else
does without taking messages out. How many messages workers hold, and which queues there are that
nobody named, only the management API tells, some seconds late. Nothing tells which messages are
held: the broker gives them back by itself as soon as their consumer is gone.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from amqp.exceptions import NotFound, ResourceLocked

from celery_ops.broker.rabbit.names import DELAYED, is_delayed
from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import QueueReading, QueuesReading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.broker.rabbit.link import AmqpLink, Session
    from celery_ops.broker.rabbit.management import CountedQueue, Management
    from celery_ops.broker.rabbit.names import AmqpNames
    from celery_ops.ports import Clock

MOST_OTHERS = 100
"""Queues that nobody named and that are asked for themselves; the others are as the API counted."""
COUNTED_EVERY = 3.0
"""Seconds between two calls of the API: it counts every five, and thousands of queues cost it time.
"""
DELAYED_FOUND_EVERY = 8.0
"""Seconds between two looks whether there is delayed delivery now: RabbitMQ logs each in vain."""
_DEADLINE = 10.0
_NO_MANAGEMENT = (
    "What workers hold, and queues that nobody consumes: RabbitMQ tells that only by its management"
    " API (management: http://user:password@host:15672 in the context)."
)
_LATE = (
    "How many messages workers hold right now: unacked is as RabbitMQ's management API counted it,"
    " some seconds ago."
)


@dataclass(frozen=True, slots=True)
class _Size:
    """What a passive declare told."""

    ready: int
    consumers: int
    exists: bool = True


class RabbitSizes:
    """Reads `QueuesReading`s."""

    def __init__(
        self, link: AmqpLink, names: AmqpNames, management: Management | None, clock: Clock
    ) -> None:
        self._link = link
        self._names = names
        self._management = management
        self._clock = clock
        self._counters: dict[str, CountedQueue] = {}
        self._counted_at = -math.inf
        self._has_consumers = False
        self._no_delayed_until = -math.inf

    async def read(self, known: Collection[str]) -> QueuesReading:
        """As the port says."""
        known = frozenset(known)
        counted, notes = await self._counted()
        is_listed = notes == (_LATE,)
        unlisted = "" if is_listed else " ".join(notes)
        others = sorted(name for name in counted if not self._names.is_plumbing(name))
        strangers = [name for name in others if name not in known]
        absent = [name for name in sorted(known) if is_listed and name not in counted]
        declared = [*sorted(known.difference(absent)), *strangers[:MOST_OTHERS]]
        at = self._clock.now()
        sizes = await self._link.read(partial(_sizes, declared), deadline=_DEADLINE)
        sizes |= dict.fromkeys(absent, _Size(0, 0, exists=False))
        if len(strangers) > MOST_OTHERS:
            counted = await self._with_consumers(counted)
        queues = [_reading(name, sizes.get(name), counted.get(name)) for name in {*sizes, *others}]
        if len(strangers) > MOST_OTHERS:
            late = len(strangers) - MOST_OTHERS
            notes += (f"What waits right now in {late} queues: it is as the API counted it, too.",)
        waits = [name for name in counted if is_delayed(name)]
        delayed = await self._delayed(waits) if waits or not is_listed else 0
        if delayed:
            says = (
                f"For which queues the {delayed} messages in celery_delayed_* are, until their time"
            )
            notes += (f"{says} has come.",)
        return QueuesReading(
            at=at,
            queues=tuple(sorted((one for one in queues if one), key=lambda one: one.name)),
            unacked=None,
            notes=notes,
            keeps_held=False,
            unlisted=unlisted,
            delayed=delayed,
        )

    async def lacks(self, queue: str) -> bool:
        """The API is there, and knows no such queue: to look for it would leave an error in the
        server's log.
        """
        counted, notes = await self._counted()
        return notes == (_LATE,) and queue not in counted

    async def _delayed(self, counted: Sequence[str]) -> int:
        """How many messages wait for their time right now; `counted` are queues for that which the
        API knows.
        """
        if not counted and time.monotonic() < self._no_delayed_until:
            return 0
        found = await self._link.read(partial(_delayed, counted), deadline=_DEADLINE)
        if found is None:
            self._no_delayed_until = time.monotonic() + DELAYED_FOUND_EVERY
        return found or 0

    async def _with_consumers(
        self, counted: Mapping[str, CountedQueue]
    ) -> Mapping[str, CountedQueue]:
        """Asked for where there are so many queues that not each can be asked itself."""
        if self._management is None or self._has_consumers:
            return counted
        self._has_consumers = True
        try:
            consumers = await self._management.consumers()
        except BrokerUnreachable:
            return counted
        self._counters = {
            name: replace(one, consumers=consumers[name]) for name, one in counted.items()
        }
        return self._counters

    async def _counted(self) -> tuple[Mapping[str, CountedQueue], tuple[str, ...]]:
        """What the API counted, by name, and what is to be said of it."""
        if self._management is None:
            return {}, (_NO_MANAGEMENT,)
        if time.monotonic() < self._counted_at + COUNTED_EVERY:
            return self._counters, (_LATE,)
        try:
            found = await self._management.queues()
        except BrokerUnreachable as error:
            return {}, (f"What workers hold, and queues that nobody consumes: {error.says}",)
        self._counters = {one.name: one for one in found}
        self._counted_at = time.monotonic()
        self._has_consumers = False
        return self._counters, (_LATE,)


def _reading(name: str, size: _Size | None, counted: CountedQueue | None) -> QueueReading | None:
    """None for one of which nothing can be told any more."""
    if size is not None and not size.exists:
        return QueueReading(name, 0, 0, consumers=0)
    unacked = counted.unacked if counted is not None else None
    if size is not None:
        return QueueReading(name, size.ready, unacked, consumers=size.consumers)
    if counted is None or counted.ready is None:
        return None
    return QueueReading(name, counted.ready, unacked, consumers=counted.consumers)


def _sizes(queues: Sequence[str], session: Session) -> dict[str, _Size]:
    """In the link's thread. One that belongs to another connection is left out."""
    found = {}
    with session.channel() as channel:
        for queue in queues:
            try:
                answer = channel.queue_declare(queue, passive=True)
            except NotFound:  # py-amqp has opened the channel anew
                found[queue] = _Size(0, 0, exists=False)
            except ResourceLocked:
                continue
            else:
                found[queue] = _Size(int(answer.message_count), int(answer.consumer_count))
    return found


def _delayed(counted: Sequence[str], session: Session) -> int | None:
    """In the link's thread; None where there are no such queues. All are declared, or none is."""
    if not counted and session.size(DELAYED[0]) is None:
        return None
    return sum(size.ready for size in _sizes(counted or DELAYED, session).values())
