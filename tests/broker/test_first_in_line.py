"""Before whoever begins to wait at a queue of a real Redis: what comes is taken first by ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker import first_in_line
from celery_ops.broker.first_in_line import LEAST
from celery_ops.ports import Division, MessageDivider
from tests.broker.contract import ANN
from tests.broker.test_store_moving import STEPS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from celery_ops.broker.redis import RedisBroker
    from celery_ops.ports import FirstInLine
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

QUEUE, ARRIVED = "mail", "arrived"


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


def line_of(broker: RedisBroker) -> FirstInLine:
    assert isinstance(broker.store, MessageDivider)
    return broker.store.first_in_line()


@pytest.fixture
async def line(broker: RedisBroker, redis: Any) -> AsyncIterator[FirstInLine]:
    async with line_of(broker) as line:
        line.add(QUEUE, ARRIVED)
        await until(lambda: blocked(redis) == LEAST * len(STEPS), "the lines stand")
        yield line


async def until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within 30 s: {what}")


def blocked(redis: Any) -> int:
    return int(redis.info("clients")["blocked_clients"])


def consumer(redis: Any) -> Awaitable[Any]:
    """One that begins to consume now, as a worker does."""
    keys = [QUEUE + step for step in STEPS.values()]
    return asyncio.ensure_future(asyncio.to_thread(redis.brpop, keys, 20))


@pytest.mark.parametrize("step", STEPS)
async def test_one_that_begins_to_consume_gets_nothing_before_the_line_is_used_up(
    redis: Any, line: FirstInLine, step: int
) -> None:
    del line
    theirs = consumer(redis)
    await until(lambda: blocked(redis) == LEAST * len(STEPS) + 1, "it waits, too")
    sent = [b"%d" % number for number in range(LEAST)]
    redis.lpush(QUEUE + STEPS[step], *sent)
    assert redis.lrange(ARRIVED + STEPS[step], 0, -1)[::-1] == sent
    redis.lpush(QUEUE + STEPS[step], b"one more")
    async with asyncio.timeout(20):
        assert await theirs == ((QUEUE + STEPS[step]).encode(), b"one more")


async def test_the_line_is_as_long_as_what_comes_asks_for_and_shrinks_again(
    redis: Any, line: FirstInLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    del line
    monkeypatch.setattr(first_in_line, "MOST", 5 * LEAST)
    others = LEAST * (len(STEPS) - 1)

    def has_come() -> bool:
        redis.lpush(QUEUE, b"one")
        return blocked(redis) > others + 4 * LEAST

    await until(has_come, "it grows")
    monkeypatch.setattr(first_in_line, "COUNTED_EVERY", 0.05)
    await until(lambda: blocked(redis) == LEAST * len(STEPS), "it shrinks")


async def test_nobody_stands_in_line_while_messages_wait(redis: Any, broker: RedisBroker) -> None:
    """They are moved by the division alone, many at a time; then the line stands again."""
    division = Division(QUEUE, ARRIVED, "aside", "on", lambda _: False)
    fence = await broker.lease.acquire(ANN)
    store = broker.store
    assert isinstance(store, MessageDivider)
    redis.lpush(QUEUE, *(b"%d" % number for number in range(5_000)))
    async with store.first_in_line() as line:
        await store.divide(division, fence=fence)
        line.add(QUEUE, ARRIVED)
        await store.divide(division, fence=fence)
        others = LEAST * (len(STEPS) - 1)
        await until(lambda: blocked(redis) == others, "the other lines stand")
        left = redis.llen(QUEUE)
        await asyncio.sleep(0.1)
        assert redis.llen(QUEUE) == left > 0
        while (await store.divide(division, fence=fence)).rest:
            pass
        await until(lambda: blocked(redis) == others + LEAST, "it stands again")
    assert redis.lrange("on", 0, -1)[::-1] == [b"%d" % number for number in range(5_000)]


async def test_what_was_taken_is_back_at_the_end_and_is_served_first(
    redis: Any, broker: RedisBroker
) -> None:
    """Producers go on meanwhile: none of it is left where nobody looks."""
    sent = 0
    async with line_of(broker) as line:
        line.add(QUEUE, ARRIVED)
        await until(lambda: blocked(redis) == LEAST * len(STEPS), "the lines stand")
        leaving = asyncio.get_running_loop().time() + 0.5

        async def send() -> None:
            nonlocal sent
            while blocked(redis) or asyncio.get_running_loop().time() < leaving:
                redis.lpush(QUEUE, b"%d" % sent)
                sent += 1
                await asyncio.sleep(0.001)

        sending = asyncio.create_task(send())
        await until(lambda: redis.llen(ARRIVED) > 50, "some are taken")
    await sending
    assert redis.keys(ARRIVED + "*") == []
    assert redis.lrange(QUEUE, 0, -1)[::-1] == [b"%d" % number for number in range(sent)]


async def test_it_leaves_a_server_room_for_others(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    redis = own_redis.client()
    redis.config_set("maxclients", 40)
    async with line_of(make_broker(own_redis.url())) as line:
        for number in range(10):
            line.add(f"{QUEUE}{number}", f"{ARRIVED}{number}")
        await asyncio.sleep(0.2)
        assert blocked(redis) == 0, "there is no place for one at each list"
    async with line_of(make_broker(own_redis.url())) as line:
        line.add(QUEUE, ARRIVED)
        await until(lambda: blocked(redis) >= len(STEPS), "one stands in each line")
        assert blocked(redis) <= 10


async def test_it_stands_again_once_the_server_is_back(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    async with line_of(make_broker(own_redis.url())) as line:
        line.add(QUEUE, ARRIVED)
        await until(lambda: blocked(own_redis.client()) > 0, "it stands")
        own_redis.kill()
        own_redis.start()
        await until(lambda: blocked(own_redis.client()) == LEAST * len(STEPS), "it stands again")


async def test_where_the_server_refuses_it_nothing_else_suffers(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    redis = own_redis.client()
    redis.acl_setuser("default", commands=["-brpoplpush"], enabled=True)
    async with line_of(make_broker(own_redis.url())) as line:
        line.add(QUEUE, ARRIVED)
        redis.lpush(QUEUE, b"one")
        await asyncio.sleep(0.2)
        assert blocked(redis) == 0
    assert redis.lrange(QUEUE, 0, -1) == [b"one"]
