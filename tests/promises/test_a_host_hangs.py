"""The app on a real sshd that is frozen: TCP goes on to answer, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.cli.deployment import opened
from celery_ops.config.contexts import only_broker
from celery_ops.fleet.collector import Collector
from celery_ops.tui.app import OpsApp
from tests.rig.nodes import Node, SimulatedNodes
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from textual.app import App
    from textual.pilot import Pilot

    from celery_ops.cli.deployment import Deployment
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

PATIENCE = 60.0
PAUSE = 0.01
A_SECOND = round(1 / PAUSE)


@pytest.fixture
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest_asyncio.fixture
async def deployment(redis_server: RedisServer, server: Sshd) -> AsyncIterator[Deployment]:
    """One worker and one host without services."""
    nodes = SimulatedNodes(redis_server.url(), [Node("w1@a", queues=("default",))])
    context = replace(only_broker(redis_server.url()), hosts=(server.entry("web1"),))
    try:
        async with opened(context) as made:
            yield made
    finally:
        nodes.stop()


@pytest_asyncio.fixture
async def pilot(deployment: Deployment) -> AsyncIterator[Pilot[None]]:
    collector = Collector(deployment.surveyor, clock=deployment.clock, interval=0.2)
    app = OpsApp(
        collector, None, context="c", protected=False, read_only=True, clock=deployment.clock
    )
    async with collector, app.run_test(size=(80, 24)) as running:
        yield running


def screen(pilot: Pilot[None]) -> str:
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)


async def until(pilot: Pilot[None], shown: Callable[[str], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not shown(screen(pilot)):
            await pilot.pause(0.05)


async def test_the_app_goes_on_while_a_host_hangs_and_its_row_says_since_when(
    pilot: Pilot[None], deployment: Deployment, server: Sshd
) -> None:
    await pilot.press("6")
    await until(pilot, lambda text: "● reachable" in text)
    server.freeze()
    frozen_at = deployment.clock.now()
    ticks, seen = Ticks(), Seen(pilot.app)
    async with ticks, seen:
        await until(pilot, lambda text: "▲ no answer" in text)
        assert seen.count > 5
        for key, view in (("2", "1 worker"), ("3", "default"), ("6", "1 host, 0 services")):
            await pilot.press(key)
            assert view in screen(pilot)
        await until(pilot, lambda text: "▲ unreachable" in text)
    # Whoever reads hosts on the event loop stops it for as long as the host takes.
    assert ticks.count > 100
    assert ticks.longest_standstill < A_SECOND
    newest = (await deployment.surveyor.refresh()).hosts[0]
    assert newest.since is not None
    assert newest.since >= frozen_at
    assert newest.reached_at is not None
    assert newest.reached_at <= newest.since


class Ticks:
    """Counts how often the event loop comes round to somebody who asks for every little while.

    A thread counts beside it: what it counts between two ticks tells for how long the loop stood
    still, on a machine that is slow as well.
    """

    def __init__(self) -> None:
        self.count = 0
        self.longest_standstill = 0
        self._beats = self._last = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._thread.start()
        self._task = asyncio.ensure_future(self._tick())

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._ended.set()
        self._thread.join()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _beat(self) -> None:
        while not self._ended.wait(PAUSE):
            self._beats += 1

    async def _tick(self) -> None:
        while True:
            beats = self._beats
            self.longest_standstill = max(self.longest_standstill, beats - self._last)
            self.count, self._last = self.count + 1, beats
            await asyncio.sleep(PAUSE)


class Seen:
    """Counts the snapshots that reach the screen."""

    def __init__(self, app: App[None]) -> None:
        self.count = 0
        self._app = app
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        assert isinstance(self._app, OpsApp)
        last: object = None
        while True:
            if self._app.picture.newest is not last:
                last = self._app.picture.newest
                self.count += 1
            await asyncio.sleep(PAUSE)
