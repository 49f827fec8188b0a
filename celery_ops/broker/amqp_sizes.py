"""How many messages wait in each queue of RabbitMQ, and, where that is told, how many are held.

A passive declare tells what is ready at that very moment; nothing else does without taking messages
out. How many are held by workers, and which queues there are that nobody named, only the management
API tells, some seconds late. Nothing tells which messages are held: the broker gives them back by
itself as soon as their consumer is gone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from amqp.exceptions import NotFound, ResourceLocked

from celery_ops.broker.amqp_names import is_delayed
from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import QueueReading, QueuesReading

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.broker.amqp_link import AmqpLink, Session
    from celery_ops.broker.amqp_names import AmqpNames
    from celery_ops.broker.management import CountedQueue, Management
    from celery_ops.ports import Clock

MOST_DECLARED = 1_000
"""So many queues are asked for themselves; those beyond are as old as the API's counters."""
_DEADLINE = 10.0
_NO_MANAGEMENT = (
    "RabbitMQ tells how many messages workers hold, and which queues nobody consumes, only by its"
    " management API: name it in the context (management: http://user:password@host:15672)."
)
_LATE = "How many messages workers hold is as the management API counted it, some seconds ago."


class RabbitSizes:
    """Reads `QueuesReading`s."""

    def __init__(
        self, link: AmqpLink, names: AmqpNames, management: Management | None, clock: Clock
    ) -> None:
        self._link = link
        self._names = names
        self._management = management
        self._clock = clock

    async def read(self, known: Collection[str]) -> QueuesReading:
        """As the port says."""
        counted, notes = await self._counted()
        others = sorted(name for name in counted if not self._names.is_plumbing(name))
        declared = sorted(known) + [name for name in others if name not in set(known)]
        declared = declared[:MOST_DECLARED]
        at = self._clock.now()
        ready = await self._link.read(partial(_ready, declared), deadline=_DEADLINE)
        queues = [self._reading(name, ready.get(name), counted) for name in {*declared, *others}]
        delayed = sum(one.ready or 0 for one in counted.values() if is_delayed(one.name))
        if delayed:
            notes += (f"{delayed} messages wait in celery_delayed_* until their time has come.",)
        return QueuesReading(
            at=at,
            queues=tuple(sorted((one for one in queues if one), key=lambda one: one.name)),
            unacked=None,
            notes=notes,
        )

    async def _counted(self) -> tuple[Mapping[str, CountedQueue], tuple[str, ...]]:
        """What the API counted, by name, and what is to be said of it."""
        if self._management is None:
            return {}, (_NO_MANAGEMENT,)
        try:
            found = await self._management.queues()
        except BrokerUnreachable as error:
            return {}, (f"How many messages workers hold is not known: {error.says}",)
        return {one.name: one for one in found}, (_LATE,)

    def _reading(
        self, name: str, ready: int | None, counted: Mapping[str, CountedQueue]
    ) -> QueueReading | None:
        """None for one that was there when the API counted it, and cannot be told of."""
        by_api = counted.get(name)
        if ready is None:
            ready = by_api.ready if by_api is not None else None
        if ready is None:
            return None
        return QueueReading(name, ready, by_api.unacked if by_api is not None else None)


def _ready(queues: Sequence[str], session: Session) -> dict[str, int]:
    """In the link's thread: what is ready in each; one that does not exist holds nothing, and one
    that belongs to another connection is left out.
    """
    found = {}
    with session.channel() as channel:
        for queue in queues:
            try:
                found[queue] = int(channel.queue_declare(queue, passive=True).message_count)
            except NotFound:  # py-amqp has opened the channel anew
                found[queue] = 0
            except ResourceLocked:
                continue
    return found
