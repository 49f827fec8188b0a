"""A simulated fleet, and a surveyor that looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from celery_ops.fleet.survey import Surveyor
from celery_ops.model import Holder, Host
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet
from tests.standin.hosts import StandinHosts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, Worker
    from celery_ops.ports import Fence


@dataclass
class Lab:
    """A fleet without workers yet; `surveyor` is made when it is first asked for."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    fleet: StandinFleet = field(init=False)
    broker: StandinBroker = field(init=False)
    hosts: StandinHosts = field(init=False)
    scope: Sequence[str] = ("*",)
    machines: tuple[Host, ...] = ()
    _surveyor: Surveyor | None = None

    def __post_init__(self) -> None:
        self.fleet = StandinFleet(self.clock)
        self.broker = StandinBroker(self.fleet)
        self.hosts = StandinHosts(self.fleet)

    @property
    def surveyor(self) -> Surveyor:
        if self._surveyor is None:
            self._surveyor = Surveyor(
                self.broker,
                self.hosts,
                context="lab",
                services=self.fleet.refs,
                clock=self.clock,
                scope=self.scope,
                machines=self.machines,
            )
        return self._surveyor

    async def fence(self) -> Fence:
        holder = Holder("me@here", "run-1", "drain-worker", self.clock.now())
        return await self.broker.lease.acquire(holder)

    async def watch(self, seconds: float, interval: float = 0.5) -> FleetSnapshot:
        """Refresh again and again for some virtual seconds; the last snapshot."""
        until = self.clock.monotonic() + seconds
        snapshot = await self.surveyor.refresh()
        while self.clock.monotonic() < until:
            await self.clock.sleep(interval)
            snapshot = await self.surveyor.refresh()
        return snapshot

    async def see(self, name: str) -> Worker:
        """One worker as the next refresh shows it."""
        worker = (await self.surveyor.refresh()).worker(name)
        assert worker is not None
        return worker


@pytest.fixture
def lab() -> Lab:
    return Lab()
