"""Giving back messages that nobody holds, on a real Redis and beside a real kombu."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import GivenBack
from tests.broker.contract import ANN, held
from tests.broker.held import hold

if TYPE_CHECKING:
    from celery_ops.broker.redis import RedisBroker
    from celery_ops.ports import Broker
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

DONE, GONE, UNROUTABLE = GivenBack.DONE, GivenBack.GONE, GivenBack.UNROUTABLE


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


async def give_back(broker: Broker, *ids: str) -> tuple[GivenBack, ...]:
    messages = await held(broker, *ids)
    fence = await broker.lease.acquire(ANN)
    try:
        return await broker.restore(messages, fence=fence)
    finally:
        await broker.lease.release(fence)


def bind(redis: Any, exchange: str, key: str, queue: str, pattern: str = "") -> None:
    redis.sadd(f"_kombu.binding.{exchange}", "\x06\x16".join((key, pattern, queue)))


async def test_it_is_served_next_at_the_step_of_its_priority(
    redis: Any, broker: RedisBroker
) -> None:
    redis.lpush("mail", "waits", "waits too")
    plain, odd = hold(redis, "mail"), hold(redis, "mail", priority="?")
    low, beyond = hold(redis, "mail", priority=7), hold(redis, "mail", priority=300)
    await give_back(broker, plain, odd, low, beyond)
    ids = [json.loads(one)["headers"]["id"] for one in redis.lrange("mail", 2, -1)]
    assert ids == [plain, odd]
    assert redis.lrange("mail", 0, 1) == [b"waits too", b"waits"]
    assert [json.loads(one)["headers"]["id"] for one in redis.lrange("mail\x06\x166", 0, -1)] == [
        low
    ]
    assert redis.llen("mail\x06\x169") == 1
    assert (redis.hlen("unacked"), redis.zcard("unacked_index")) == (0, 0)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"priority": 9},
        {"body": "é\u2028漢\ud83d\ude00 [] {} 1e400"},
        {"headers": {"eta": {"__type__": "datetime", "__value__": "2026-11-20T03:00:00+00:00"}}},
        {"headers": {"big": 2**80, "small": 0.1, "nothing": [], "none": None, "empty": {}}},
        {"headers": {"redelivered": False}},
    ],
    ids=["plain", "priority", "unicode", "a date", "numbers", "marked"],
)
async def test_the_message_is_what_kombu_itself_would_have_given_back(
    redis: Any, redis_server: RedisServer, broker: RedisBroker, parts: dict[str, Any]
) -> None:
    ours = hold(redis, "ours", **parts)
    kept = redis.hget("unacked", ours)
    await give_back(broker, ours)
    with Celery(broker=redis_server.url(), set_as_current=False).connection() as connection:
        redis.hset("unacked", ours, kept)
        redis.zadd("unacked_index", {ours: 1.0})
        (key,) = redis.keys("ours*")
        redis.rename(key, "given")
        connection.default_channel.qos.restore_by_tag(ours)
    by_us, by_kombu = json.loads(redis.lindex("given", 0)), json.loads(redis.lindex(key, 0))
    assert by_us == by_kombu
    assert by_us["headers"]["redelivered"] is True
    assert by_us["properties"]["delivery_info"]["redelivered"] is True
    before = json.loads(kept)[0]
    for marked in (by_us["headers"], by_us["properties"]["delivery_info"], before["headers"]):
        marked.pop("redelivered", None)
    assert by_us == before


async def test_keys_are_those_of_the_fleet(
    redis: Any, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(
        redis_server.url(),
        global_keyprefix="{p}",
        sep=":",
        priority_steps=[0, 5],
        unacked_key="held",
        unacked_index_key="held_at",
    )
    message = hold(redis, "mail", priority=8, unacked="{p}held", index="{p}held_at")
    assert await give_back(broker, message) == (DONE,)
    assert redis.llen("{p}mail:5") == 1
    assert not redis.exists("{p}held", "{p}held_at")


async def test_a_message_of_an_exchange_goes_to_the_one_queue_that_is_bound(
    redis: Any, broker: RedisBroker
) -> None:
    bind(redis, "direct", "news", "papers")
    bind(redis, "direct", "mail", "letters")
    bind(redis, "topic", "mail.*", "starred", pattern=r"^mail\.[^\.]+$")
    bind(redis, "topic", "#.urgent", "loud", pattern=r"^.*?\.urgent$")
    direct = hold(redis, "news", exchange="direct")
    starred = hold(redis, "mail.in", exchange="topic")
    loud = hold(redis, "x.y.urgent", exchange="topic")
    assert await give_back(broker, direct, starred, loud) == (DONE,) * 3
    for queue, message in (("papers", direct), ("starred", starred), ("loud", loud)):
        assert json.loads(redis.lindex(queue, 0))["headers"]["id"] == message


async def test_where_its_queue_cannot_be_told_it_stays_where_it_is(
    redis: Any, broker: RedisBroker
) -> None:
    """kombu would give each of two queues a copy, and drop what has none."""
    bind(redis, "topic", "mail.in", "exact", pattern=r"^mail\.in$")
    bind(redis, "topic", "mail.*", "starred", pattern=r"^mail\.[^\.]+$")
    both = hold(redis, "mail.in", exchange="topic")
    nowhere = hold(redis, "mail.out.old", exchange="topic")
    unbound = hold(redis, "mail", exchange="gone")
    assert await give_back(broker, both, nowhere, unbound) == (UNROUTABLE,) * 3
    assert redis.hlen("unacked") == 3
    assert not redis.exists("exact", "starred", "mail", "gone")


@pytest.mark.parametrize("text", ["no JSON", "[]", "[1, 2, 3]", "{}", '[{"headers": []}, "", "q"]'])
async def test_what_is_no_message_stays_where_it_is(
    redis: Any, broker: RedisBroker, text: str
) -> None:
    odd, good = hold(redis, "mail"), hold(redis, "mail")
    messages = await held(broker, odd, good)
    redis.hset("unacked", odd, text)
    fence = await broker.lease.acquire(ANN)
    assert await broker.restore(messages, fence=fence) == (UNROUTABLE, DONE)
    assert redis.hget("unacked", odd) == text.encode()


async def test_a_key_that_is_no_list_is_left_alone(redis: Any, broker: RedisBroker) -> None:
    redis.set("odd", "text")
    odd, good = hold(redis, "odd"), hold(redis, "mail")
    assert await give_back(broker, odd, good) == (UNROUTABLE, DONE)
    assert redis.hexists("unacked", odd)


async def test_many_and_large_messages_are_moved_in_order(redis: Any, broker: RedisBroker) -> None:
    ids = [hold(redis, "mail", body="x" * 20_000) for _ in range(250)]
    assert await give_back(broker, *ids) == (DONE,) * 250
    found = [json.loads(one)["headers"]["id"] for one in redis.lrange("mail", 0, -1)]
    assert found == ids


async def test_a_full_server_refuses_and_loses_nothing(redis: Any, broker: RedisBroker) -> None:
    messages = await held(broker, hold(redis, "mail"), hold(redis, "mail"))
    fence = await broker.lease.acquire(ANN)
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnreachable):
            await broker.restore(messages, fence=fence)
    finally:
        redis.config_set("maxmemory", "0")
    assert (redis.hlen("unacked"), redis.llen("mail")) == (2, 0)


async def test_beside_sweeping_workers_and_acknowledgements_nothing_is_doubled_or_lost(
    redis: Any, redis_server: RedisServer, broker: RedisBroker
) -> None:
    """Four kombu channels sweep with a visibility timeout of a second, one acknowledges."""
    ids = [hold(redis, "mail", priority=number % 10) for number in range(600)]
    messages = await held(broker, *ids)
    fence = await broker.lease.acquire(ANN)
    finished = threading.Event()
    acknowledged: list[str] = []

    def sweep() -> None:
        options = {"visibility_timeout": 1, "unacked_mutex_key": f"mutex-{threading.get_ident()}"}
        app = Celery(broker=redis_server.url(), set_as_current=False)
        with app.connection(transport_options=options) as connection:
            qos = connection.default_channel.qos
            while not finished.is_set() and redis.zcard("unacked_index"):
                qos.restore_visible(num=3, interval=1)

    def acknowledge() -> None:
        for id_ in ids[5::40]:
            if finished.is_set():
                return
            with redis.pipeline() as pipe:
                gone = pipe.zrem("unacked_index", id_).hdel("unacked", id_).execute()
            if gone[1]:
                acknowledged.append(id_)

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    threads.append(threading.Thread(target=acknowledge))
    outcomes: list[GivenBack] = []
    try:
        for thread in threads:
            thread.start()
        for start in range(0, len(messages), 5):
            outcomes += await broker.restore(messages[start : start + 5], fence=fence)
    finally:
        finished.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    lists = ["mail", *(f"mail\x06\x16{step}" for step in (3, 6, 9))]
    waiting = Counter(
        json.loads(one)["headers"]["id"] for key in lists for one in redis.lrange(key, 0, -1)
    )
    assert set(waiting.values()) == {1}
    assert waiting.keys() | set(acknowledged) == set(ids)
    assert not waiting.keys() & set(acknowledged)
    assert redis.hlen("unacked") == 0
    assert {DONE, GONE} == set(outcomes), "each side got some"
