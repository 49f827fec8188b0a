"""The continuous watch, over losses and closings."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from celery_ops.fleet.collector import Collector
from celery_ops.model import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.model import FleetSnapshot
    from tests.fleet.conftest import Lab


async def until(collector: Collector, holds: Callable[[FleetSnapshot], bool]) -> FleetSnapshot:
    async for snapshot in collector.snapshots():
        if holds(snapshot):
            return snapshot
    raise AssertionError("the stream ended")


async def test_snapshots_come_once_an_interval(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    async with Collector(lab.surveyor, clock=lab.clock, interval=1.0) as collector:
        moments = []
        async for snapshot in collector.snapshots():
            moments.append(snapshot.at)
            if len(moments) == 4:
                break
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(moments)]
    assert all(0.9 < gap < 1.1 for gap in gaps)


async def test_a_slow_reader_skips_to_the_latest(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    async with Collector(lab.surveyor, clock=lab.clock) as collector:
        stream = collector.snapshots()
        first = await anext(stream)
        await lab.clock.sleep(10.0)
        second = await anext(stream)
        assert (second.at - first.at).total_seconds() > 8.0
        assert second is collector.latest


async def test_heartbeats_are_heard(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    async with Collector(lab.surveyor, clock=lab.clock) as collector:
        snapshot = await until(collector, lambda one: one.workers[0].heartbeat is not None)
    assert snapshot.workers[0].heartbeat is not None


async def test_a_lost_broker_is_shown_since_when_and_heals_by_itself(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    async with Collector(lab.surveyor, clock=lab.clock, chance=lambda: 1.0) as collector:
        await until(collector, lambda one: bool(one.workers))
        lab.broker.is_down = True
        lost = await until(collector, lambda one: one.broker_error is not None)
        assert lost.broker_lost_at is not None
        assert lost.worker("a@web1") is not None
        later = await until(collector, lambda one: one.at > lost.at)
        assert later.broker_lost_at == lost.broker_lost_at
        lab.broker.is_down = False
        healed = await until(collector, lambda one: one.broker_error is None)
        assert healed.workers[0].state is WorkerState.ONLINE


async def test_retries_back_off_to_ten_seconds(lab: Lab) -> None:
    lab.broker.is_down = True
    async with Collector(lab.surveyor, clock=lab.clock, chance=lambda: 1.0) as collector:
        moments = []
        async for snapshot in collector.snapshots():
            moments.append(snapshot.at)
            if len(moments) == 9:
                break
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(moments)]
    assert gaps == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0])


async def test_closing_ends_every_stream_in_the_middle_of_a_pause(lab: Lab) -> None:
    lab.broker.is_down = True
    collector = Collector(lab.surveyor, clock=lab.clock)
    await until(collector, lambda one: one.broker_error is not None)
    reader = asyncio.create_task(until(collector, lambda _: False))
    await asyncio.sleep(0)
    before = lab.clock.monotonic()
    await collector.close()
    with pytest.raises(AssertionError, match="the stream ended"):
        await reader
    assert lab.clock.monotonic() - before < 11.0


async def test_a_bug_reaches_the_reader_and_is_not_an_old_picture_for_ever(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    collector = Collector(lab.surveyor, clock=lab.clock)
    await until(collector, lambda one: bool(one.workers))
    lab.broker.notes = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        await until(collector, lambda _: False)
    await collector.close()
