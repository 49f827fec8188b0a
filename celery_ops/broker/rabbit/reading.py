"""Looks at the messages that wait in a queue on RabbitMQ: takes them, and gives them back.

There is no other way. They go back to their places, and are marked as redelivered from then on; who
consumes meanwhile is served what comes after them. A quorum queue counts it as a delivery that
failed, and drops a message after some of these: there it has to be asked for by name.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from amqp.exceptions import ResourceLocked

from celery_ops.broker.rabbit import messages, natures
from celery_ops.broker.rabbit.link import AmqpLink
from celery_ops.broker.rabbit.natures import Nature
from celery_ops.broker.rabbit.taking import taker
from celery_ops.errors import BrokerUnreachable, PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_ops.broker.rabbit.address import AmqpAddress
    from celery_ops.broker.rabbit.link import Channel, Session, Work
    from celery_ops.broker.rabbit.management import Management
    from celery_ops.broker.rabbit.taking import Taken, Taker
    from celery_ops.model import StoredMessage

Result = TypeVar("Result")

MOST_TAKEN = 20_000
"""Messages that one look takes out, with those that it passes over."""
_PORTION = 500
_SECONDS = 4.0
_SECONDS_A_PORTION = 20.0
"""Behind producers and workers at full speed each single message is waited for."""
_LOOKS, _BETWEEN_LOOKS = 10, 0.05
"""When nothing came back between so many looks, in seconds, it has come back."""
_A_SECOND = 100
"""So many messages a second are taken out at the least."""
_IF_MEANT = (
    "If that is meant, queue peek does it with --requeue; else park them (queue park): what is"
    " parked can be looked at and backed up."
)


class RabbitReader:
    """Implements `ports.MessageReading` on one RabbitMQ."""

    def __init__(self, address: AmqpAddress, management: Management | None = None) -> None:
        self._address = address
        self._management = management
        self._link = AmqpLink(address, "looks at messages")
        self._natures: dict[str, Nature] = {}

    async def close(self) -> None:
        await self._link.close()

    async def nature(self, queue: str) -> Nature | None:
        """None if there is no such queue; raise PreconditionFailed if it is another connection's.

        Kept while the queue is there: to ask anew can leave errors in the server's log. The
        management API leaves none.
        """
        if self._management is not None:
            with contextlib.suppress(BrokerUnreachable):
                found = await self._management.nature(queue)
                return found if found is None or await self._size(queue) is not None else None
        if await self._size(queue) is None:
            self._natures.pop(queue, None)
            return None
        known = self._natures.get(queue)
        found = known or await self._link.read(partial(natures.nature, queue=queue))
        if found is not None:
            self._natures[queue] = found
        return found

    async def ask(self, work: Work[Result]) -> Result:
        """Call work that changes nothing on the connection that looks."""
        return await self._link.read(work)

    async def count(self, queue: str) -> int:
        return await self._size(queue) or 0

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool
    ) -> tuple[StoredMessage, ...]:
        """As the port says; all of them are given back before it returns."""
        nature = await self._to_be_read(queue, requeue=requeue)
        if nature is None or count <= 0:
            return ()
        if skip + count > MOST_TAKEN:
            raise PreconditionFailed(
                f"To look behind {skip} messages all of them have to be taken out and given back"
                f" on RabbitMQ: at most {MOST_TAKEN:,} at once."
            )
        work = partial(_peeked, queue=queue, kind=nature.kind, skip=skip, count=count)
        taken = await self._link.read(work, deadline=_SECONDS + (skip + count) / _A_SECOND)
        return tuple(stored(one, nature) for one in taken)

    async def read(
        self, queue: str, *, requeue: bool
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        """As the port says. They are held, by the server alone, until the end: else the same ones
        would come again.
        """
        nature = await self._to_be_read(queue, requeue=requeue)
        if nature is None:
            return
        # What a connection of one life has taken goes back with it, whatever happens here.
        link = AmqpLink(self._address, "reads a queue", one_life=True)
        left = waited = await self.count(queue)
        try:
            opened = await link.write(partial(_taker, queue=queue, kind=nature.kind))
            try:
                while left > 0:
                    work = partial(_take, opened=opened, most=min(_PORTION, left))
                    taken = await link.write(work, deadline=_SECONDS_A_PORTION)
                    if not taken:
                        return
                    left -= len(taken)
                    yield tuple(stored(one, nature) for one in taken)
            finally:
                with contextlib.suppress(BrokerUnreachable):
                    await link.write(partial(_give_back, opened=opened))
        finally:
            await link.close()
            with contextlib.suppress(BrokerUnreachable):
                await self.given_back(queue, waited)

    async def given_back(self, queue: str, expected: int) -> None:
        """Wait until so many are there, or no more come: the server gives back what a channel held
        some time after that has closed.
        """
        most, looks = -1, 0
        while looks < _LOOKS and most < expected:
            ready = await self.count(queue)
            looks = looks + 1 if ready <= most else 0
            most = max(most, ready)
            await asyncio.sleep(_BETWEEN_LOOKS if most < expected else 0)

    async def _size(self, queue: str) -> int | None:
        size = await self._link.read(partial(_size, queue=queue))
        return None if size is None else size[0]

    async def _to_be_read(self, queue: str, *, requeue: bool) -> Nature | None:
        """Raise PreconditionFailed where messages cannot be looked at, or only at a price."""
        nature = await self.nature(queue)
        if nature is None:
            return None
        if nature.kind == "stream":
            raise PreconditionFailed(f"{queue!r} is a stream: its messages cannot be taken out.")
        if nature.kind == "quorum" and not requeue:
            raise PreconditionFailed(
                f"{queue!r} is a quorum queue: it counts each look at a message as a delivery that"
                " failed, and drops the message after some of them (x-delivery-limit).",
                fix=_IF_MEANT,
            )
        if nature.kind is None and not requeue:
            raise PreconditionFailed(
                f"It cannot be told whether {queue!r} is a quorum queue, where each look at a"
                " message counts as a delivery that failed.",
                fix=_IF_MEANT,
            )
        return nature


def _size(session: Session, *, queue: str) -> tuple[int, int] | None:
    try:
        return session.size(queue)
    except ResourceLocked as error:
        raise PreconditionFailed(
            f"{queue!r} belongs to one connection alone (exclusive), and is no queue of tasks."
        ) from error


def _peeked(
    session: Session, *, queue: str, kind: str | None, skip: int, count: int
) -> list[Taken]:
    """All are given back."""
    with session.channel() as channel:
        channel.auto_decode = False
        opened = taker(session, channel, queue, kind)
        _all(opened, skip)
        taken = _all(opened, count)
        opened.give_back()
        return taken


def _all(opened: Taker, count: int) -> list[Taken]:
    """So many, however large they are, if they are there."""
    taken: list[Taken] = []
    while len(taken) < count:
        some = opened.take(count - len(taken))
        if not some:
            break
        taken += some
    return taken


def _taker(session: Session, *, queue: str, kind: str | None) -> Taker:
    channel: Channel = session.connection.channel()
    channel.auto_decode = False
    return taker(session, channel, queue, kind)


def _take(session: Session, *, opened: Taker, most: int) -> list[Taken]:
    del session
    return opened.take(most)


def _give_back(session: Session, *, opened: Taker) -> None:
    del session
    opened.give_back()


def stored(taken: Taken, nature: Nature) -> StoredMessage:
    """The message, as it was published to its queue."""
    encoded, body = taken.content.encoded, taken.content.body
    if nature.kind != "classic":
        encoded = messages.as_published(encoded)
    return messages.stored(
        encoded, body, redelivered=taken.redelivered, top_priority=nature.top_priority
    )
