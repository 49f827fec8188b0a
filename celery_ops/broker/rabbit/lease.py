"""The lease of a context on RabbitMQ: an exclusive queue, and a readable one that says who has it.

The exclusive queue belongs to a connection, and the broker removes it with that connection: when
its holder is killed, or is not heard of for two heartbeats. Every effect is published on that very
connection, so there is none after the end of the lease.

Whoever may publish can put a message into an exclusive queue, and thus ring at its holder: the
holder's thread closes the connection when it is told to by somebody who knows the token (a broken
lease, a run that goes on elsewhere), whatever its program does meanwhile. A message that cannot be
delivered comes back: so it is seen, without an error in the broker's log, that nobody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import amqp
from amqp.exceptions import ConnectionForced, NotFound, ResourceLocked

from celery_ops.broker import records
from celery_ops.broker.rabbit.ledger import CLASSIC
from celery_ops.broker.rabbit.link import DEADLINE, AmqpLink, body_of, delivered
from celery_ops.broker.refusals import Lost
from celery_ops.errors import BrokerFull, BrokerUnreachable, LeaseHeld, LeaseLost, RecordUnreadable
from celery_ops.ports import Fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.broker.rabbit.address import AmqpAddress
    from celery_ops.broker.rabbit.link import Session, Work
    from celery_ops.model import Holder

Result = TypeVar("Result")

LOCK = "celery-ops.lease"
WHO = "celery-ops.holder"
DEFAULT_TTL = 15.0
_BEATS_A_TTL = 2
_LOST = "The lease of this context is no longer ours."
_UNREADABLE = "Somebody else holds the lease of this context, in a form that cannot be read here."
_MUTE = "Somebody holds the lease of this context, and it cannot be read who."
_SAYS_WITHIN = 2.0
"""Seconds until who has just taken the lease has to have said so."""
_PAUSE = 0.02
_EXPIRES = 60_000
"""Milliseconds after which nothing is left to be read of a holder that was killed."""


class RabbitLease:
    """Implements `ports.Lease`. `reading` is for passive looks, `ringing` for what is published."""

    def __init__(
        self,
        address: AmqpAddress,
        *,
        reading: AmqpLink,
        ringing: AmqpLink,
        ttl: float = DEFAULT_TTL,
        prepare: Callable[[Session], None],
    ) -> None:
        """`prepare` is called on the connection of a lease before anything is done under it."""
        self._address = address
        self._reading = reading
        self._ringing = ringing
        self._ttl = ttl
        self._prepare = prepare
        self._links: dict[str, AmqpLink] = {}

    @property
    def ttl(self) -> float:
        return self._ttl

    async def under(
        self, fence: Fence, work: Work[Result], *, deadline: float = DEADLINE
    ) -> Result:
        """Call work, never twice, on the connection that holds the lease.

        Raise LeaseLost, and do nothing, if the fence is not valid; Lost if the connection ended
        meanwhile, so that what was published last may or may not have been done.
        """
        link = self._links.get(fence.token)
        if link is None or link.is_over:
            raise LeaseLost(f"{_LOST[:-1]}; nothing was done.")
        return await link.write(work, deadline=deadline)

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        token = secrets.token_hex(16)
        says_until = time.monotonic() + _SAYS_WITHIN
        yields_until: float | None = None
        # Asked first: the server logs each attempt to declare another's queue as an error.
        while await self._is_held() or not await self._lock(holder, token):
            try:
                who = await self._who()
            except RecordUnreadable as error:
                raise LeaseHeld(_UNREADABLE, fix=error.says) from error
            if who is None:
                if time.monotonic() > says_until:
                    raise LeaseHeld(_MUTE)
            elif takes_over and (who[0].run, who[0].operator) == (holder.run, holder.operator):
                yields_until = yields_until or time.monotonic() + self._patience
                if time.monotonic() > yields_until:
                    raise LeaseHeld(f"{who[0]}.", fix=self._stuck)
                await self._ring(who[1])
            else:
                raise LeaseHeld(
                    f"{who[0]}.",
                    fix="Wait for it with --wait, or follow it with: celery-ops runs follow.",
                )
            await asyncio.sleep(_PAUSE)
        return Fence(token)

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        reads = None if holder is None else records.encode_lease(holder, fence.token).encode()
        try:
            await self.under(fence, partial(_tell, reads=reads))
        except Lost as error:
            raise LeaseLost(_LOST) from error

    async def release(self, fence: Fence) -> None:
        link = self._links.pop(fence.token, None)
        if link is None:
            return
        with contextlib.suppress(BrokerUnreachable):
            await link.write(_give_up)
        await link.close()

    async def holder(self) -> Holder | None:
        """Who holds it now; raise RecordUnreadable."""
        said = await self._said()
        return None if said is None else said[0]

    async def is_held_by(self, holder: Holder) -> bool:
        """Whether that very lease is there, wherever its run is by now."""
        return await self._token_of(holder) is not None

    async def break_it(self, holder: Holder) -> bool:
        """End the connection of that holder; False if the lease is not its any more."""
        token = await self._token_of(holder)
        if token is None:
            return False
        until = time.monotonic() + self._patience
        while await self._ring(token):
            now = await self._who()
            if now is not None and now[1] != token:
                break
            if time.monotonic() > until:
                raise BrokerUnreachable(f"The lease of {holder} is still there.", fix=self._stuck)
            await asyncio.sleep(_PAUSE)
        return True

    async def close(self) -> None:
        """Let go of it, as the end of the process does."""
        for link in self._links.values():
            await link.close()
        self._links.clear()

    async def _lock(self, holder: Holder, token: str) -> bool:
        """Take the lock if nobody has it, and say who we are."""
        heartbeat = self._ttl / _BEATS_A_TTL
        link = AmqpLink(self._address, "lease", heartbeat=heartbeat, one_life=True)
        reads = records.encode_lease(holder, token).encode()

        def work(session: Session) -> bool:
            channel = session.connection.channel()
            try:
                channel.queue_declare(LOCK, exclusive=True, auto_delete=False, arguments=CLASSIC)
            except ResourceLocked:
                return False
            channel.basic_consume(LOCK, no_ack=True, callback=partial(_answer, token))
            _tell(session, reads=reads, anew=True)
            self._prepare(session)
            return True

        try:
            is_ours = await link.write(work)
        except BaseException:
            await link.close()
            raise
        if is_ours:
            self._links[token] = link
        else:
            await link.close()
        return is_ours

    async def _is_held(self) -> bool:
        try:
            return await self._ring("")
        except BrokerFull:  # nothing can be published, and everything read
            return await self._reading.read(lambda session: session.exists(LOCK))

    async def _said(self) -> tuple[Holder, str] | None:
        """Who holds it now, and the token. Who looks at the same moment has it in hand."""
        until = time.monotonic() + _SAYS_WITHIN
        while await self._is_held():
            who = await self._who()
            if who is not None:
                return who
            if time.monotonic() > until:
                raise RecordUnreadable(_MUTE)
            await asyncio.sleep(_PAUSE)
        return None

    async def _token_of(self, holder: Holder) -> str | None:
        said = await self._said()
        return said[1] if said is not None and _is_same(said[0], holder) else None

    async def _ring(self, token: str) -> bool:
        """Tell the holder to let go if that is its token; False if nobody holds the lease."""
        return await self._ringing.read(partial(_rung, token=token))

    async def _who(self) -> tuple[Holder, str] | None:
        """Who has said so last, and the token; None if it cannot be read right now."""
        body = await self._reading.read(_read_who)
        if body is None:
            return None
        return records.decode_lease(body), str(json.loads(body)["token"])

    @property
    def _patience(self) -> float:
        """Seconds after which the broker has given up a connection that is not heard of."""
        return self._ttl / _BEATS_A_TTL * 3

    @property
    def _stuck(self) -> str:
        return (
            "Its holder does not let go, and the broker does not give its connection up:"
            " rabbitmqctl list_connections name client_properties tells which one it is"
            " (celery-ops: lease), rabbitmqctl close_connection ends it."
        )


def _answer(token: str, message: amqp.Message) -> None:
    """In the holder's thread: who knows the token may end its connection."""
    if body_of(message) == token.encode():
        raise ConnectionForced("another operator, or the next executor of this run, has ended it")


