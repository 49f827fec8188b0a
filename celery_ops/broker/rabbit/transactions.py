"""A transaction on RabbitMQ that publishes, acknowledges and counts messages: all or nothing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amqp.exceptions import AMQPError, NotFound
from amqp.exceptions import PreconditionFailed as Refusal

from celery_ops.broker.rabbit.counts import Count, publish
from celery_ops.broker.rabbit.refusals import blocked
from celery_ops.broker.rabbit.taking import taker
from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.broker.rabbit.content import Content
    from celery_ops.broker.rabbit.link import Channel, Session
    from celery_ops.broker.rabbit.taking import Taken


@dataclass(frozen=True, slots=True)
class Destination:
    queue: str
    most_messages: int | None = None

    def check_room(self, channel: Channel, count: int) -> None:
        """Raise PreconditionFailed if it is gone, or so many would push others out."""
        try:
            ready = int(channel.queue_declare(self.queue, passive=True).message_count)
        except NotFound as error:
            raise _gone(self.queue) from error
        if self.most_messages is not None and ready + count > self.most_messages:
            raise PreconditionFailed(
                f"{self.queue!r} holds at most {self.most_messages} messages (max-length), and"
                f" {ready} wait there: {count} more could be refused, or push others out."
            )


class Transaction:
    """A channel whose changes come at once, with a ticket's count. Work for the lease's connection.

    Raise LedgerBusy if another one counts under that ticket.
    """

    def __init__(
        self,
        session: Session,
        to: Destination,
        ticket: str,
        *,
        source: str = "",
        kind: str | None = "classic",
    ) -> None:
        """`kind` is that of the source, where there is one."""
        if session.blocked:
            raise blocked(session.address)
        self._to = to
        self._returned: list[Content] = []
        self.channel: Channel = session.connection.channel()
        self._taker = taker(session, self.channel, source, kind)
        try:
            self.channel.auto_decode = False
            self.channel.events["basic_return"].add(self._note_returned)
            self.channel.tx_select()
            self._count = Count(session, self.channel, ticket)
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> int:
        return self._count.value

    def take(self, most: int) -> list[Taken]:
        """The next messages of the source."""
        return self._taker.take(most)

    def commit(
        self,
        contents: Sequence[Content],
        tags: Sequence[int] = (),
        *,
        back_to: str | None = None,
        before: Sequence[Content] = (),
    ) -> None:
        """Publish these, acknowledge those, and count them.

        Raise PreconditionFailed if there is no room for them, or the queue is gone; what was
        acknowledged for that is in `back_to` then, and not counted: as it was `before`, each of
        the same place.
        """
        done = self.done
        self._to.check_room(self.channel, len(contents))
        for content in contents:
            publish(self.channel, content, self._to.queue)
        for tag in tags:
            self.channel.basic_ack(tag)
        self._end(done + len(contents))
        if self._returned:
            returned, self._returned = self._returned, []
            were = {_key(new): old for new, old in zip(contents, before, strict=False)}
            for content in returned if back_to is not None else ():
                publish(self.channel, were.get(_key(content), content), back_to or "")
            self._end(done + len(contents) - len(returned))
            raise _gone(self._to.queue)

    def hold_only(self) -> None:
        """Do no more than to hold what was taken and not acknowledged."""
        self._count.let_go()
        self.channel.tx_commit()

    def close(self) -> None:
        """Give back what was taken and not acknowledged."""
        with contextlib.suppress(AMQPError, OSError):
            self.channel.close()

    def _end(self, count: int) -> None:
        self._count.change(count)
        try:
            self.channel.tx_commit()
        except Refusal as error:
            raise PreconditionFailed(
                f"{self._to.queue!r} has refused messages of ours, as a policy or a limit wants it:"
                " those are lost.",
                fix="Lift the limit (x-overflow: reject-publish), and restore a backup.",
            ) from error
        self._count.settle()

    def _note_returned(self, error: Exception, exchange: str, key: str, content: Content) -> None:
        del error, exchange
        if key == self._to.queue:
            self._returned.append(content)


def _key(content: Content) -> tuple[bytes, bytes]:
    return content.encoded, content.body


def _gone(queue: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"The queue {queue!r} is not there any more; what was to go there was put back."
    )
