"""Questions and orders on a real Redis, with nodes that answer when the test lets them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.errors import BrokerUnreachable, LeaseLost
from celery_ops.model import Targets
from celery_ops.ports import CancelConsumer, Fence, Question
from tests.broker.contract import ANN
from tests.rig.nodes import Node, envelope

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.broker.redis import RedisBroker
    from tests.broker.conftest import HandledNode, MakeBroker
    from tests.rig.nodes import SimulatedNodes
    from tests.rig.redis import RedisServer

FAR_OFF = 60.0
"""A timeout that no test waits for: a round that ends sooner ended for another reason."""
PONG = {"ok": "pong"}


async def settled() -> None:
    """Let everything run that can run now."""
    for _ in range(10):
        await asyncio.sleep(0.005)


async def test_a_round_ends_with_the_last_reply_and_not_before(
    broker: RedisBroker, node: Callable[[str], HandledNode]
) -> None:
    one, two = node("one@lab"), node("two@lab")
    await one.listen()
    await two.listen()
    asking = asyncio.create_task(broker.ask([Question.STATS], to=None, timeout=FAR_OFF))
    to_one, to_two = await one.next(), await two.next()
    await one.reply(to_one, {"pid": 1})
    await settled()
    assert not asking.done()
    await two.reply(to_two, {"pid": 2})
    async with asyncio.timeout(10):
        asked = await asking
    assert [reply.value for reply in asked.replies[Question.STATS]] == [{"pid": 1}, {"pid": 2}]
    assert asked.complete
    assert asked.expected == 2


async def test_questions_are_sent_as_celery_sends_them(
    broker: RedisBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    asking = asyncio.create_task(
        broker.ask(
            [Question.PING, Question.ACTIVE, Question.REGISTERED],
            to=Targets(("one@lab",)),
            timeout=FAR_OFF,
        )
    )
    heard = [await one.next() for _ in range(3)]
    assert [(it.method, it.arguments) for it in heard] == [
        ("active", {"safe": True}),
        ("registered", {"taskinfoitems": ["rate_limit", "acks_late", "flush_every"]}),
        ("ping", {}),
    ], "ping comes last, since it is the roll call"
    assert all(it.destination == ["one@lab"] for it in heard)
    assert len({it.ticket for it in heard}) == 3
    assert len({it.reply_to["exchange"] for it in heard}) == 1
    for it in heard:
        await one.reply(it, PONG)
    assert (await asking).complete


async def test_every_client_uses_the_same_reply_exchange(
    redis_server: RedisServer, make_broker: MakeBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    exchanges, lists = set(), set()
    for _ in range(2):
        client = make_broker(redis_server.url())
        asking = asyncio.create_task(client.ask([Question.PING], to=None, timeout=FAR_OFF))
        heard = await one.next()
        exchanges.add(heard.reply_to["exchange"])
        lists.add(heard.reply_to["routing_key"])
        await one.reply(heard, PONG)
        await asking
    assert len(exchanges) == 1
    assert len(lists) == 2


@pytest.mark.parametrize("to", [None, Targets(("same@lab",))])
async def test_two_processes_under_one_name_are_both_kept(
    broker: RedisBroker, node: Callable[[str], HandledNode], to: Targets | None
) -> None:
    one, two = node("same@lab"), node("same@lab")
    await one.listen()
    await two.listen()
    asking = asyncio.create_task(broker.ask([Question.STATS], to=to, timeout=FAR_OFF))
    await one.reply(await one.next(), {"pid": 1})
    await two.reply(await two.next(), {"pid": 2})
    asked = await asking
    assert [reply.value for reply in asked.replies[Question.STATS]] == [{"pid": 1}, {"pid": 2}]


async def test_two_processes_under_one_name_are_both_kept_among_others(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(Node("same@lab"), Node("same@lab"), Node("other@lab"))
    asked = await broker.ask([Question.STATS], to=Targets(("same@lab",)), timeout=FAR_OFF)
    assert [reply.node for reply in asked.replies[Question.STATS]] == ["same@lab", "same@lab"]


async def test_a_pickled_reply_is_not_loaded(
    broker: RedisBroker, node: Callable[[str], HandledNode], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "loaded"),)

    one = node("pickler@lab")
    await one.listen()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        asking = asyncio.create_task(broker.ask([Question.STATS], to=None, timeout=FAR_OFF))
        heard = await one.next()
        message = json.loads(envelope({}, {"ticket": heard.ticket}, pickled=True))
        message["body"] = base64.b64encode(pickle.dumps({"pickler@lab": Bomb()}, protocol)).decode()
        await one.push(heard, json.dumps(message).encode())
        (reply,) = (await asking).replies[Question.STATS]
        assert reply.unreadable == "application/x-python-serialize"
        assert reply.value is None
        assert reply.node == "pickler@lab"
    assert not (tmp_path / "loaded").exists()


async def test_a_workers_error_is_an_error(
    broker: RedisBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    asking = asyncio.create_task(broker.ask([Question.CONF], to=None, timeout=FAR_OFF))
    await one.reply(await one.next(), {"error": "TypeError('x')"})
    (reply,) = (await asking).replies[Question.CONF]
    assert (reply.error, reply.value) == ("TypeError('x')", None)


async def test_what_is_no_reply_is_passed_over(
    broker: RedisBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    asking = asyncio.create_task(broker.ask([Question.PING], to=None, timeout=FAR_OFF))
    heard = await one.next()
    for garbage in (b"", b"\xff\xfe", b"[1]", b"{}", b'{"headers": 1}', b"[" * 100_000):
        await one.push(heard, garbage)
    await one.push(heard, envelope({"one@lab": PONG}, {"ticket": "another"}))
    await one.push(heard, envelope(["one@lab"], {"ticket": heard.ticket}))
    await settled()
    assert not asking.done()
    await one.reply(heard, PONG)
    assert len((await asking).replies[Question.PING]) == 1


async def test_a_mere_listener_does_not_hold_a_round_up(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(Node("w1@lab"), Node("w2@lab"), Node("redis-cli", answers=(), bound=False))
    for _ in range(2):
        async with asyncio.timeout(10):
            asked = await broker.ask([Question.STATS], to=None, timeout=FAR_OFF)
        assert asked.complete
        assert asked.expected == 2


async def test_a_beat_does_not_hold_a_round_up(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(Node("w1@lab"), Node("celerybeat@lab", answers=("ping",)))
    for questions in ([Question.STATS], [Question.PING, Question.STATS]):
        async with asyncio.timeout(10):
            asked = await broker.ask(questions, to=None, timeout=FAR_OFF)
        assert [reply.node for reply in asked.replies[Question.STATS]] == ["w1@lab"]
    assert asked.complete


async def test_an_answer_that_cannot_be_given_does_not_hold_a_round_up(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(Node("w1@lab"), Node("w2@lab", answers=("ping", "stats", "active")))
    async with asyncio.timeout(10):
        asked = await broker.ask([Question.STATS, Question.RESERVED], to=None, timeout=FAR_OFF)
    assert len(asked.replies[Question.STATS]) == 2
    assert len(asked.replies[Question.RESERVED]) == 1
    assert not asked.complete, "a worker listens and did not answer"


async def test_the_binding_of_a_dead_worker_does_not_hold_a_round_up(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes], redis_server: RedisServer
) -> None:
    simulate(Node("w1@lab"))
    with redis_server.client() as client:
        client.sadd("_kombu.binding.celery.pidbox", "\x06\x16\x06\x16dead@lab.celery.pidbox")
    async with asyncio.timeout(10):
        asked = await broker.ask([Question.STATS], to=None, timeout=FAR_OFF)
    assert asked.complete
    assert await broker.nodes() == {"w1@lab", "dead@lab"}


async def test_a_silent_worker_ends_the_round_at_its_deadline_incomplete(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(Node("w1@lab"), Node("frozen@lab", answers=()))
    asked = await broker.ask([Question.STATS], to=None, timeout=0.3)
    assert not asked.complete
    assert asked.expected == 2
    async with asyncio.timeout(10):
        again = await broker.ask([Question.STATS], to=None, timeout=FAR_OFF)
    assert not again.complete
    assert len(again.replies[Question.STATS]) == 1


async def test_rounds_at_the_same_time_do_not_take_each_others_replies(
    broker: RedisBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    simulate(*(Node(f"w{number}@lab") for number in range(10)))
    rounds = await asyncio.gather(
        *(broker.ask([Question.PING, Question.STATS], to=None, timeout=10.0) for _ in range(10))
    )
    for asked in rounds:
        assert asked.complete
        assert len(asked.replies[Question.STATS]) == 10


async def test_an_asker_that_is_cancelled_takes_nothing_from_the_others(
    broker: RedisBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    cancelled = asyncio.create_task(broker.ask([Question.STATS], to=None, timeout=FAR_OFF))
    asking = asyncio.create_task(broker.ask([Question.PING], to=None, timeout=FAR_OFF))
    first, second = await one.next(), await one.next()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    for heard in (first, second):
        await one.reply(heard, PONG)
    assert (await asking).complete


async def test_an_order_with_a_stolen_lease_is_not_published(
    redis_server: RedisServer, make_broker: MakeBroker, node: Callable[[str], HandledNode]
) -> None:
    one = node("one@lab")
    await one.listen()
    broker = make_broker(redis_server.url(), lease_ttl=0.05)
    stolen = await broker.lease.acquire(ANN)
    with redis_server.client() as client:
        client.set("celery-ops:lease", '{"token": "somebody-else"}')
    order = CancelConsumer("celery")
    with pytest.raises(LeaseLost):
        await broker.order(order, to=Targets(("one@lab",)), fence=stolen, timeout=1.0)
    for damaged in ("null", "[1]", "not JSON", '{"token": 1}'):
        with redis_server.client() as client:
            client.set("celery-ops:lease", damaged)
        with pytest.raises(LeaseLost):
            await broker.order(order, to=Targets(("one@lab",)), fence=Fence("1"), timeout=1.0)
    asking = asyncio.create_task(broker.ask([Question.PING], to=None, timeout=FAR_OFF))
    heard = await one.next()
    assert heard.method == "ping", "the first message the node ever received"
    await one.reply(heard, PONG)
    await asking


async def test_a_reply_list_that_was_evicted_gets_its_expiry_back(
    broker: RedisBroker, node: Callable[[str], HandledNode], redis_server: RedisServer
) -> None:
    one = node("one@lab")
    await one.listen()
    client: Any = redis_server.client()
    for _ in range(3):
        asking = asyncio.create_task(broker.ask([Question.PING], to=None, timeout=FAR_OFF))
        heard = await one.next()
        await one.reply(heard, PONG)
        assert (await asking).complete
        (replies,) = client.keys("*.reply.celery-ops.pidbox")
        assert 0 < client.pttl(replies) <= 60_000
        client.delete(replies)
        await one.reply(heard, PONG)
        assert client.pttl(replies) == -1, "what a worker's push makes of it"
    client.close()


async def test_a_lease_expires_by_itself(
    redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(redis_server.url(), lease_ttl=0.05)
    fence = await broker.lease.acquire(ANN)
    for _ in range(500):
        await asyncio.sleep(0.01)
        if await broker.holder() is None:
            break
    with pytest.raises(LeaseLost):
        await broker.lease.renew(fence)
    await broker.lease.acquire(ANN)


async def test_a_broker_that_goes_down_in_the_middle_of_a_round_ends_it(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    client: Any = own_redis.client()
    pubsub = client.pubsub()
    pubsub.psubscribe("/0.celery.pidbox")
    client.sadd("_kombu.binding.celery.pidbox", "\x06\x16\x06\x16frozen@lab.celery.pidbox")
    asking = asyncio.create_task(broker.ask([Question.STATS], to=None, timeout=FAR_OFF))
    await settled()
    own_redis.kill()
    with pytest.raises(BrokerUnreachable):
        async with asyncio.timeout(10):
            await asking
    own_redis.start()
    asked = await broker.ask([Question.STATS], to=None, timeout=FAR_OFF)
    assert asked.complete
    pubsub.close()
