"""All that comes into a queue of a real Redis goes on, one of two ways."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.errors import LeaseHeld, LeaseLost, PreconditionFailed
from celery_ops.model import Parked
from celery_ops.ports import Divided, Division, Fence, MessageDivider
from tests.broker.contract import ANN
from tests.broker.test_store_moving import STEPS, envelope, is_even, number_of

if TYPE_CHECKING:
    from celery_ops.broker.redis import RedisBroker
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

ASIDE, ON, ARRIVED = str(Parked("mail", "r-1", "hold")), "on", "arrived"
DIVISION = Division("mail", ARRIVED, ASIDE, ON, is_even)


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


async def until_empty(broker: RedisBroker, fence: Fence) -> Divided:
    chosen = rest = 0
    while (went := await broker.store.divide(DIVISION, fence=fence)) != Divided():
        chosen, rest = chosen + went.chosen, rest + went.rest
    return Divided(chosen, rest)


@pytest.mark.parametrize("size", [10, 60_000], ids=["small", "large"])
async def test_each_goes_its_way_as_it_is_in_order_and_with_its_priority(
    redis: Any, broker: RedisBroker, size: int
) -> None:
    count = 700 if size < 100 else 30
    sent = {step: [envelope(n, priority=step, padding=size) for n in range(count)]
            for step in STEPS}  # fmt: skip
    for step, raws in sent.items():
        redis.lpush(f"mail{STEPS[step]}", *raws)
    fence = await broker.lease.acquire(ANN)
    assert isinstance(broker.store, MessageDivider)
    assert await until_empty(broker, fence) == Divided(2 * count, 2 * count)
    for step, raws in sent.items():
        even = [raw for raw in raws if number_of(raw) % 2 == 0]
        odd = [raw for raw in raws if number_of(raw) % 2]
        assert redis.lrange(ASIDE + STEPS[step], 0, -1)[::-1] == even
        assert redis.lrange(ON + STEPS[step], 0, -1)[::-1] == odd
        assert redis.llen(f"mail{STEPS[step]}") == 0


async def test_what_is_no_envelope_goes_on_too(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("mail", b"no envelope", envelope(2), b"")
    fence = await broker.lease.acquire(ANN)
    assert await until_empty(broker, fence) == Divided(1, 2)
    assert redis.lrange(ON, 0, -1) == [b"", b"no envelope"]


async def test_without_the_lease_none_goes(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("mail", envelope(1))
    fence = await broker.lease.acquire(ANN)
    await broker.lease.release(fence)
    with pytest.raises(LeaseLost):
        await broker.store.divide(DIVISION, fence=fence)
    assert redis.llen("mail") == 1
    assert redis.llen(ON) == 0


async def test_what_is_no_queue_is_refused(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("mail", envelope(1))
    redis.set(ON, "no list")
    fence = await broker.lease.acquire(ANN)
    with pytest.raises(PreconditionFailed, match="no list"):
        await broker.store.divide(DIVISION, fence=fence)
    assert redis.llen("mail") + redis.llen(ARRIVED) == 1


async def test_beside_producers_and_a_consumer_each_is_somewhere_once(
    redis: Any, broker: RedisBroker
) -> None:
    """One that still consumes takes some, and gives others back at the end that is served next."""
    fence = await broker.lease.acquire(ANN)
    taken: list[bytes] = []
    number = 0
    for turn in range(120):
        for _ in range(40):
            redis.lpush("mail", envelope(number))
            number += 1
        dividing = asyncio.create_task(broker.store.divide(DIVISION, fence=fence))
        for _ in range(5):
            await asyncio.sleep(0)
            raw = redis.rpop("mail")
            if raw is not None and turn % 2:
                redis.rpush("mail", raw)
            elif raw is not None:
                taken.append(raw)
        await dividing
    await until_empty(broker, fence)
    aside, on = redis.lrange(ASIDE, 0, -1), redis.lrange(ON, 0, -1)
    assert sorted(number_of(raw) for raw in [*taken, *aside, *on]) == list(range(number))
    assert all(number_of(raw) % 2 == 0 for raw in aside)
    assert all(number_of(raw) % 2 == 1 for raw in on)


async def test_two_leases_of_one_broker_are_held_by_two_and_each_has_its_own_fence(
    redis: Any, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(redis_server.url())
    beside = broker.beside("hold")
    assert beside is broker.beside("hold")
    ours = await broker.lease.acquire(ANN)
    theirs = await beside.lease.acquire(ANN)
    with pytest.raises(LeaseHeld):
        await broker.beside("hold").lease.acquire(ANN)
    redis.lpush("mail", envelope(1))
    with pytest.raises(LeaseLost):
        await beside.store.divide(DIVISION, fence=ours)
    assert await beside.store.divide(DIVISION, fence=theirs) == Divided(0, 1)
    assert await broker.holder() == ANN == await beside.holder()
    await beside.lease.release(theirs)
    assert await beside.holder() is None
    assert await broker.holder() == ANN
