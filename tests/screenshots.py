"""Makes the pictures in `screenshots/` from the real demo: `python -m tests.screenshots`.

Starts a demo, opens the app on it without a terminal, restarts two workers under load and
photographs each screen on the way. Needs `rsvg-convert` (librsvg2-bin) and the font Fira Code
(fonts-firacode).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops import demo as demos
from celery_ops.cli import engine
from celery_ops.cli.context import Chosen
from celery_ops.cli.deployment import opened
from celery_ops.config import contexts
from celery_ops.fleet.collector import Collector
from celery_ops.fleet.logs import Logs
from celery_ops.fleet.masking import Masks
from celery_ops.fleet.peeker import Peeker
from celery_ops.tui.app import OpsApp
from celery_ops.tui.theme import DARK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from textual.pilot import Pilot

    from celery_ops.demo import Demo

PICTURES = Path(__file__).parent.parent / "screenshots"
SIZE = (116, 30)
PATIENCE = 60.0
"""Seconds until a screen must show what its picture is to show."""
WARM_UP = 25.0
"""Seconds of load before the first picture: a ledger of three tasks proves nothing."""
CELL = 12.2
"""Width of a character in the drawings of Rich, in pixels, at its font size of 20."""

_TEXT = re.compile(
    r'<text class="(?P<kind>[^"]*)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="[^>]*>'
    r"(?P<words>[^<]*)</text>"
)
_ENTITY = re.compile(r"&[^;]+;")


class Camera:
    """The app on a demo, and pictures of it."""

    def __init__(self, pilot: Pilot[None], directory: Path) -> None:
        self._pilot = pilot
        self._directory = directory

    @property
    def text(self) -> str:
        strips = self._pilot.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips)

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)
        await self._pilot.pause()

    async def until(self, shown: Callable[[str], bool], what: str) -> None:
        """Wait until the screen shows it; raise TimeoutError."""
        until = time.monotonic() + PATIENCE
        while not shown(self.text):
            if time.monotonic() > until:
                raise TimeoutError(f"the screen never showed {what}:\n{self.text}")
            await self._pilot.pause(0.1)

    async def shoot(self, name: str) -> None:
        await self._pilot.pause()
        drawing = aligned(self._pilot.app.export_screenshot(title=f"celery-ops: {name}"))
        target = self._directory / f"{name}.png"
        command = ("rsvg-convert", "--zoom", "1.2", "-o", str(target), "/dev/stdin")
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE)
        await process.communicate(drawing.encode())
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")


def aligned(drawing: str) -> str:
    """Every word at its own column: librsvg does not stretch texts to their length."""
    drawing = drawing.replace("&#160;", " ").replace("font-size: 20px", "font-size: 20.333px")
    return _TEXT.sub(_words, drawing)


def _words(match: re.Match[str]) -> str:
    found, column = [], 0
    for word in re.findall(r" +|[^ ]+", match["words"]):
        if not word.isspace():
            x = float(match["x"]) + column * CELL
            place = f'x="{x:.1f}" y="{match["y"]}"'
            found.append(f'<text class="{match["kind"]}" {place}>{word}</text>')
        column += len(_ENTITY.sub("x", word))
    return "".join(found)


async def tell(camera: Camera) -> None:
    """Two workers are restarted under load, and every screen is seen on the way."""
    await camera.until(lambda text: "● 4 online" in text, "four workers online")
    await asyncio.sleep(WARM_UP)
    await camera.press("3")
    await camera.until(lambda text: "reports" in text, "the queues")
    await camera.shoot("queues")
    await camera.press("6")
    await camera.until(lambda text: "5 of 5 run" in text and ".0" in text, "what services use")
    await camera.shoot("hosts")
    await camera.press("2", "space", "space", "R")
    await camera.until(lambda text: "go on" in text, "a plan")
    await camera.shoot("plan")
    await camera.press("enter")
    await camera.until(lambda text: "Y yes" in text, "the confirmation")
    await camera.press("Y")
    await camera.until(lambda text: "▶ running" in text, "the run")
    await camera.press("2")
    await camera.until(lambda text: "◐" in text or "○" in text, "a drained worker")
    await camera.shoot("workers")
    await camera.press("1")
    await camera.until(lambda text: "\n  taken " in text, "what is taken")
    await camera.shoot("fleet")
    await camera.press("8")
    await camera.until(lambda text: "▶ running" in text, "the list of runs")
    await camera.press("enter")
    await camera.until(lambda text: "batch 2 of 2" in text, "the second batch")
    await camera.shoot("run")
    await camera.until(lambda text: "succeeded" in text, "the end of the run")
    await camera.press("escape")
    await camera.until(lambda text: "✓ succeeded" in text, "the run as ended")
    await camera.shoot("runs")


async def photograph(demo: Demo) -> None:
    """Open the app on the demo as the command line does, but without a terminal."""

    async def ledger() -> Mapping[str, int | None]:
        return (await demos.ledger(demo)).as_json()

    context = contexts.select(contexts.load(demo.config, os.environ), None)
    async with opened(context) as deployment:
        app = OpsApp(
            Collector(deployment.surveyor, clock=deployment.clock),
            engine.desk(deployment, Chosen(context, demo.config)),
            context=context.name,
            protected=context.protected,
            read_only=False,
            ledger=ledger,
            logs=Logs(deployment.hosts),
            library=engine.library(context.directory),
            messages=Peeker(deployment.broker.messages, Masks(context.mask)),
            clock=deployment.clock,
        )
        app.theme = DARK.name
        async with app.run_test(size=SIZE) as pilot:
            await tell(Camera(pilot, PICTURES))


def main() -> None:
    if shutil.which("rsvg-convert") is None:
        sys.exit("rsvg-convert is missing: apt-get install librsvg2-bin fonts-firacode")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"XDG_STATE_HOME": home, "LOGNAME": "ann"}
        demo = demos.start(owner_pid=os.getpid())
        try:
            asyncio.run(photograph(demo))
        finally:
            demos.stop(demo)


if __name__ == "__main__":
    main()
