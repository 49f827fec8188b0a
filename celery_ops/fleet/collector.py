"""The continuous watch.

Heartbeats and rounds become a stream of snapshots that does not end by itself.

A lost broker is shown as lost, with the last known fleet ageing, and retried with growing pauses
until it is back or `close` is called. Anything else that goes wrong is a bug and reaches whoever
reads the stream.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Clock

FIRST_PAUSE = 0.5
"""Seconds until a lost broker is tried again; doubled each time."""
LONGEST_PAUSE = 10.0


async def look(
    surveyor: Surveyor, *, timeout: float = 1.0, patience: float | None = None
) -> FleetSnapshot:
    """One picture, complete as soon as everybody answered: a roll call needs no heartbeats.

    A second one where messages are held by nobody visible: these need two rounds to be told of.
    Raise BrokerUnreachable. What did not answer within `timeout` seconds makes it incomplete; hosts
    are waited for `patience` seconds, if that is given.
    """
    return await surveyor.refresh_surely(timeout=timeout, patience=patience)


class Collector:
    """Watches one context.

    `latest` is the newest snapshot; `snapshots()` tells when there is another.
    """

    def __init__(
        self,
        surveyor: Surveyor,
        *,
        clock: Clock,
        interval: float = 1.0,
        timeout: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`interval`: seconds from one refresh to the next. `chance` spreads retries; 0 to 1."""
        self._surveyor = surveyor
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._chance = chance
        self._news = asyncio.Condition()
        self._latest: FleetSnapshot | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._ended = False
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def latest(self) -> FleetSnapshot | None:
        """The newest snapshot; None until the first round or the first failure."""
        return self._latest

    def start(self) -> None:
        """Begin to watch. Nothing happens if it has begun already."""
        if self._tasks or self._ended:
            return
        loops = (self._refresh_for_ever(), self._listen_for_ever())
        self._tasks = tuple(asyncio.ensure_future(self._guarded(loop)) for loop in loops)

    async def snapshots(self) -> AsyncIterator[FleetSnapshot]:
        """Each newest snapshot in turn, the current one first, until `close`.

        Slow readers skip some.
        """
        self.start()
        shown: FleetSnapshot | None = None
        while True:
            async with self._news:
                while not self._ended and self._latest is shown:
                    await self._news.wait()
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return
                shown = self._latest
            if shown is not None:
                yield shown

    async def close(self) -> None:
        """Stop at once, also in the middle of a retry's pause; ends every `snapshots()`."""
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._surveyor.close()
        await self._end(None)

    async def _guarded(self, loop: Coroutine[object, object, None]) -> None:
        """A loop that dies must not leave old numbers looking alive.

        Its error goes to the readers.
        """
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await self._end(error)
            raise

    async def _end(self, failure: BaseException | None) -> None:
        async with self._news:
            self._ended = True
            self._failure = self._failure or failure
            self._news.notify_all()

    async def _publish(self, snapshot: FleetSnapshot) -> None:
        async with self._news:
            self._latest = snapshot
            self._news.notify_all()

    async def _refresh_for_ever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            begun = self._clock.monotonic()
            try:
                snapshot = await self._surveyor.refresh(timeout=self._timeout)
            except BrokerUnreachable as error:
                await self._publish(self._surveyor.lost(error))
                await self._clock.sleep(self._spread(pause))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            await self._publish(snapshot)
            taken = self._clock.monotonic() - begun
            await self._clock.sleep(max(0.0, self._interval - taken))

    async def _listen_for_ever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async for heartbeat in self._surveyor.broker.heartbeats():
                    pause = FIRST_PAUSE
                    self._surveyor.hear(heartbeat)
            except BrokerUnreachable:
                # The refresh loop meets the same broker and is the one that says so.
                pass
            await self._clock.sleep(self._spread(pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _spread(self, pause: float) -> float:
        """Between half of the pause and all of it, so that many watchers do not return at once."""
        return pause * (1 + self._chance()) / 2
