"""What comes in by itself: snapshots, the demo's ledger, the list of runs. Each becomes a message.

A feed that fails says so and goes on; one that ended in silence would leave old numbers looking
alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.errors import OpsError
from celery_ops.model import Reading
from celery_ops.tui.messages import LedgerRead, RunsListed, SnapshotTaken, WatchEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.message import Message

    from celery_ops.ports import Clock
    from celery_ops.tui.aside import Aside
    from celery_ops.tui.seams import Collector, Desk, LedgerReader

PAUSE = 2.0
"""Seconds before a watch that ended is begun again, and between two lists of runs."""
LEDGER_EVERY = 1.0


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