def _rung(session: Session, *, token: str) -> bool:
    with session.channel() as channel:
        return delivered(channel, amqp.Message(token, delivery_mode=1), routing_key=LOCK)


def _tell(session: Session, *, reads: bytes | None, anew: bool = False) -> None:
    """Say who holds the lease, for as long as it is prolonged."""
    arguments = {**CLASSIC, "x-max-length": 1, "x-expires": _EXPIRES}
    with session.channel() as channel:
        if anew:
            channel.queue_delete(WHO)  # of a holder that was killed, perhaps of another version
        channel.queue_declare(WHO, durable=True, auto_delete=False, arguments=arguments)
        if reads is not None:
            delivered(channel, amqp.Message(reads, delivery_mode=1), routing_key=WHO)


def _give_up(session: Session) -> None:
    with session.channel() as channel:
        channel.queue_delete(WHO)
        channel.queue_delete(LOCK)


def _read_who(session: Session) -> bytes | None:
    """Look at the one message and put it back; who looks at the same moment sees none."""
    with session.channel() as channel:
        channel.auto_decode = False
        try:
            message = channel.basic_get(WHO)
        except NotFound:
            return None
        if message is None:
            return None
        channel.basic_reject(message.delivery_tag, requeue=True)
        return body_of(message)


def _is_same(holder: Holder, other: Holder) -> bool:
    """The same lease, wherever its run is by now."""
    return (holder.run, holder.operator, holder.since) == (other.run, other.operator, other.since)
