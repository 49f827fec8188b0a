"""Messages moved on a real Redis, beside producers and consumers that go on at full speed."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker.store_moving import addressed
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.model import Address, Parked, StoredMessage
from celery_ops.ports import Transfer
from tests.broker.contract import ANN

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.broker.redis import RedisBroker
    from celery_ops.ports import Fence
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

STEPS = {0: "", 3: "\x06\x163", 6: "\x06\x166", 9: "\x06\x169"}
ASIDE = str(Parked("mail", "r-1", "1"))


def envelope(number: int, queue: str = "mail", *, priority: int = 0, padding: int = 0) -> bytes:
    """A message as kombu pushes it."""
    said = {
        "body": "W1tdLCB7fSwgbnVsbF0=",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": f"id-{number}", "task": "odd" if number % 2 else "even", "retries": 0,
                    "argsrepr": '{"delivery_info": ' + "x" * padding},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }  # fmt: skip
    return json.dumps(said).encode()


def number_of(raw: bytes) -> int:
    return int(json.loads(raw)["headers"]["id"].removeprefix("id-"))


def is_even(message: StoredMessage) -> bool:
    return message.task == "even"


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


async def transferred(broker: RedisBroker, transfer: Transfer, fence: Fence) -> int:
    done = 0
    async with aclosing(broker.store.transfer(transfer, fence=fence)) as portions:
        async for portion in portions:
            done = portion.done
    return done


@pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
async def test_priorities_and_the_order_are_kept(
    redis: Any, broker: RedisBroker, choose: Callable[[StoredMessage], bool] | None
) -> None:
    sent = {step: [envelope(n, priority=step) for n in range(700)] for step in STEPS}
    for step, raws in sent.items():
        redis.lpush(f"mail{STEPS[step]}", *raws)
    fence = await broker.lease.acquire(ANN)
    await transferred(broker, Transfer("t", "mail", ASIDE, choose=choose), fence)
    for step, raws in sent.items():
        meant = [raw for raw in raws if choose is None or number_of(raw) % 2 == 0]
        assert redis.lrange(ASIDE + STEPS[step], 0, -1)[::-1] == meant
        rest = [raw for raw in raws if raw not in set(meant)]
        assert redis.lrange(f"mail{STEPS[step]}", 0, -1)[::-1] == rest


async def test_what_moves_is_addressed_to_where_it_goes(redis: Any, broker: RedisBroker) -> None:
    raws = [envelope(n) for n in range(5)]
    redis.lpush("mail", *raws, b"no envelope")
    fence = await broker.lease.acquire(ANN)
    assert (
        await transferred(broker, Transfer("t", "mail", "letters", address="letters"), fence) == 5
    )
    for before, after in zip(raws, redis.lrange("letters", 0, -1)[::-1], strict=True):
        assert after == before.replace(b'"routing_key": "mail"', b'"routing_key": "letters"')
    assert redis.lrange("mail", 0, -1) == [b"no envelope"]


async def test_no_message_leads_to_what_is_no_queue(redis: Any, broker: RedisBroker) -> None:
    redis.set("a text", "x")
    redis.lpush("a list", "x")
    redis.lpush("mail", envelope(1))
    redis.sadd("_kombu.binding.shop", "o.*\x06\x16\x06\x16one", "o.1\x06\x16\x06\x16two", "odd")
    for address, queues in {
        Address("", "mail"): ("mail",),
        Address("", "seen"): ("seen",),
        Address("", "a text"): (),
        Address("", "a list"): (),
        Address("shop", "o.1"): ("one", "two"),
        Address("shop", "o.2"): ("one",),
        Address("a text", "o.2"): (),
    }.items():
        assert await broker.store.leads_to(address, {"seen"}) == queues


@pytest.mark.parametrize("size", [10, 20_000], ids=["small", "large"])
async def test_beside_producers_and_consumers_at_full_speed_each_is_somewhere_once(
    redis_server: RedisServer, redis: Any, broker: RedisBroker, size: int
) -> None:
    """Two producers push, two consumers pop, and what one of them pops is given back now and then;
    the even half is moved meanwhile, again and again.
    """
    numbers = iter(range(10**9))
    lock = threading.Lock()
    over = threading.Event()
    sent: list[int] = []
    consumed: list[int] = []
    redis.lpush("mail", *(envelope(next(numbers), padding=size) for _ in range(2_000)))
    sent += range(2_000)

    def produce() -> None:
        client: Any = redis_server.client()
        while not over.is_set():
            with lock:
                number = next(numbers)
            client.lpush("mail", envelope(number, padding=size))
            sent.append(number)

    def consume(gives_back: int) -> None:
        client: Any = redis_server.client()
        for turn in range(10**9):
            if over.is_set():
                return
            popped = client.brpop("mail", 1)
            if popped is not None and turn % gives_back == gives_back - 1:
                client.rpush("mail", popped[1])
            elif popped is not None:
                consumed.append(number_of(popped[1]))

    threads = [threading.Thread(target=produce) for _ in range(2)]
    threads += [threading.Thread(target=consume, args=(back,)) for back in (50, 10**9)]
    fence = await broker.lease.acquire(ANN)
    done = 0
    for thread in threads:
        thread.start()
    try:
        for turn in range(5):
            transfer = Transfer(f"t{turn}", "mail", "other", choose=is_even, address="other")
            done += await transferred(broker, transfer, fence)
            await broker.lease.renew(fence)
    finally:
        over.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    moved = [number_of(raw) for raw in redis.lrange("other", 0, -1)]
    left = [number_of(raw) for raw in redis.lrange("mail", 0, -1)]
    everywhere = Counter([*moved, *left, *consumed])
    assert set(everywhere.values()) == {1}
    assert everywhere.keys() == set(sent)
    assert len(moved) == done > 0
    assert not any(number % 2 for number in moved)


async def test_where_many_are_consumed_at_once_the_place_is_found_again(
    redis: Any, broker: RedisBroker
) -> None:
    """Between two portions more than was passed over, less, and everything."""
    for popped in (10, 300, 900, 3_000):
        redis.flushall()
        raws = [envelope(n) for n in range(2_000)]
        redis.lpush("mail", *raws)
        fence = await broker.lease.acquire(ANN)
        transfer = Transfer("t", "mail", "other", choose=is_even, portion=500)
        taken: list[bytes] = []
        async with aclosing(broker.store.transfer(transfer, fence=fence)) as portions:
            number = 0
            async for _ in portions:
                number += 1
                if number == 3:
                    taken = redis.rpop("mail", popped) or []
        gone = [*taken, *redis.lrange("mail", 0, -1), *redis.lrange("other", 0, -1)]
        assert Counter(gone) == Counter(raws)
        assert not any(number_of(raw) % 2 == 0 for raw in redis.lrange("mail", 0, -1))
        await broker.lease.release(fence)


async def test_messages_that_are_the_same_are_all_moved(redis: Any, broker: RedisBroker) -> None:
    even, odd = envelope(2), envelope(1)
    redis.lpush("mail", *[even, odd] * 300)
    fence = await broker.lease.acquire(ANN)
    assert await transferred(broker, Transfer("t", "mail", ASIDE, choose=is_even), fence) == 300
    assert redis.lrange("mail", 0, -1) == [odd] * 300
    assert redis.lrange(ASIDE, 0, -1) == [even] * 300


async def test_a_full_server_refuses_and_loses_nothing(redis: Any, broker: RedisBroker) -> None:
    raws = [envelope(n) for n in range(10)]
    redis.lpush("mail", *raws)
    stored = await broker.store.peek("mail", skip=0, count=10)
    fence = await broker.lease.acquire(ANN)
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("maxmemory", "1")
    try:
        for choose, first in ((None, False), (None, True), (is_even, False)):
            with pytest.raises(BrokerUnreachable):
                await transferred(
                    broker, Transfer("t", "mail", ASIDE, choose=choose, first=first), fence
                )
        with pytest.raises(BrokerUnreachable):
            await broker.store.put(stored, queue="mail", ticket="b", done=0, fence=fence)
    finally:
        redis.config_set("maxmemory", "0")
    assert redis.lrange("mail", 0, -1)[::-1] == raws
    assert not redis.exists(ASIDE, "celery-ops:tickets")


async def test_what_is_no_queue_is_left_alone(redis: Any, broker: RedisBroker) -> None:
    redis.set("text", "here")
    redis.lpush("mail", envelope(1))
    stored = await broker.store.peek("mail", skip=0, count=1)
    fence = await broker.lease.acquire(ANN)
    for queue, to in (("text", "mail"), ("mail", "text")):
        for choose in (None, lambda _: True):
            with pytest.raises(PreconditionFailed, match="text"):
                await transferred(broker, Transfer("t", queue, to, choose=choose), fence)
    with pytest.raises(PreconditionFailed, match="text"):
        await broker.store.put(stored, queue="text", ticket="b", done=0, fence=fence)
    assert redis.get("text") == b"here"
    assert redis.llen("mail") == 1


async def test_keys_are_those_of_the_fleet(
    redis: Any, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(redis_server.url(), global_keyprefix="{p}", sep=":", priority_steps=[0, 5])
    redis.lpush("{p}mail:5", envelope(1), envelope(2))
    fence = await broker.lease.acquire(ANN)
    assert await transferred(broker, Transfer("t", "mail", "other", choose=is_even), fence) == 1
    assert redis.llen("{p}other:5") == 1
    stored = StoredMessage(envelope(3), priority=7)
    assert await broker.store.put([stored], queue="mail", ticket="b", done=0, fence=fence)
    assert redis.lrange("{p}mail:5", 0, -1) == [redis.lindex("{p}mail:5", 0), stored.raw]
    assert redis.hgetall("{p}celery-ops:tickets") == {b"t": b"1", b"b": b"1"}


def test_only_the_address_of_a_message_is_changed() -> None:
    raw = envelope(7, padding=3)
    new = addressed(raw, 'é"漢')
    assert new is not None
    before, after = json.loads(raw), json.loads(new)
    info = {"exchange": "", "routing_key": 'é"漢'}
    assert after["properties"].pop("delivery_info") == info
    assert before["properties"].pop("delivery_info") == {"exchange": "", "routing_key": "mail"}
    assert after == before
    assert new == raw.replace(b'"routing_key": "mail"', b'"routing_key": "\\u00e9\\"\\u6f22"')
    assert addressed(new, 'é"漢') is new


@pytest.mark.parametrize(
    "written",
    [
        '{"properties":{"delivery_info":{"exchange":"e","routing_key":"k"}},"body":"1.50 1E4"}',
        '{"headers":{"delivery_info":{"exchange":"e","routing_key":"k"}},'
        '"properties":{"delivery_info":{"exchange":"e","routing_key":"k"}}}',
        '{"properties":{"delivery_info" : {"exchange":"e","routing_key":"k","redelivered":true}}}',
        '{"properties":{"delivery_inf\\u006f":{"exchange":"e","routing_key":"k"}}}',
        '{"headers":{"x":"\\"delivery_info\\": {}"},'
        '"properties":{"delivery_info":{"exchange":"e","routing_key":"k"}}}',
    ],
    ids=["numbers", "twice", "given back", "escaped", "in a text"],
)
def test_an_address_is_found_wherever_it_stands(written: str) -> None:
    new = addressed(written.encode(), "q")
    assert new is not None
    after = json.loads(new)
    before = json.loads(written)
    assert after["properties"]["delivery_info"] == {
        **before["properties"]["delivery_info"], "exchange": "", "routing_key": "q",
    }  # fmt: skip
    before["properties"].pop("delivery_info")
    after["properties"].pop("delivery_info")
    assert after == before


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"\xff", b"{}", b'{"properties": {}}', b'{"properties": {"delivery_info": 1}}',
     b'{"properties": []}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_envelope_has_no_address(raw: bytes) -> None:
    assert addressed(raw, "q") is None


async def test_what_was_sent_once_is_forgotten_in_the_end(redis: Any, broker: RedisBroker) -> None:
    fence = await broker.lease.acquire(ANN)
    redis.zadd("celery-ops:sent", {"old": 1.0, "late": 4e9})
    sent = {"new": StoredMessage(envelope(1), 9), "old": StoredMessage(envelope(2))}
    assert await broker.store.send_once(sent, queue="mail", fence=fence) == {"new"}
    assert await broker.store.sent(["old", "late", "new"]) == {"late", "new"}
    assert [number_of(raw) for raw in redis.lrange(f"mail{STEPS[9]}", 0, -1)] == [1]
    redis.set("other", "text")
    with pytest.raises(PreconditionFailed, match="not a queue"):
        await broker.store.send_once({"more": sent["new"]}, queue="other", fence=fence)
