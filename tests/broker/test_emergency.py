"""The port for when there is no broker: a lock of this machine, and nobody to reach."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.emergency import LockFile, NoBroker
from celery_ops.errors import BrokerUnreachable, LeaseHeld, LeaseLost
from celery_ops.model import Targets
from celery_ops.ports import CancelConsumer, Fence, Question
from tests.broker.contract import ANN, BOB, RUN, TAKEN
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def broker(tmp_path: Path) -> NoBroker:
    fleet = StandinFleet(VirtualClock())
    return NoBroker(StandinBroker(fleet), tmp_path / "state" / "emergency.lock", fleet.clock)


async def test_the_lock_is_held_by_one_who_is_named(tmp_path: Path) -> None:
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    fence = await first.acquire(ANN)
    await first.renew(fence, replace(ANN, step="1: start w1@lab"))
    with pytest.raises(LeaseHeld, match=r"ann@bastion .* at step 1: start w1@lab"):
        await second.acquire(BOB)
    assert second.holder() == replace(ANN, step="1: start w1@lab")
    await first.release(fence)
    assert second.holder() is None
    await second.acquire(BOB)
    assert first.holder() == BOB
    with pytest.raises(LeaseLost):
        await first.renew(fence)
    with pytest.raises(LeaseLost):
        await second.renew(Fence("another"))


async def test_it_knows_nothing_and_reaches_nobody(broker: NoBroker) -> None:
    fence = await broker.lease.acquire(ANN)
    asked = await broker.ask([Question.PING], to=None, timeout=5.0)
    assert (asked.complete, asked.expected, asked.replies[Question.PING]) == (False, None, ())
    assert await broker.nodes() is None
    assert (await broker.queues(["mail"])).queues == ()
    with pytest.raises(BrokerUnreachable):
        await broker.order(CancelConsumer("mail"), to=Targets(("w1",)), fence=fence, timeout=1.0)
    with pytest.raises(BrokerUnreachable):
        await broker.restore([], fence=fence)
    with pytest.raises(BrokerUnreachable):
        await broker.note_run(RUN)
    with pytest.raises(BrokerUnreachable):
        _ = [heard async for heard in broker.heartbeats()]
    assert not await broker.break_lease(ANN, RUN)


def test_no_message_can_be_looked_at(broker: NoBroker) -> None:
    with pytest.raises(BrokerUnreachable, match="without a broker"):
        _ = broker.messages


async def test_what_is_taken_is_known_to_the_run_alone(broker: NoBroker) -> None:
    fence = await broker.lease.acquire(ANN)
    await broker.take(TAKEN, fence=fence)
    assert await broker.taken() == (TAKEN,)
    await broker.clear_taken(TAKEN, fence=fence)
    assert await broker.taken() == ()
    await broker.lease.release(fence)
    with pytest.raises(LeaseLost):
        await broker.take(TAKEN, fence=fence)
