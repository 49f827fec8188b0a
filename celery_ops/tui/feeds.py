"""What comes in by itself: snapshots, the demo's ledger, the list of runs. Each becomes a message.

A feed that fails says so and goes on; one that ended in silence would leave old numbers looking
alive.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from celery_ops.errors import OpsError
from celery_ops.model import Reading
from celery_ops.tui.messages import (
    LedgerRead,
    LogBroke,
    LogRead,
    MessagesRead,
    RunbooksListed,
    RunsListed,
    SnapshotTaken,
    WatchEnded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message import Message

    from celery_ops.model import ServiceRef
    from celery_ops.ports import Clock
    from celery_ops.tui.aside import Aside
    from celery_ops.tui.seams import (
        Collector,
        Desk,
        LedgerReader,
        Library,
        LogReader,
        MessageReader,
    )

PAUSE = 2.0
"""Seconds before a watch that ended is begun again, and between two lists of runs."""
LEDGER_EVERY = 1.0
RUNBOOKS_EVERY = 30.0
LOG_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a log that broke off is begun again; the last for ever."""


class Feeds:
    """The endless loops, run by the app as its workers."""

    def __init__(self, post: Callable[[Message], object], clock: Clock) -> None:
        self._post = post
        self._clock = clock

    async def watch(self, collector: Collector) -> None:
        """Snapshots, for ever. The collector retries a lost broker by itself."""
        while True:
            try:
                async for snapshot in collector.snapshots():
                    self._post(SnapshotTaken(snapshot))
                why = "the watch of the fleet ended"
            except OpsError as error:
                why = error.says
            self._post(WatchEnded(Reading(why, self._clock.now())))
            await self._clock.sleep(PAUSE)

    async def read_ledger(self, ledger: LedgerReader) -> None:
        """The demo's counts, once a second."""
        while True:
            try:
                counts = await ledger()
                self._post(LedgerRead(Reading(counts, self._clock.now())))
            except OpsError as error:
                self._post(LedgerRead(None, error.says))
            await self._clock.sleep(LEDGER_EVERY)

    async def list_runs(self, desk: Desk, aside: Aside) -> None:
        """This user's runs, whoever started them."""
        while True:
            self._post(RunsListed(await aside.call(desk.runs)))
            await self._clock.sleep(PAUSE)

    async def list_runbooks(self, library: Library, aside: Aside) -> None:
        """The runbooks that there are, again and again: their files are the user's to change."""
        while True:
            entries = await aside.call(library.entries)
            found = {one.name: one.runbook.params for one in entries if one.runbook is not None}
            self._post(RunbooksListed(found))
            await self._clock.sleep(RUNBOOKS_EVERY)

    async def look(self, reader: MessageReader, queue: str, limit: int) -> None:
        """What waits in a queue, once."""
        try:
            look = await reader.look(queue, limit)
        except OpsError as error:
            self._post(MessagesRead(None, " ".join(str(error).split())))
        else:
            self._post(MessagesRead(Reading(look, self._clock.now())))

    async def follow_log(self, reader: LogReader, service: ServiceRef) -> None:
        """A log, until it is cancelled; begun again, ever more seldom, when it broke off."""
        attempts, broke_at = 0, None
        while True:
            try:
                async with aclosing(reader.follow(service)) as batches:
                    async for lines in batches:
                        attempts, broke_at = 0, None
                        taken = asyncio.Event()
                        self._post(LogRead(lines, self._clock.now(), taken))
                        await taken.wait()
                why = "the log ended"
            except OpsError as error:
                why = " ".join(str(error).split())
            now = self._clock.now()
            broke_at = broke_at or now
            pause = LOG_PAUSES[min(attempts, len(LOG_PAUSES) - 1)]
            attempts += 1
            self._post(LogBroke(why, broke_at, now, pause))
            await self._clock.sleep(pause)
