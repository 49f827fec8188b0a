"""Connections that wait at a queue's lists in Redis before any worker that begins to.

Redis gives what comes to whoever has waited longest. So a worker that begins to consume a queue
gets nothing of it before one message has come for each connection that stands in line already; and
what these get is moved by the server in one step, to a queue where no worker consumes.

There is one line for each list, and in it a connection for each message that comes in the time
that the slowest worker takes to be told not to consume: no more than the server has room for. While
messages wait in a list nobody stands there: who comes is served at once, first in line or not, and
many are moved sooner by one script than by one connection each.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.broker import moving_scripts
from celery_ops.broker.refusals import Refused
from celery_ops.broker.wire import DEADLINE
from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import IN_LINE_FOR

if TYPE_CHECKING:
    from types import TracebackType

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire

LASTS = 2.5
"""Seconds of what comes that a line is to be enough for: pools of gevent and eventlet heed an order
up to 2 s after it came (FACTS 3).
"""
LEAST, MOST, MOST_OF_ALL = 2, 128, 256
"""Connections in a line, and in all: each is a file of this process, which may have 1,024."""
SHARE = 4
"""One in so many of the connections that the server has room for, at most."""
ROOM_UNTOLD = 32
"""Connections in all lines, of a server that does not tell its room."""
COUNTED_EVERY = 1.0
AGAIN_AFTER, REFUSED_FOR = 2.0, 30.0
"""Seconds until another try, of a server that is away, and of one that will not have it there."""


class FirstInLine:
    """Implements `ports.FirstInLine` on one Redis."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names
        self._lines: dict[str, _Line] = {}
        self._standing: list[asyncio.Task[None]] = []
        self._ends = asyncio.Event()
        self._added = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FirstInLine:
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Those in line leave it as their time is over: one that hangs up might be given a message
        still, after all has been put back.
        """
        self._ends.set()
        for line in self._lines.values():
            line.is_empty.set()
        if self._keeping is not None:
            self._keeping.cancel()
            (ended,) = await asyncio.gather(self._keeping, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended
        await asyncio.gather(*self._standing)
        # Whoever divides next, or releases, finds there what a broker that is away keeps.
        with contextlib.suppress(BrokerUnreachable):
            for line in self._lines.values():
                await self._wire.write("EVAL", moving_scripts.PUT_BACK, 2, line.into, line.key)

    def add(self, queue: str, into: str) -> None:
        for key, place in zip(self._names.keys(queue), self._names.keys(into), strict=True):
            self._lines.setdefault(key, _Line(key, place))
        self._added.set()

    def found(self, key: str, waiting: int) -> None:
        """So many messages wait in that list."""
        line = self._lines.get(key)
        if line is None or self._ends.is_set():
            return
        if waiting:
            line.is_empty.clear()
        else:
            line.is_empty.set()

    # --- how many wait ---

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop()
        counted = clock.time()
        while True:
            now = clock.time()
            for line in self._lines.values():
                line.count(now - counted)
            counted = now
            self._staff(await self._room())
            await _set_within(COUNTED_EVERY, self._added)
            self._added.clear()

    def _staff(self, room: int) -> None:
        """Each line gets one before any gets more; who is too many leaves as its time is over."""
        lines = self._lines.values()
        spare = room - len(lines)
        for line in lines:
            more = max(0, min(line.wanted - 1, spare))
            line.most = 1 + more if spare >= 0 else 0
            spare -= more
            while line.waiting < line.most:
                line.waiting += 1
                self._standing.append(asyncio.create_task(self._stand(line)))

    async def _room(self) -> int:
        """Connections that all lines may have."""
        ours = sum(line.waiting for line in self._lines.values())
        try:
            told = await self._wire.read("INFO", "clients")
            free = int(told["maxclients"]) - (int(told["connected_clients"]) - ours)
            return min(MOST_OF_ALL, max(0, free) // SHARE)
        except (BrokerUnreachable, KeyError):
            return ROOM_UNTOLD

    # --- who waits ---

    async def _stand(self, line: _Line) -> None:
        """Until the line has enough without it."""
        while not self._ends.is_set():
            try:
                await self._wait(line)
            except Refused:
                await _set_within(REFUSED_FOR, self._ends)
            except BrokerUnreachable:
                await _set_within(AGAIN_AFTER, self._ends)
            else:
                return

    async def _wait(self, line: _Line) -> None:
        async with self._wire.connection() as connection:
            while not self._ends.is_set() and not line.is_left():
                if not line.is_empty.is_set():
                    await line.is_empty.wait()
                    continue
                async with asyncio.timeout(IN_LINE_FOR + DEADLINE):
                    await connection.send_command("BRPOPLPUSH", line.key, line.into, IN_LINE_FOR)
                    answer = await connection.read_response()
                line.came += answer is not None


@dataclass(slots=True)
class _Line:
    """Who waits at one list, and where what they get goes."""

    key: str
    into: str
    came: int = 0
    """Messages since they were counted last."""
    wanted: int = LEAST
    most: int = 0
    waiting: int = 0
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)
    """As far as it was looked at; nobody stands in line while it is not."""

    def __post_init__(self) -> None:
        self.is_empty.set()

    def is_left(self) -> bool:
        """Whether there are too many: then who asks is in it no more."""
        is_too_many = self.waiting > self.most
        self.waiting -= is_too_many
        return is_too_many

    def count(self, seconds: float) -> None:
        """It grows at once, and shrinks slowly."""
        enough = LEAST + int(self.came / max(seconds, COUNTED_EVERY) * LASTS)
        self.wanted = min(MOST, max(enough, self.wanted - 1))
        self.came = 0


async def _set_within(seconds: float, event: asyncio.Event) -> None:
    """Wait for it, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
