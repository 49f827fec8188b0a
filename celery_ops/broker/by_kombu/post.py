"""Control messages and their replies over kombu's channels. Called in the link's thread.

Replies go through the default exchange straight to a queue of this client's name, as on RabbitMQ:
no exchange and no binding is made for them. They are taken one by one and without acknowledgement,
so that there is nothing that a channel could put back at its end.

Where a fanout exchange copies a message into queues that stay when their worker is gone, a question
would wait there for ever (`files` takes it back). So only transports are asked through of which it
is known where a question goes.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Protocol

from celery_ops.broker import messages
from celery_ops.broker.rabbit.names import reply_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from celery_ops.broker.by_kombu.address import KombuAddress
    from celery_ops.broker.by_kombu.link import Channel, Session
    from celery_ops.broker.mailbox import Call
    from celery_ops.ports import Reply

Letter = Any
"""A message of kombu's channels."""
MARK = "celery-ops"
"""A header of our questions: the client's name and the ticket."""


class Post(Protocol):
    """Sends questions and takes replies."""

    def bound(self, session: Session) -> frozenset[str]:
        """The nodes that have a mailbox, of the dead too."""
        ...

    def send(
        self,
        session: Session,
        tickets: Mapping[str, Call],
        *,
        to: Sequence[str] | None,
        reached: Collection[str],
        expires: float,
    ) -> None:
        """Send questions to everybody (`to=None`) or to some, of whom `reached` have a mailbox."""
        ...

    def receive(self, session: Session, now: Callable[[], datetime]) -> list[tuple[str, Reply]]:
        """The replies that have come, each with its ticket."""
        ...

    def withdraw(self, session: Session, tickets: Collection[str]) -> None:
        """Take questions back that nobody has read."""
        ...

    def close(self, session: Session) -> None:
        """Leave nothing that is ours."""
        ...


class FanoutPost:
    """By the control exchange itself, where its messages are not kept for those who are gone."""

    def __init__(self, address: KombuAddress) -> None:
        self.client = uuid.uuid4().hex
        self.replies = reply_queue(self.client)
        self._names = address.names
        self._clock = 0

    def bound(self, session: Session) -> frozenset[str]:
        session.channel.exchange_declare(self._names.pidbox, type="fanout")
        queues = (entry[2] for entry in session.channel.get_table(self._names.pidbox))
        return frozenset(node for node in map(self._names.node, queues) if node)

    def send(
        self,
        session: Session,
        tickets: Mapping[str, Call],
        *,
        to: Sequence[str] | None,
        reached: Collection[str],
        expires: float,
    ) -> None:
        del reached
        channel = session.channel
        channel.exchange_declare(self._names.pidbox, type="fanout")
        for ticket, call in tickets.items():
            letter = self.letter(channel, ticket, call, to, expires)
            channel.basic_publish(letter, self._names.pidbox, "")

    def receive(self, session: Session, now: Callable[[], datetime]) -> list[tuple[str, Reply]]:
        found = []
        while (message := session.channel.basic_get(self.replies, no_ack=True)) is not None:
            body = message.body
            raw = body if isinstance(body, bytes) else str(body).encode(errors="surrogatepass")
            read = messages.reply_of(message.headers, str(message.content_type), raw, now())
            if read is not None:
                found.append(read)
        return found

    def withdraw(self, session: Session, tickets: Collection[str]) -> None:
        """Those who are gone never get one."""

    def close(self, session: Session) -> None:
        session.channel.queue_purge(self.replies)

    def letter(
        self,
        channel: Channel,
        ticket: str,
        call: Call,
        to: Sequence[str] | None,
        expires: float,
    ) -> Letter:
        """A question as kombu's channels publish it."""
        self._clock += 1
        method, arguments = call
        reply_to = messages.ReplyTo("", self.replies, ticket)
        body = messages.control_body(method, arguments, destination=to, reply_to=reply_to)
        return channel.prepare_message(
            body.decode(),
            content_type="application/json",
            content_encoding="utf-8",
            headers={"clock": self._clock, "expires": expires, MARK: f"{self.client} {ticket}"},
            properties={"delivery_mode": 1},
        )
