"""How many messages have gone under a ticket: the one message of a durable queue of that name.

Whoever counts is the queue's exclusive consumer. So an earlier holder of the lease whose last
transaction the server still carries out is waited for: its end takes its consumer away, and nothing
of it can come after that.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING

import amqp
from amqp import spec
from amqp.exceptions import AccessRefused

from celery_ops.broker.rabbit.ledger import CLASSIC, LedgerBusy
from celery_ops.errors import BrokerUnreachable, RecordUnreadable

if TYPE_CHECKING:
    from celery_ops.broker.rabbit.link import Channel, Session

_PREFIX = "celery-ops.counts."
_LONGEST_NAME = 255
_IN_USE = "exclusive use"
_DELIVERED_WITHIN = 3.0
_PAUSE = 0.03
_PUBLISH = "Bssbb"


def queue_of(ticket: str) -> str:
    """The queue that keeps a ticket's count."""
    name = f"{_PREFIX}{ticket}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"{_PREFIX}sha256 {hashlib.sha256(ticket.encode()).hexdigest()}"


class Count:
    """A ticket's count, held on a channel until that closes. Work for a link.

    Raise LedgerBusy if another one holds it.
    """

    def __init__(self, session: Session, channel: Channel, ticket: str) -> None:
        self._session = session
        self._channel = channel
        self._queue = queue_of(ticket)
        self._arrived: deque[amqp.Message] = deque()
        self._is_kept = self._hold()
        self.value = self._read() if self._is_kept else 0

    def change(self, value: int) -> None:
        """What it is when the channel's transaction is committed, which is the caller's to do."""
        old = self._next() if self._is_kept else None
        message = amqp.Message(str(value), content_type="text/plain", delivery_mode=2)
        publish(self._channel, message, self._queue)
        if old is not None:
            self._channel.basic_ack(old.delivery_tag)
        self._is_kept = True
        self.value = value

    def settle(self) -> None:
        """Let the changed count come back, so that none is on its way when the channel closes."""
        if self._is_kept and not self._arrived:
            self._arrived.append(self._next())

    def let_go(self) -> None:
        """Hold it no longer, when the transaction is committed: the next one may."""
        self.settle()
        self._channel.basic_cancel(self._consumer)
        for message in self._arrived:
            self._channel.basic_reject(message.delivery_tag, requeue=True)

    def _hold(self) -> bool:
        """Become its consumer; whether there was a count."""
        channel = self._channel
        channel.queue_declare(self._queue, durable=True, auto_delete=False, arguments=CLASSIC)
        try:
            self._consumer = channel.basic_consume(
                self._queue, exclusive=True, callback=self._arrived.append
            )
        except AccessRefused as error:
            if _IN_USE not in str(error):
                raise
            raise LedgerBusy from error
        # What is delivered to a new consumer comes before the answer to a later question.
        channel.queue_declare(self._queue, passive=True)
        return bool(self._arrived)

    def _read(self) -> int:
        texts = [_text(message) for message in self._arrived]
        if len(texts) != 1 or not (texts[0].isascii() and texts[0].isdecimal()):
            raise RecordUnreadable(f"The queue {self._queue!r} holds something else than a count.")
        return int(texts[0])

    def _next(self) -> amqp.Message:
        until = time.monotonic() + _DELIVERED_WITHIN
        while not self._arrived:
            if time.monotonic() > until:
                raise BrokerUnreachable(f"The count in {self._queue!r} does not come back.")
            self._session.wait(_PAUSE)
        return self._arrived.popleft()


def counted(session: Session, *, ticket: str) -> int:
    """Work for a link: the count of a ticket, 0 if there is none. Raise LedgerBusy."""
    if session.size(queue_of(ticket)) is None:
        return 0
    with session.channel() as channel:
        channel.auto_decode = False
        return Count(session, channel, ticket).value


def publish(channel: Channel, message: amqp.Message, queue: str) -> None:
    """To that queue alone; it comes back where there is none (`basic_return`).

    Without what py-amqp's own method looks for before each message.
    """
    channel.send_method(spec.Basic.Publish, _PUBLISH, (0, "", queue, True, False), message)


def _text(message: amqp.Message) -> str:
    body = message.body
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body)
