"""The app on stand-ins, and what can be read on its screen."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_ops.tui.app import OpsApp
from tests.tui import fleets
from tests.tui.standins import FedCollector, HandClock, PaperDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from textual.pilot import Pilot

    from celery_ops.model import FleetSnapshot

SIZES = {"80x24": (80, 24), "200x50": (200, 50)}


@dataclass
class Opened:
    """An app that runs, with everything a test turns on it."""

    app: OpsApp
    pilot: Pilot[None]
    collector: FedCollector
    desk: PaperDesk
    clock: HandClock

    async def settle(self) -> None:
        """Until everything that was set going has been drawn."""
        for _ in range(3):
            await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def type(self, text: str) -> None:
        await self.press(*("space" if character == " " else character for character in text))

    async def see(self, *snapshots: FleetSnapshot) -> None:
        """Let the collector deliver them."""
        self.collector.put(*snapshots)
        await self.settle()

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.app.tick()
        await self.settle()

    @property
    def text(self) -> str:
        """What stands on the screen, line by line, without colours."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    def line(self, part: str) -> str:
        """The only line on the screen with that text in it."""
        found = [line for line in self.text.split("\n") if part in line]
        assert len(found) == 1, f"{part!r} in {len(found)} lines of\n{self.text}"
        return found[0]


@asynccontextmanager
async def opened(
    *first: FleetSnapshot,
    size: tuple[int, int] = (120, 40),
    desk: PaperDesk | None = None,
    ledger: Mapping[str, int | None] | None = None,
    **options: Any,
) -> AsyncIterator[Opened]:
    """The app, with its first snapshot drawn."""
    collector = FedCollector(*(first or (fleets.demo(),)))
    clock = HandClock()
    desk = desk or PaperDesk()

    async def read() -> Mapping[str, int | None]:
        return ledger or {}

    settings: dict[str, Any] = {"context": "demo", "protected": False, "read_only": False}
    settings.update(options)
    app = OpsApp(collector, desk, clock=clock, ledger=None if ledger is None else read, **settings)
    async with app.run_test(size=size, notifications=True) as pilot:
        there = Opened(app, pilot, collector, desk, clock)
        await there.settle()
        yield there
