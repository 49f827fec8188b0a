"""How long a key press takes to its frame: `python -m tests.benchmarks.keys [--view queues]`.

1,000 workers and 10,000 queues at 200x50, a new snapshot of all of them four times a second. To
reach: 50 ms at the 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from typing import TYPE_CHECKING

from textual import events

from celery_ops.fleet.clock import SystemClock
from celery_ops.tui.app import OpsApp
from celery_ops.tui.pauses import make_full_collections_rare
from tests.tui import fleets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.model import FleetSnapshot

SNAPSHOT_EVERY = 0.25
VIEWS = {"workers": "2", "queues": "3"}
KEYS = {
    "move": ("down", "down", "pagedown", "up"),
    "mark": ("space", "space"),
    "sort": ("greater_than_sign", "i", "less_than_sign"),
    "view": ("1", ""),
    "filter": ("slash", "1", "7", "escape"),
}


class Endless:
    """Four snapshots, over and over."""

    def __init__(self) -> None:
        self._snapshots = [fleets.thousand() for _ in range(4)]

    async def snapshots(self) -> AsyncIterator[FleetSnapshot]:
        for snapshot in itertools.cycle(self._snapshots):
            yield snapshot
            await asyncio.sleep(SNAPSHOT_EVERY)


class Timed(OpsApp):
    """Tells when a frame was drawn."""

    drawn = asyncio.Event()

    def post_display_hook(self) -> None:
        self.drawn.set()


async def press(app: Timed, key: str) -> float:
    """Milliseconds until the next frame after the key was handled."""
    app.drawn.clear()
    began = time.perf_counter()
    app.post_message(events.Key(key, key if len(key) == 1 else None))
    await app.drawn.wait()
    return (time.perf_counter() - began) * 1000


async def measure(rounds: int, view: str) -> dict[str, list[float]]:
    """Milliseconds of each press in the view on that key."""
    app = Timed(
        Endless(), None, context="many", protected=False, read_only=False, clock=SystemClock()
    )
    make_full_collections_rare()
    took: dict[str, list[float]] = {name: [] for name in KEYS}
    async with app.run_test(size=(200, 50)) as pilot:
        await pilot.pause(1.0)
        await pilot.press(view)
        for _ in range(rounds):
            for name, keys in KEYS.items():
                for key in keys:
                    took[name].append(await press(app, key or view))
                    await asyncio.sleep(0.013)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--view", choices=VIEWS, default="workers")
    chosen = parser.parse_args()
    took = asyncio.run(measure(chosen.rounds, VIEWS[chosen.view]))
    took["all"] = [one for each in took.values() for one in each]
    for name, each in took.items():
        cuts = statistics.quantiles(each, n=100)
        print(f"{name:8} median {cuts[49]:6.1f} ms   p99 {cuts[98]:6.1f} ms   ({len(each)} keys)")


if __name__ == "__main__":
    main()
