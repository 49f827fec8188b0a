"""What proves that no scheduler sends, or that one does: processes on all hosts, and marks that
schedulers leave in what they send.

A message is only seen while it waits: one that an idle worker takes at once is not. So a mark that
is seen proves a sender, and none that is seen proves nothing by itself: the processes do.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.fleet import beats
from celery_ops.model import parked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from celery_ops.model import Beat, FleetSnapshot, StoredMessage
    from celery_ops.runbook.stage import Stage

LOOKS_EVERY = 0.25
NEWEST = 200
"""So many of a queue's messages are looked at: those that came last."""
MOST_QUEUES = 50
_LISTED_EVERY = 4
"""Looks after which it is asked again which queues there are: an empty one may not be known."""
_SHOWN = 3


class Marks:
    """The messages of schedulers that came since the first look, as far as they were seen."""

    def __init__(self, stage: Stage, snapshot: FleetSnapshot) -> None:
        self._stage = stage
        self._names = dict.fromkeys(one.name for one in snapshot.queues)
        self._known: set[str | None] | None = None
        self._looks = 0
        self.found: list[StoredMessage] = []

    @property
    def _queues(self) -> list[str]:
        return [name for name in self._names if parked(name) is None]

    @property
    def senders(self) -> tuple[str, ...]:
        """Who sent them; one that does not say so is not told apart."""
        return tuple(dict.fromkeys(one.origin or "somebody" for one in self.found))

    async def look(self) -> None:
        """Take note of what is new; the first time, of what is there. A broker that is away for a
        moment shows nothing.
        """
        seen: list[StoredMessage] = []
        with suppress(BrokerUnreachable, PreconditionFailed):
            messages = self._stage.surveyor.broker.messages
            if messages.marks:
                return  # a look would mark each message as redelivered
            if self._looks % _LISTED_EVERY == 0:
                reading = await self._stage.surveyor.broker.queues(self._names)
                self._names |= dict.fromkeys(one.name for one in reading.queues)
            for queue in self._queues[:MOST_QUEUES]:
                last = max(0, await messages.count(queue) - NEWEST)
                seen += await messages.peek(queue, skip=last, count=NEWEST)
            self._looks += 1
        # What a worker gave back was sent before, and a retry bears the mark of its first attempt.
        sent = [one for one in seen if one.by_beat and not one.retries and not one.redelivered]
        if self._known is None:
            self._known = {one.id for one in sent} if self._looks else None
            return
        fresh = [one for one in sent if one.id not in self._known]
        self._known |= {one.id for one in fresh}
        self.found += fresh

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look again and again meanwhile."""
        await self.look()
        looking = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])
        if not looking.cancelled():
            looking.result()
        await self.look()

    async def _watch(self) -> None:
        while True:
            await self._stage.clock.sleep(LOOKS_EVERY)
            await self.look()

    def told(self) -> str:
        """What was seen, and how much that is worth."""
        if not self._looks:
            return "messages were not looked at: that would mark them here"
        number = len(self._queues)
        where = f"{counted(self._looks, 'look')} at {counted(min(number, MOST_QUEUES), 'queue')}"
        if number > MOST_QUEUES:
            where += f" of {number}"
        if not self.found:
            return (
                f"no message with a scheduler's mark was seen to come ({where}; what an idle"
                " worker takes at once is not seen, and before Celery 5.7 nothing is marked)"
            )
        tasks = dict.fromkeys(one.task or "a message" for one in self.found)
        return f"{_some(tasks)} came from {_some(self.senders)} ({where})"


async def look(stage: Stage) -> FleetSnapshot:
    """The fleet as it is now, with all processes on its hosts."""
    await stage.surveyor.find_processes()
    return await stage.look()


def still_there(snapshot: FleetSnapshot) -> str:
    """The schedulers that run; empty: none was seen to."""
    return _some(_name(one) for group in beats.senders(snapshot) for one in group)


def seen_on(snapshot: FleetSnapshot) -> str:
    """On which hosts no process can have been overlooked, and on which one can."""
    names = [host.name for host in snapshot.hosts]
    blind = beats.blind(snapshot.hosts, names)
    unseen = {one.partition(":")[0] for one in blind}
    seen = [name for name in names if name not in unseen]
    says = f"no process of one on {', '.join(seen)}" if seen else "no processes could be seen"
    others = _some(map(_name, beats.doubtful(snapshot)))
    says += f" (but {others}, which may be another deployment's)" if others else ""
    return f"{says}; not known: {'; '.join(blind)}" if blind else says


def _name(beat: Beat) -> str:
    return f"{beat.name}{'' if beat.pid is None else f' (pid {beat.pid})'}"


def _some(names: Iterable[str]) -> str:
    known: Sequence[str] = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return ", ".join(known[:_SHOWN]) + more
