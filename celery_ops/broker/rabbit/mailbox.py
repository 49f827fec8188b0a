"""Where workers' replies arrive on RabbitMQ, and how questions are sent there from.

Replies go through the default exchange straight to a queue of this client's connection, so nothing
of it is left however the client ends, and no exchange is declared for it. Celery's own clients use
a reply exchange instead; a worker publishes wherever a question tells it to.

RabbitMQ does not tell how many listeners a message reached, only that there was none. Where the
management API is configured it tells who is bound; else a round ends as `rounds` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import amqp
from amqp.exceptions import NotFound

from celery_ops.broker import messages
from celery_ops.broker.rabbit.ledger import CLASSIC
from celery_ops.broker.rabbit.link import body_of, delivered, posted
from celery_ops.broker.rabbit.names import reply_queue
from celery_ops.broker.rounds import ROLL_CALL, Memory, Next, Round, in_order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from celery_ops.broker.mailbox import Call
    from celery_ops.broker.rabbit.lease import RabbitLease
    from celery_ops.broker.rabbit.link import AmqpLink, Session
    from celery_ops.broker.rabbit.names import AmqpNames
    from celery_ops.errors import BrokerUnreachable
    from celery_ops.model import Targets
    from celery_ops.ports import Clock, Fence

_EXPIRES = 60_000
_MOST_REPLIES = 100_000
"""In our queue: a client that stands still must not fill the broker's memory."""


@dataclass(slots=True)
class _Waiting:
    """Who waits for a round: woken by each reply, and when none can come any more."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    lost: BrokerUnreachable | None = None


class RabbitMailbox:
    """Sends questions and orders, and collects their replies; any number of rounds at once.

    `bound` tells the names that are bound to the control exchange, or None.
    """

    def __init__(
        self,
        link: AmqpLink,
        lease: RabbitLease,
        names: AmqpNames,
        clock: Clock,
        *,
        bound: Callable[[], Awaitable[frozenset[str] | None]],
    ) -> None:
        self._link = link
        self._lease = lease
        self._names = names
        self._clock = clock
        self._bound = bound
        self._memory = Memory()
        self._queue = reply_queue(uuid.uuid4().hex)
        self._session: Session | None = None
        self._lamport = 0
        self._rounds: dict[Round, _Waiting] = {}

    async def round(
        self,
        calls: Sequence[Call],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
        fence: Fence | None = None,
    ) -> Round:
        """Send (method, arguments) pairs at once; return when `rounds` says that it is over.

        Raise LeaseLost, and send nothing, if there is a fence and it is not valid.
        """
        ordered = in_order(calls)
        tickets = {str(uuid.uuid4()): call for call in ordered}
        bound = await self._bound() if to is None else None
        current = Round(
            {ticket: method for ticket, (method, _) in tickets.items()},
            targets=None if to is None else to.names,
            known=known,
            memory=self._memory,
            started=time.monotonic(),
            timeout=timeout,
            is_counted=bound is not None,
        )
        self._rounds[current] = _Waiting()
        try:
            reached = await self._publish(tickets, to=to, timeout=timeout, fence=fence)
            counts = _counted(reached, bound)
            current.published(counts, time.monotonic())
            await self._collect(current, bound, to=to, timeout=timeout)
        finally:
            del self._rounds[current]
        return current

    async def _publish(
        self,
        tickets: Mapping[str, Call],
        *,
        to: Targets | None,
        timeout: float,
        fence: Fence | None = None,
    ) -> dict[str, bool]:
        """Send them, and say which of them reached somebody."""
        # Workers judge it by their own clocks, and ours may have been set since this process began.
        expires = max(self._clock.now().timestamp(), time.time()) + timeout
        letters = {
            ticket: amqp.Message(
                messages.control_body(
                    method,
                    arguments,
                    destination=None if to is None else to.names,
                    reply_to=messages.ReplyTo("", self._queue, ticket),
                ),
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,
                application_headers={"clock": self._tick(), "expires": expires},
            )
            for ticket, (method, arguments) in tickets.items()
        }
        listen = partial(self._listen, asyncio.get_running_loop())
        if fence is not None:
            await self._link.read(listen)
            return await self._lease.under(fence, partial(self._sent, letters))

        def work(session: Session) -> dict[str, bool]:
            listen(session)
            return self._sent(letters, session)

        # Perhaps it was asked when a connection breaks. To ask twice does no harm; to order would.
        return await self._link.read(work)

    def _sent(self, letters: Mapping[str, amqp.Message], session: Session) -> dict[str, bool]:
        """In a link's thread: publish them; without the exchange there never was a worker."""
        with session.channel() as channel:
            try:
                return {
                    ticket: delivered(channel, letter, exchange=self._names.pidbox)
                    for ticket, letter in letters.items()
                }
            except NotFound:
                return dict.fromkeys(letters, False)

    def _listen(self, loop: asyncio.AbstractEventLoop, session: Session) -> None:
        """In the link's thread: have a queue for replies on this connection."""
        if self._session is session:
            return
        channel = session.connection.channel()
        channel.auto_decode = False
        channel.queue_declare(
            self._queue,
            exclusive=True,
            auto_delete=True,
            arguments={**CLASSIC, "x-expires": _EXPIRES, "x-max-length": _MOST_REPLIES},
        )
        channel.basic_consume(self._queue, no_ack=True, callback=posted(loop, self._hand_out))
        session.at_end(posted(loop, self._on_loss))
        self._session = session

    async def _collect(
        self, current: Round, bound: frozenset[str] | None, *, to: Targets | None, timeout: float
    ) -> None:
        waiting = self._rounds[current]
        while (step := current.next(time.monotonic())) is not Next.OVER:
            if step is Next.NAMES:
                current.look_closer(bound or frozenset())
                if current.wants_roll_call:
                    await self._call_roll(current, bound, to=to, timeout=timeout)
                continue
            waiting.arrived.clear()
            if waiting.lost is not None:
                raise waiting.lost
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(current.look_again_at() - time.monotonic()):
                    await waiting.arrived.wait()

    async def _call_roll(
        self, current: Round, bound: frozenset[str] | None, *, to: Targets | None, timeout: float
    ) -> None:
        ticket = str(uuid.uuid4())
        current.call_roll(ticket)
        reached = await self._publish({ticket: (ROLL_CALL, {})}, to=to, timeout=timeout)
        current.published(_counted(reached, bound), time.monotonic())

    def _hand_out(self, message: amqp.Message) -> None:
        headers = message.properties.get("application_headers") or {}
        content_type = str(message.properties.get("content_type"))
        read = messages.reply_of(headers, content_type, body_of(message), self._clock.now())
        if read is None:
            return
        ticket, reply = read
        for current, waiting in self._rounds.items():
            if ticket in current.tickets:
                current.add(ticket, reply, time.monotonic())
                waiting.arrived.set()
                return
        self._memory.heard_late(reply.node)

    def _on_loss(self, error: BrokerUnreachable) -> None:
        """Who waits for replies that were sent to a queue that is gone waits in vain."""
        for waiting in self._rounds.values():
            waiting.lost = error
            waiting.arrived.set()

    def _tick(self) -> int:
        self._lamport += 1
        return self._lamport


def _counted(reached: Mapping[str, bool], bound: frozenset[str] | None) -> dict[str, int | None]:
    """How many listeners each question has: none, as many as are bound, or not known."""
    listeners = None if bound is None else len(bound)
    return {ticket: listeners if routed else 0 for ticket, routed in reached.items()}
