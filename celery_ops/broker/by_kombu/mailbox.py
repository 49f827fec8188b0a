"""Asks workers over kombu, and waits for their replies.

A worker on these transports looks for control messages once in a while (`polling_interval`, a
second by default) and so takes that long to begin to answer: it is added to every timeout. Nobody
counts who listens, and a worker that is gone may stay bound for ever, so the names that are bound
are waited for once, and then only if they are heard again (`rounds`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.broker.rounds import ROLL_CALL, Memory, Next, Round, in_order

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.broker.by_kombu.link import KombuLink
    from celery_ops.broker.by_kombu.post import Post
    from celery_ops.broker.mailbox import Call
    from celery_ops.model import Targets
    from celery_ops.ports import Clock, Reply

_BESIDES_POLLING = 0.5
_PAUSE = 0.02
"""Seconds between two looks for replies."""
_SHARE = 4
"""A look that takes long is not repeated before so many times as long."""


class KombuMailbox:
    """Sends questions and collects their replies; any number of rounds at once."""

    def __init__(self, link: KombuLink, post: Post, clock: Clock, *, polling: float) -> None:
        """`polling` is in seconds: workers look for questions that often."""
        self._link = link
        self._post = post
        self._clock = clock
        self._patience = polling + _BESIDES_POLLING
        self._memory = Memory()
        self._rounds: list[Round] = []
        self._looking = asyncio.Lock()
        self._has_sent = False

    async def nodes(self) -> frozenset[str]:
        return await self._link.call(self._post.bound)

    async def round(
        self,
        calls: Sequence[Call],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        """Send (method, arguments) pairs at once; return when `rounds` says that it is over."""
        ordered = in_order(calls)
        tickets = {str(uuid.uuid4()): call for call in ordered}
        timeout += self._patience
        bound = await self.nodes()
        reached = bound if to is None else bound & frozenset(to.names)
        current = Round(
            {ticket: method for ticket, (method, _) in tickets.items()},
            targets=None if to is None else to.names,
            known=known,
            memory=self._memory,
            started=time.monotonic(),
            timeout=timeout,
            is_counted=False,
        )
        self._rounds.append(current)
        try:
            await self._send(current, tickets, to, reached, timeout)
            await self._collect(current, to, bound, reached, timeout)
        finally:
            self._rounds.remove(current)
            if any(reached - question.names for question in current.asked.values()):
                self._link.later(partial(self._post.withdraw, tickets=current.tickets))
        return current

    def close(self) -> None:
        """Leave nothing that is ours, as soon as the link comes to it."""
        if self._has_sent:
            self._link.later(self._post.close)

    async def _send(
        self,
        current: Round,
        tickets: Mapping[str, Call],
        to: Targets | None,
        reached: frozenset[str],
        timeout: float,
    ) -> None:
        send = partial(
            self._post.send,
            tickets=tickets,
            to=None if to is None else to.names,
            reached=reached,
            expires=time.time() + timeout,
        )
        if reached:
            self._has_sent = True
            await self._link.call(send)
        # Where nobody has a mailbox, nobody can answer.
        listeners = None if reached else 0
        current.published(dict.fromkeys(tickets, listeners), time.monotonic())

    async def _collect(
        self,
        current: Round,
        to: Targets | None,
        bound: frozenset[str],
        reached: frozenset[str],
        timeout: float,
    ) -> None:
        while (step := current.next(time.monotonic())) is not Next.OVER:
            if step is Next.NAMES:
                current.look_closer(bound)
                if current.wants_roll_call:
                    ticket = str(uuid.uuid4())
                    current.call_roll(ticket)
                    await self._send(current, {ticket: (ROLL_CALL, {})}, to, reached, timeout)
                continue
            await self._look()

    async def _look(self) -> None:
        """Hand out the replies that have come; without any, make a pause."""
        async with self._looking:
            begun = time.monotonic()
            found = await self._link.call(partial(self._post.receive, now=self._clock.now))
            for ticket, reply in found:
                self._hand_out(ticket, reply)
            if not found:
                await asyncio.sleep(max(_PAUSE, _SHARE * (time.monotonic() - begun)))

    def _hand_out(self, ticket: str, reply: Reply) -> None:
        for current in self._rounds:
            if ticket in current.tickets:
                current.add(ticket, reply, time.monotonic())
                return
        self._memory.heard_late(reply.node)
