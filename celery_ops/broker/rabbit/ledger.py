"""Records that operators leave for each other on RabbitMQ: a durable queue, a message a record.

A queue can only be read by taking messages out of it, and whoever looks meanwhile would see fewer.
So whoever reads is its exclusive consumer for these milliseconds: others are refused and try again,
and nobody takes an empty queue for an empty ledger. What is not acknowledged goes back to its place
when the channel closes, or the reader dies. A change is one transaction: what is added comes in
the same step in which what it replaces goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import amqp
from amqp.exceptions import AccessRefused, NotFound

from celery_ops.broker.rabbit.link import body_of
from celery_ops.broker.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from celery_ops.broker.rabbit.link import Channel, Session

Result = TypeVar("Result")

CLASSIC = {"x-queue-type": "classic"}
"""Said, since a virtual host may have another default: quorum queues count how often a message was
delivered, and drop it in the end."""
PATIENCE = 3.0
"""Seconds in which who reads a ledger has to come to an end."""
_SHORTEST_PAUSE = 0.005
_MORE_MILLISECONDS = 25
"""Up to so many, by chance: so that two who read in step get out of it."""
_READ_WITHIN = 2.0
"""Seconds until all records have to be delivered."""
_IN_USE = "exclusive use"


class LedgerBusy(Exception):
    """Somebody else reads it right now."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger by the name of its queue. Its methods are work for a link, but for `patiently`."""

    queue: str

    def declare(self, session: Session) -> None:
        """Make sure that it is there."""
        with session.channel() as channel:
            channel.queue_declare(self.queue, durable=True, auto_delete=False, arguments=CLASSIC)

    def read(self, session: Session) -> list[bytes] | None:
        """All records, the oldest first; None if there never was one. Raise LedgerBusy."""
        with session.channel() as channel:
            try:
                return [body_of(message) for message in self.delivered(session, channel)]
            except NotFound:
                return None

    def change(
        self, session: Session, edit: Callable[[list[bytes]], tuple[set[int], bytes | None]]
    ) -> list[bytes]:
        """Take some out and add one, or neither. Raise LedgerBusy.

        `edit` is given all records, and tells the indexes of those that go, and what comes.
        Returns what went.
        """
        self.declare(session)
        with session.channel() as channel:
            channel.tx_select()
            messages = self.delivered(session, channel)
            bodies = [body_of(message) for message in messages]
            going, coming = edit(bodies)
            if coming is not None:
                channel.basic_publish(record(coming), exchange="", routing_key=self.queue)
            for index in going:
                channel.basic_ack(messages[index].delivery_tag)
            channel.tx_commit()
            return [bodies[index] for index in sorted(going)]

    def delivered(self, session: Session, channel: Channel) -> list[amqp.Message]:
        """Every record there is, as this channel's own until it is closed. One that is added
        meanwhile comes at the end, as soon as it is read. Raise LedgerBusy.
        """
        channel.auto_decode = False
        messages: list[amqp.Message] = []
        with _telling_busy():
            channel.basic_consume(self.queue, exclusive=True, callback=messages.append)
        until = time.monotonic() + _READ_WITHIN
        while self._ready(channel):
            if time.monotonic() > until:
                raise LedgerBusy
            session.wait(_SHORTEST_PAUSE)
        # The last deliveries were on their way to the channel when the queue said that it is empty;
        # the answer to a further question can only come behind them.
        self._ready(channel)
        return messages

    def _ready(self, channel: Channel) -> int:
        return int(channel.queue_declare(self.queue, passive=True).message_count)


def record(body: bytes) -> amqp.Message:
    """The message that keeps a record."""
    return amqp.Message(
        body, content_type="application/json", content_encoding="utf-8", delivery_mode=2
    )


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call again, a moment later, while somebody else reads; raise Refused if that takes long."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await call()
        except LedgerBusy:
            if time.monotonic() > until:
                raise Refused(
                    "The broker's records of celery-ops are being read by somebody who does not"
                    " come to an end.",
                    fix="Is another celery-ops stopped, or its machine suspended? The broker gives"
                    " it up by itself within half a minute.",
                ) from None
        await asyncio.sleep(_SHORTEST_PAUSE + secrets.randbelow(_MORE_MILLISECONDS) / 1000)


@contextlib.contextmanager
def _telling_busy() -> Iterator[None]:
    try:
        yield
    except AccessRefused as error:
        if _IN_USE in str(error):
            raise LedgerBusy from error
        raise
