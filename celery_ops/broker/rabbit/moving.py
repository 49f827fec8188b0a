"""Moves the messages that wait in a queue on RabbitMQ, each in one transaction with its count.

A transaction publishes a portion to the other queue, acknowledges it in its own, and replaces the
count; the server carries it out as a whole or not at all, however our end of the connection fares.
It goes over the connection that holds the lease: with that connection all of it is over, and what
was taken and not yet committed is back in its place.

What a limited queue has no room for would push others out of it, or be refused, and be lost: there
nothing is moved to. A limit that a policy sets is seen by the management API only.

Messages that are not chosen are held, since they would be served again: meanwhile nobody else is
served with them, and from then on they are marked as redelivered. Who moves slowly gives them back
in between, and passes them again: so none is held for long, and no consumer's time runs out.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from celery_ops.broker.rabbit import counts, raw, sending
from celery_ops.broker.rabbit import messages as amqp_messages
from celery_ops.broker.rabbit.content import Content
from celery_ops.broker.rabbit.ledger import CLASSIC, patiently
from celery_ops.broker.rabbit.link import DEADLINE
from celery_ops.broker.rabbit.raw import Unreadable
from celery_ops.broker.rabbit.reading import stored
from celery_ops.broker.rabbit.transactions import Destination, Transaction
from celery_ops.errors import BrokerUnreachable, LeaseLost, PreconditionFailed
from celery_ops.model import parked
from celery_ops.ports import Transferred

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
    from typing import Protocol

    from celery_ops.broker.rabbit.link import Session, Work
    from celery_ops.broker.rabbit.natures import Nature
    from celery_ops.broker.rabbit.reading import RabbitReader
    from celery_ops.broker.rabbit.taking import Taken
    from celery_ops.model import StoredMessage
    from celery_ops.ports import Fence, Transfer

    class Holding(Protocol):
        """A lease whose connection can be used."""

        async def under(
            self, fence: Fence, work: Work[Result], *, deadline: float = DEADLINE
        ) -> Result: ...


Result = TypeVar("Result")

PORTION = 500
"""Messages in one transaction."""
_FIRST_PORTION = 50
MOST_HELD = 2_000
"""Messages that the channel that moves holds back; then others hold them, and it is a new one. For
each acknowledgement the server walks over all that its channel was delivered before."""
HELD_FOR = 60.0
"""Seconds after which what is held is given back, and passed again."""
_PASSING_AGAIN = 10
"""So many times as long as that takes it is held then, if that is more."""
_DEADLINE = 20.0
"""Seconds a transaction may take: the lease is not renewed meanwhile."""


class RabbitMover:
    """Implements what `ports.MessageStore` has beyond reading. `username` is who publishes."""

    def __init__(self, lease: Holding, reader: RabbitReader, *, username: str) -> None:
        self._lease = lease
        self._reader = reader
        self._username = username

    async def transfer(
        self, transfer: Transfer, *, fence: Fence
    ) -> AsyncGenerator[Transferred, None]:
        """As the port says, but for `first`: they go behind those that wait there."""
        source = await self._source(transfer.queue)
        to = await self._destination(transfer.to, fence)
        if source is None:
            await self._under(fence, lambda _: None)
            return
        way = _Way(transfer, to, source.kind)
        try:
            await patiently(lambda: self._under(fence, way.open))
            while not way.is_over:
                taken = await self._under(fence, way.take)
                if not taken:
                    return
                going, looked_at = self._choose(taken, source, transfer, way.left)
                await self._under(fence, partial(way.carry, taken=len(taken), going=going))
                way.go_past(looked_at)
                yield Transferred(way.done, way.most_seen)
                if way.is_long_held:
                    await self._give_back(way, fence)
                    await patiently(lambda: self._under(fence, way.open))
        finally:
            with contextlib.suppress(BrokerUnreachable, LeaseLost):
                await self._give_back(way, fence)

    async def put(
        self,
        messages: Sequence[StoredMessage],
        *,
        queue: str,
        ticket: str,
        done: int,
        fence: Fence,
    ) -> bool:
        """As the port says, behind those that wait there."""
        to = await self._destination(queue, fence)
        contents = [self._content(message) for message in messages]
        work = partial(_put, contents=contents, to=to, ticket=ticket, done=done)
        return await patiently(lambda: self._under(fence, work))

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str, fence: Fence
    ) -> frozenset[str]:
        """As the port says."""
        to = await self._destination(queue, fence)
        contents = {name: self._content(message) for name, message in messages.items()}
        work = partial(sending.send_once, contents=contents, to=to)
        return await patiently(lambda: self._under(fence, work))

    async def sent(self, names: Collection[str]) -> frozenset[str]:
        """As the port says."""
        return frozenset(names) & await patiently(lambda: self._reader.ask(sending.sent))

    async def counted(self, ticket: str) -> int:
        work = partial(counts.counted, ticket=ticket)
        return await patiently(lambda: self._reader.ask(work))

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        await self._under(fence, partial(_delete, queue=counts.queue_of(ticket)))

    async def drop(self, queue: str, *, count: int, fence: Fence) -> int:
        """As the port says."""
        if parked(queue) is None:
            raise ValueError(f"{queue!r} is no queue of parked messages")
        return await self._under(fence, partial(_drop, queue=queue, count=count))

    async def _under(self, fence: Fence, work: Work[Result]) -> Result:
        return await self._lease.under(fence, work, deadline=_DEADLINE)

    async def _give_back(self, way: _Way, fence: Fence) -> None:
        waiting = await self._under(fence, way.close)
        await self._reader.given_back(way.transfer.queue, waiting)

    async def _source(self, queue: str) -> Nature | None:
        nature = await self._reader.nature(queue)
        if nature is not None and nature.kind == "stream":
            raise PreconditionFailed(f"{queue!r} is a stream: nothing can be taken out of it.")
        return nature

    async def _destination(self, queue: str, fence: Fence) -> Destination:
        """Raise PreconditionFailed where a message could be refused, or push another one out."""
        if parked(queue) is not None:
            await self._under(fence, partial(_declare, queue=queue))
        nature = await self._reader.nature(queue)
        if nature is None:
            raise PreconditionFailed(
                f"There is no queue {queue!r}.",
                fix="On RabbitMQ it is there as soon as a worker consumes it, or as somebody"
                " declares it.",
            )
        if nature.kind == "stream":
            raise PreconditionFailed(f"{queue!r} is a stream, where nothing is moved to.")
        if nature.most_bytes is not None:
            raise PreconditionFailed(
                f"{queue!r} holds a limited number of bytes (max-length-bytes): what is moved"
                " there could be refused, or push others out."
            )
        return Destination(queue, most_messages=nature.most_messages)

    def _choose(
        self, taken: Sequence[Taken], source: Nature, transfer: Transfer, left: int | None
    ) -> tuple[list[_Going], int]:
        """Those that go, and how many were looked at for them."""
        going: list[_Going] = []
        looked_at = 0
        for one in taken:
            if left is not None and len(going) >= left:
                break
            looked_at += 1
            if amqp_messages.hindrance(one.content.encoded, self._username) is not None:
                continue
            if transfer.choose is None or transfer.choose(stored(one, source)):
                going.append(_Going(one, self._replacement(one, source, transfer)))
            elif source.kind != "classic":
                raise PreconditionFailed(
                    f"Some messages of {transfer.queue!r} cannot be chosen: it is a quorum queue,"
                    " or it cannot be told that it is none, and counts a message that is given"
                    " back as a delivery that failed (x-delivery-limit).",
                    fix="Move or park all of them; from where they go then, some can be chosen.",
                )
        return going, looked_at

    def _replacement(self, one: Taken, source: Nature, transfer: Transfer) -> Content:
        """What takes its place."""
        if transfer.become is None:
            return one.content
        return self._content(transfer.become(stored(one, source)))

    def _content(self, message: StoredMessage) -> Content:
        named = f"a message ({message.id or 'without an id'})"
        try:
            encoded, body = raw.read(message.raw)
        except Unreadable as error:
            raise PreconditionFailed(f"{named} cannot be put into RabbitMQ: {error}") from error
        why = amqp_messages.hindrance(encoded, self._username)
        if why is not None:
            raise PreconditionFailed(f"{named} cannot be put back as it is: {why}")
        return Content(encoded, body)


@dataclass(frozen=True, slots=True)
class _Going:
    """A message that goes, and the `content` that takes its place."""

    taken: Taken
    content: Content


@dataclass(slots=True)
class _Way:
    """The way of a transfer's messages, on a channel of the lease's connection; its methods are
    work for that.
    """

    transfer: Transfer
    to: Destination
    kind: str | None
    done: int = 0
    most_seen: int = 0
    """So many messages were ever looked at."""
    _seen: int = 0
    """So many of them in this pass."""
    _is_again: bool = False
    """Those that were taken last had stayed before."""
    _length: int | None = None
    _opened_at: float = 0.0
    _held_for: float = field(default_factory=lambda: HELD_FOR)
    _transaction: Transaction | None = field(default=None, repr=False)
    _holding: list[Transaction] = field(default_factory=list, repr=False)
    _held: int = 0
    """So many are held by the channel that moves."""
    _all_held: int = 0

    @property
    def is_classic(self) -> bool:
        return self.kind == "classic"

    @property
    def left(self) -> int | None:
        """How many more may go; None: any number."""
        limit = self.transfer.limit
        return None if limit is None else max(0, limit - self.done)

    @property
    def is_over(self) -> bool:
        """All were looked at that waited at the beginning, or enough have gone."""
        return self._seen >= (self._length or 0) or self.left == 0

    @property
    def is_long_held(self) -> bool:
        if self._is_again or not self._all_held:
            return False
        return time.monotonic() - self._opened_at > self._held_for

    def open(self, session: Session) -> None:
        """Raise LedgerBusy if another one counts under its ticket. Again after `close`."""
        if self._length is None:
            size = session.size(self.transfer.queue)
            self._length = 0 if size is None else size[0]
        self._opened_at = time.monotonic()
        self._begin(session)

    def take(self, session: Session) -> list[Taken]:
        """The next ones, of those that were there at the beginning."""
        del session
        most = min(self._portion, (self._length or 0) - self._seen)
        if self.left is not None and (self.transfer.choose is None or not self.is_classic):
            # A quorum queue would count what is given back, and give it another place.
            most = min(most, self.left)
        return self._open.take(most)

    def go_past(self, looked_at: int) -> None:
        """So many were looked at once they were taken."""
        self._is_again = self._seen < self.most_seen
        self._seen += looked_at
        self.most_seen = max(self.most_seen, self._seen)
        if self._is_again and self._seen == self.most_seen:
            took = time.monotonic() - self._opened_at
            self._held_for = max(HELD_FOR, _PASSING_AGAIN * took)

    def carry(self, session: Session, *, taken: int, going: Sequence[_Going]) -> None:
        """Move those of the `taken` last, in one transaction."""
        if going:
            contents = [self._as_published(one.content) for one in going]
            before = [self._as_published(one.taken.content) for one in going]
            tags = [one.taken.tag for one in going]
            self._open.commit(contents, tags, back_to=self.transfer.queue, before=before)
            self.done = self._open.done
        self._held += taken - len(going)
        self._all_held += taken - len(going)
        if self._held > MOST_HELD:
            self._open.hold_only()
            self._holding.append(self._open)
            self._begin(session)

    def close(self, session: Session) -> int:
        """Give back what was taken and not moved; how many wait there then, if nobody takes one."""
        size = session.size(self.transfer.queue)
        for one in (*self._holding, self._transaction):
            if one is not None:
                one.close()
        self._holding.clear()
        self._transaction = None
        held, self._all_held = self._all_held, 0
        self._seen -= held
        return (0 if size is None else size[0]) + held

    def _begin(self, session: Session) -> None:
        self._transaction = None
        opened = Transaction(
            session, self.to, self.transfer.ticket, source=self.transfer.queue, kind=self.kind
        )
        self._transaction = opened
        self._held = 0
        self.done = opened.done

    @property
    def _portion(self) -> int:
        """Messages in one transaction; of those that stayed before, many."""
        if self._seen < self.most_seen:
            return min(PORTION, self.most_seen - self._seen)
        most = min(PORTION, self.transfer.portion or PORTION)
        return min(_FIRST_PORTION, most) if self.is_classic and not self._seen else most

    @property
    def _open(self) -> Transaction:
        if self._transaction is None:
            raise RuntimeError("it is not open")
        return self._transaction

    def _as_published(self, content: Content) -> Content:
        if self.is_classic:
            return content
        return Content(amqp_messages.as_published(content.encoded), content.body)


def _put(
    session: Session, *, contents: Sequence[Content], to: Destination, ticket: str, done: int
) -> bool:
    """Work for the lease's connection."""
    transaction = Transaction(session, to, ticket)
    try:
        if transaction.done != done:
            return False
        if contents:
            transaction.commit(contents)
        return True
    finally:
        transaction.close()


def _declare(session: Session, *, queue: str) -> None:
    """Work for the lease's connection: make sure that there is a queue for parked messages."""
    with session.channel() as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=CLASSIC)


def _delete(session: Session, *, queue: str) -> int:
    """Work for the lease's connection: how many messages waited there."""
    with session.channel() as channel:
        return int(channel.queue_delete(queue) or 0)


def _drop(session: Session, *, queue: str, count: int) -> int:
    """The same, if so many wait there. Nobody but who holds the lease puts anything there."""
    there, _ = session.size(queue) or (0, 0)
    return _delete(session, queue=queue) if there == count else there
