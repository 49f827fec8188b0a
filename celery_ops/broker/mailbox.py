"""Where the workers' replies arrive, and how questions are sent there from.

Replies go to a list of this client's own, through a binding of an exchange that all clients share.
Both carry an expiry from the start, so that nothing is left of a client that was killed:

* The list is created before its binding and begins with a sentinel. A list never becomes empty,
  hence never vanishes early and is never created anew, without an expiry, by a worker's LPUSH.
* The binding expires well before the list. A worker that answers after that finds no binding, and
  kombu drops the reply.
* Every client prolongs the shared binding, so it takes those out of it whose lists will expire soon
  (`scripts.PUBLISH`, in the same step).
* A list that a worker makes anew all the same gets its expiry from whoever comes across it
  (`expire`).

The sentinel rules a blocking pop out: it would pop the sentinel. So the list is read again and
again while somebody waits; the pause between two reads is an eighth of the time waited so far,
within 1 and 25 ms. Three simulated nodes on the same machine: 1.2 reads and 1.9 ms a round, where a
blocking pop on a list that would outlive us took 0.7 ms; waiting in vain costs 40 reads a second.
One read is a MULTI of LRANGE and LTRIM, and the LTRIM of a list without replies changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING

from celery_ops.broker import messages, scripts
from celery_ops.broker.names import REPLY_EXCHANGE
from celery_ops.broker.refusals import Lost
from celery_ops.broker.rounds import ROLL_CALL, Memory, Next, Round, in_order
from celery_ops.errors import BrokerUnreachable, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire, Word
    from celery_ops.model import Targets
    from celery_ops.ports import Clock, Fence

Call = tuple[str, "Mapping[str, object]"]
"""A control method and its arguments."""

_SENTINEL = "celery-ops"
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.025
_AT_A_TIME = 200
"""So many replies are decoded before the event loop gets its turn."""
_FAREWELL = 1.0
"""So many seconds a close may take."""
_ENDING = 5.0
"""Seconds that the list lives on after a close: for replies that are on their way."""


class Mailbox:
    """Sends questions and orders, and collects their replies; any number of rounds at once."""

    def __init__(self, wire: Wire, names: Names, clock: Clock, *, expiry: float) -> None:
        self._wire = wire
        self._names = names
        self._clock = clock
        self._expiry = expiry
        self._memory = Memory()
        self._client = uuid.uuid4().hex
        self._list = names.key(names.reply_list(self._client), 0)
        self._member = names.member(self._client, names.reply_list(self._client))
        self._lamport = 0
        self._opened = False
        self._rounds: dict[Round, asyncio.Event] = {}
        self._reader: asyncio.Task[None] | None = None
        self._lost: BrokerUnreachable | None = None
        self._last_arrival = 0.0
        self._keep_at = 0.0

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
        try:
            current = await self._begin(ordered, to=to, timeout=timeout, known=known, fence=fence)
        except Lost:
            # Perhaps it was asked. To ask again, under new tickets, does no harm; to order would.
            if fence is not None:
                raise
            current = await self._begin(ordered, to=to, timeout=timeout, known=known, fence=fence)
        try:
            await self._collect(current, to=to, timeout=timeout)
        finally:
            del self._rounds[current]
        return current

    async def _begin(
        self,
        calls: Sequence[Call],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str],
        fence: Fence | None,
    ) -> Round:
        """Send the calls of a new round, which is listened for from before they are out."""
        tickets = {str(uuid.uuid4()): call for call in calls}
        current = Round(
            {ticket: method for ticket, (method, _) in tickets.items()},
            targets=None if to is None else to.names,
            known=known,
            memory=self._memory,
            started=time.monotonic(),
            timeout=timeout,
        )
        self._rounds[current] = asyncio.Event()
        try:
            counts = await self._publish(tickets, to=to, timeout=timeout, fence=fence)
        except BaseException:
            del self._rounds[current]
            raise
        current.published(counts, time.monotonic())
        return current

    async def close(self) -> None:
        """Take the binding away; the list lives on for a moment, for replies under way."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        if not self._opened:
            return
        ending = max(1, round(min(self._expiry, _ENDING) * 1000))
        commands: list[tuple[Word, ...]] = [
            ("SREM", self._names.binding(REPLY_EXCHANGE), self._member),
            ("PEXPIRE", self._list, ending),
        ]
        # A broker that does not answer needs no help: everything of ours expires.
        with contextlib.suppress(BrokerUnreachable, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._wire.write_many(commands)

    async def expire(self, lists: Collection[str]) -> None:
        """Give those of our clients' lists an expiry that have none.

        A worker that is stopped right between looking a binding up and pushing its reply, for
        longer than the list lives, makes the list anew. Nobody can hinder it, so whoever comes
        across such a list mends it.
        """
        keys = sorted(lists)
        if not keys:
            return
        lives = await self._wire.read_many([("PTTL", key) for key in keys], at_once=False)
        immortal = [key for key, left in zip(keys, lives, strict=True) if left == -1]
        if immortal:
            expiry = round(self._expiry * 1000)
            await self._wire.write_many([("PEXPIRE", key, expiry) for key in immortal])

    async def _publish(
        self,
        tickets: Mapping[str, Call],
        *,
        to: Targets | None,
        timeout: float,
        fence: Fence | None = None,
    ) -> dict[str, int]:
        """Send them, and say how many listeners each reached."""
        # Workers judge it by their own clocks, and ours may have been set since this process began.
        expires = max(self._clock.now().timestamp(), time.time()) + timeout
        published = [
            messages.control_message(
                method,
                arguments,
                destination=None if to is None else to.names,
                reply_to=messages.ReplyTo(REPLY_EXCHANGE, self._client, ticket),
                expires=expires,
                clock=self._tick(),
                exchange=self._names.pidbox,
            )
            for ticket, (method, arguments) in tickets.items()
        ]
        counts = await self._run_publish(published, fence)
        self._read_while_waited_for()
        return dict(zip(tickets, counts, strict=True))

    async def _run_publish(self, published: Sequence[str], fence: Fence | None) -> list[int]:
        names = self._names
        channels = names.control_channels
        counts = await self._wire.write(
            "EVAL",
            scripts.PUBLISH,
            3,
            names.binding(REPLY_EXCHANGE),
            self._list,
            names.lease,
            fence.token if fence else "",
            names.prefix,
            names.separator,
            names.suffix(0),
            self._member,
            _SENTINEL,
            round(self._expiry * 1000),
            round(self._expiry * 1000 / 3),
            len(channels),
            *channels,
            *published,
        )
        if counts is None:
            raise LeaseLost("The lease of this context is no longer ours; nothing was sent.")
        self._opened = True
        self._keep_at = time.monotonic() + self._expiry / 4
        return [int(count) for count in counts]

    async def _collect(self, current: Round, *, to: Targets | None, timeout: float) -> None:
        arrived = self._rounds[current]
        while (step := current.next(time.monotonic())) is not Next.OVER:
            if step is Next.NAMES:
                await self._look_closer(current, to=to, timeout=timeout)
                continue
            arrived.clear()
            if self._lost is not None:
                raise self._lost
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(current.look_again_at() - time.monotonic()):
                    await arrived.wait()

    async def _look_closer(self, current: Round, *, to: Targets | None, timeout: float) -> None:
        bound = await self.bound_nodes() if to is None else frozenset[str]()
        current.look_closer(bound)
        if current.wants_roll_call:
            ticket = str(uuid.uuid4())
            current.call_roll(ticket)
            call: dict[str, tuple[str, Mapping[str, object]]] = {ticket: (ROLL_CALL, {})}
            current.published(await self._publish(call, to=to, timeout=timeout), time.monotonic())

    async def bound_nodes(self) -> frozenset[str]:
        """Names bound to the control exchange, the dead included."""
        members = await self._wire.read("SMEMBERS", self._names.binding(self._names.pidbox))
        entries = (self._names.bound(member.decode(errors="replace")) for member in members)
        nodes = (self._names.node(entry[1]) for entry in entries if entry is not None)
        return frozenset(node for node in nodes if node)

    def _read_while_waited_for(self) -> None:
        self._last_arrival = time.monotonic()
        if self._reader is None or self._reader.done():
            self._lost = None
            self._reader = asyncio.create_task(self._read(), name="celery-ops replies")

    async def _read(self) -> None:
        """Hand replies out while a round waits. A task of its own: no asker can cancel it."""
        try:
            while self._rounds:
                waited = time.monotonic() - self._last_arrival
                await asyncio.sleep(max(_SHORTEST_PAUSE, min(waited / 8, _LONGEST_PAUSE)))
                await self._fetch()
                await self._keep()
        except BrokerUnreachable as error:
            self._lost = error
            for arrived in self._rounds.values():
                arrived.set()

    async def _fetch(self) -> None:
        """Take what has arrived, oldest first."""
        replies, trimmed = await self._wire.write_many(
            [("LRANGE", self._list, 0, -2), ("LTRIM", self._list, -1, -1)]
        )
        for refused in (replies, trimmed):
            if isinstance(refused, Exception):
                raise self._wire.refused(refused)
        if replies:
            self._last_arrival = time.monotonic()
        for index, raw in enumerate(reversed(replies), 1):
            self._hand_out(raw)
            if index % _AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _hand_out(self, raw: bytes) -> None:
        read = messages.read_reply(raw, self._clock.now())
        if read is None:
            return
        ticket, reply = read
        for current, arrived in self._rounds.items():
            if ticket in current.tickets:
                current.add(ticket, reply, time.monotonic())
                arrived.set()
                return
        self._memory.heard_late(reply.node)

    async def _keep(self) -> None:
        """A round may wait for longer than the expiry: prolong list and binding meanwhile."""
        if time.monotonic() >= self._keep_at:
            await self._run_publish([], None)

    def _tick(self) -> int:
        self._lamport += 1
        return self._lamport
