"""Queue sizes on a real Redis."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker import sizes
from tests.rig.nodes import envelope

if TYPE_CHECKING:
    from celery_ops.broker.redis import RedisBroker
    from celery_ops.ports import QueueReading, QueuesReading
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

MESSAGE = envelope([[1], {}, {}], {"id": "task-1", "task": "app.work"})


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


def hold(
    redis: Any,
    tag: str,
    *,
    queue: str = "mail",
    exchange: str = "",
    task: str = "task-1",
    age: float = 1.0,
    padding: int = 0,
) -> None:
    """What a worker writes when it takes a message."""
    message = {"body": "x" * padding, "headers": {"id": task}, "properties": {}}
    redis.hset("unacked", tag, json.dumps([message, exchange, queue]))
    redis.zadd("unacked_index", {tag: time.time() - age})


def queue(reading: QueuesReading, name: str) -> QueueReading:
    return next(it for it in reading.queues if it.name == name)


async def test_ready_messages_are_counted_at_every_step(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("mail", *[MESSAGE] * 3)
    redis.lpush("mail\x06\x166", *[MESSAGE] * 2)
    found = queue(await broker.queues(["mail"]), "mail")
    assert found.ready == 5
    assert found.by_priority == ((0, 3), (3, 0), (6, 2), (9, 0))
    assert found.unacked == 0


async def test_steps_prefix_and_separator_are_those_of_the_fleet(
    redis: Any, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(
        redis_server.url(), priority_steps=[0, 5], sep=":", global_keyprefix="{app}*"
    )
    redis.lpush("{app}*mail:5", MESSAGE)
    redis.lpush("{app}*found", MESSAGE)
    redis.lpush("other", MESSAGE)
    redis.hset("{app}*unacked", "t1", json.dumps([{"headers": {"id": "a"}}, "", "mail"]))
    redis.zadd("{app}*unacked_index", {"t1": 1})
    reading = await broker.queues(["mail"])
    assert {it.name: it.ready for it in reading.queues} == {"mail": 1, "found": 1}
    assert queue(reading, "mail").unacked == 1


async def test_held_messages_are_told_apart_by_queue(redis: Any, broker: RedisBroker) -> None:
    for number in range(3):
        hold(redis, f"m{number}", queue="mail", task=f"task-{number}")
    hold(redis, "r1", queue="reports")
    reading = await broker.queues([])
    assert {it.name: it.unacked for it in reading.queues} == {"mail": 3, "reports": 1}
    assert reading.unacked is not None
    assert {(it.tag, it.task_id, it.queue) for it in reading.unacked} >= {
        ("m0", "task-0", "mail"),
        ("r1", "task-1", "reports"),
    }
    assert all(0 <= (reading.at - it.since).total_seconds() < 60 for it in reading.unacked)


async def test_a_message_that_was_acknowledged_is_counted_no_more(
    redis: Any, broker: RedisBroker
) -> None:
    hold(redis, "t1")
    hold(redis, "t2")
    assert queue(await broker.queues(["mail"]), "mail").unacked == 2
    redis.hdel("unacked", "t1")
    redis.zrem("unacked_index", "t1")
    assert queue(await broker.queues(["mail"]), "mail").unacked == 1


async def test_a_tag_that_comes_back_is_looked_into_again(redis: Any, broker: RedisBroker) -> None:
    hold(redis, "t1", queue="mail")
    await broker.queues([])
    redis.delete("unacked", "unacked_index")
    await broker.queues([])
    hold(redis, "t1", queue="reports")
    assert queue(await broker.queues([]), "reports").unacked == 1


async def test_a_delivery_at_an_impossible_time_is_counted(redis: Any, broker: RedisBroker) -> None:
    for tag, score in (("past", "-inf"), ("future", "+inf"), ("never", 0)):
        hold(redis, tag)
        redis.zadd("unacked_index", {tag: score})
    assert queue(await broker.queues([]), "mail").unacked == 3


async def test_a_held_message_is_looked_into_once(redis: Any, broker: RedisBroker) -> None:
    hold(redis, "t1", queue="mail")
    await broker.queues([])
    redis.config_resetstat()
    hold(redis, "t2", queue="mail")
    assert queue(await broker.queues([]), "mail").unacked == 2
    assert redis.info("commandstats")["cmdstat_hmget"]["calls"] == 1
    redis.config_resetstat()
    assert queue(await broker.queues([]), "mail").unacked == 2
    assert "cmdstat_hmget" not in redis.info("commandstats")


async def test_exchanges_are_followed_to_their_queues(redis: Any, broker: RedisBroker) -> None:
    redis.sadd("_kombu.binding.media", "video\x06\x16\x06\x16films", "audio\x06\x16\x06\x16songs")
    redis.sadd(
        "_kombu.binding.news",
        "eu.#\x06\x16^eu\\..*?$\x06\x16europe",
        "*.de\x06\x16^[^\\.]*\\.de$\x06\x16germany",
    )
    hold(redis, "t1", exchange="media", queue="video")
    hold(redis, "t2", exchange="news", queue="eu.fr.paris")
    hold(redis, "t3", exchange="news", queue="eu.de")
    hold(redis, "t4", exchange="gone", queue="x")
    reading = await broker.queues([])
    assert {it.name: it.unacked for it in reading.queues} == {
        "films": 1,
        "songs": 0,
        "europe": None,
        "germany": None,
    }
    assert reading.unacked is not None
    assert {it.tag: it.queue for it in reading.unacked} == {
        "t1": "films",
        "t2": "europe",
        "t3": None,
        "t4": None,
    }


async def test_above_the_cap_held_messages_are_unknown_and_that_is_said(
    redis: Any, broker: RedisBroker
) -> None:
    pipe = redis.pipeline()
    for number in range(sizes.UNACKED_CAP + 1):
        pipe.hset("unacked", f"t{number}", "x")
        pipe.zadd("unacked_index", {f"t{number}": 1})
    pipe.execute()
    reading = await broker.queues(["mail"])
    assert reading.unacked is None
    assert queue(reading, "mail").unacked is None
    assert any("10001 messages" in note for note in reading.notes)


async def test_large_held_messages_are_looked_into_over_several_calls(
    redis: Any, broker: RedisBroker
) -> None:
    for number in range(450):
        hold(redis, f"t{number}", padding=100_000)
    first = await broker.queues(["mail"])
    assert first.unacked is None
    assert any("not been looked into yet" in note for note in first.notes)
    assert (await broker.queues(["mail"])).unacked is None
    assert queue(await broker.queues(["mail"]), "mail").unacked == 450


async def test_held_messages_without_an_index_are_not_taken_for_none(
    redis: Any, broker: RedisBroker
) -> None:
    hold(redis, "t1")
    redis.hset("unacked", "t2", "[]")
    reading = await broker.queues(["mail"])
    assert queue(reading, "mail").unacked is None
    assert any("missing in unacked_index" in note for note in reading.notes)


async def test_a_damaged_held_message_belongs_to_no_queue(redis: Any, broker: RedisBroker) -> None:
    redis.hset("unacked", "t1", b"\xff\x00")
    redis.zadd("unacked_index", {"t1": 1})
    reading = await broker.queues(["mail"])
    assert reading.unacked is not None
    assert [(it.task_id, it.queue) for it in reading.unacked] == [(None, None)]


async def test_queues_that_nobody_named_are_found(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("forgotten", MESSAGE)
    redis.lpush("only-urgent\x06\x163", MESSAGE)
    redis.sadd("_kombu.binding.empty", "empty\x06\x16\x06\x16empty")
    reading = await broker.queues(["mail"])
    assert {it.name: it.ready for it in reading.queues} == {
        "mail": 0,
        "forgotten": 1,
        "only-urgent": 1,
        "empty": 0,
    }
    assert reading.notes == ()


async def test_what_is_no_queue_is_not_shown_as_one(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("a-list-of-the-application", "hello", "world")
    redis.lpush("x.reply.celery.pidbox", MESSAGE)
    redis.lpush("x.reply.celery-ops.pidbox", MESSAGE)
    redis.lpush(b"\xff\xfe", MESSAGE)
    redis.set("celery-task-meta-1", "{}")
    redis.hset("celery-ops:taken", "x", "y")
    redis.sadd("_kombu.binding.celery.pidbox", "\x06\x16\x06\x16w1@lab.celery.pidbox")
    redis.sadd("_kombu.binding.celeryev", "worker.#\x06\x16\x06\x16celeryev.57a2811d")
    redis.sadd("_kombu.binding.celery-ops.reply", "c\x06\x16\x06\x16c.reply.celery-ops.pidbox")
    redis.sadd("_kombu.binding.broken", "what is this")
    assert (await broker.queues([])).queues == ()


async def test_a_name_that_is_no_list_is_left_out(redis: Any, broker: RedisBroker) -> None:
    redis.set("celery", "a string")
    assert (await broker.queues(["celery", "mail", "\ud800"])).queues != ()
    assert "celery" not in {it.name for it in (await broker.queues(["celery"])).queues}


async def test_a_large_database_is_scanned_over_several_calls(
    redis: Any, broker: RedisBroker
) -> None:
    redis.mset({f"celery-task-meta-{number}": "x" for number in range(30_000)})
    redis.lpush("forgotten", MESSAGE)
    reading = await broker.queues([])
    assert any("30001 keys" in note and "not all been scanned" in note for note in reading.notes)
    for _ in range(50):
        if not reading.notes:
            break
        reading = await broker.queues([])
    assert [it.name for it in reading.queues] == ["forgotten"]
    assert reading.notes == ()


async def test_thousands_of_queues_are_counted(redis: Any, broker: RedisBroker) -> None:
    known = [f"q{number}" for number in range(2500)]
    redis.lpush("q2499", MESSAGE)
    reading = await broker.queues(known)
    assert len(reading.queues) == 2500
    assert queue(reading, "q2499").ready == 1


async def test_no_key_is_ever_asked_for_by_keys(redis: Any, broker: RedisBroker) -> None:
    redis.config_resetstat()
    await broker.queues(["mail"])
    assert "cmdstat_keys" not in redis.info("commandstats")
