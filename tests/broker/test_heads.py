"""What is served next, and how much memory queues take, on a real Redis."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker import heads, sizes
from tests.rig.nodes import envelope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.broker.redis import RedisBroker
    from celery_ops.ports import QueueReading
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

LOGIN = ("on", ">x", "~*", "&*", "+@all")


def message(padding: int = 0) -> bytes:
    return envelope(["x" * padding], {"id": str(uuid.uuid4()), "task": "app.work"})


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


@pytest.fixture
def limited(redis: Any, redis_server: RedisServer) -> Iterator[str]:
    """The URL of a user from whom rights can be taken: `limited`."""
    redis.execute_command("ACL", "SETUSER", "limited", *LOGIN)
    yield redis_server.url().replace("redis://", "redis://limited:x@")
    redis.execute_command("ACL", "DELUSER", "limited")


async def mail(broker: RedisBroker) -> QueueReading:
    return next(one for one in (await broker.queues(["mail"])).queues if one.name == "mail")


async def test_the_message_that_is_served_next_is_told_at_each_step(
    redis: Any, broker: RedisBroker
) -> None:
    redis.lpush("mail", *[message() for _ in range(3)])
    redis.lpush("mail\x06\x163", *[message() for _ in range(2)])
    first = (await mail(broker)).heads
    assert first is not None
    assert len(set(first)) == 2
    redis.lpush("mail", message())
    assert (await mail(broker)).heads == first, "what comes later is not served next"
    redis.rpop("mail")
    then = (await mail(broker)).heads
    assert then is not None
    assert then[0] != first[0]
    assert then[1] == first[1]


async def test_an_empty_queue_has_nothing_to_serve(redis: Any, broker: RedisBroker) -> None:
    redis.lpush("mail", message())
    await mail(broker)
    redis.delete("mail")
    found = await mail(broker)
    assert (found.bytes, found.heads) == (0, ())


async def test_memory_is_about_that_of_the_messages(redis: Any, broker: RedisBroker) -> None:
    messages = [message(500) for _ in range(5_000)]
    redis.lpush("mail", *messages)
    size = (await mail(broker)).bytes
    assert size == pytest.approx(sum(map(len, messages)), rel=0.25)


async def test_a_large_message_is_read_once_to_see_that_it_is_one(
    redis: Any, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "_PASS_AGAIN", 0.0)
    redis.lpush("mail", message(3_000_000))
    await mail(broker)
    before = redis.info("stats")["total_net_output_bytes"]
    found = await mail(broker)
    assert found.heads is not None
    assert found.bytes is not None
    assert found.bytes > 3_000_000
    assert redis.info("stats")["total_net_output_bytes"] - before < 100_000


async def test_many_lists_are_looked_at_one_part_after_the_other(
    redis: Any, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_LISTS_A_CALL", 4)
    monkeypatch.setattr(heads, "_LISTS_AT_A_TIME", 3)
    monkeypatch.setattr(heads, "_BYTES_AT_A_TIME", 2_000)
    names = [f"q{number}" for number in range(10)]
    for name in names:
        redis.lpush(name, message(1_500))
    looked: set[str] = set()
    for _ in range(3):
        found = (await broker.queues(names)).queues
        looked |= {one.name for one in found if one.heads is not None}
    assert looked == set(names)
    assert all(one.heads for one in (await broker.queues(names)).queues)


async def test_a_key_that_is_no_queue_does_no_harm(redis: Any, broker: RedisBroker) -> None:
    redis.set("mail\x06\x163", "not a list")
    redis.lpush("other", message())
    found = {one.name: one for one in (await broker.queues(["mail", "other"])).queues}
    assert "mail" not in found
    assert found["other"].heads is not None


async def test_without_the_right_to_ask_for_memory_only_that_is_unknown(
    redis: Any, limited: str, make_broker: MakeBroker
) -> None:
    redis.execute_command("ACL", "SETUSER", "limited", "-memory")
    redis.lpush("mail", message())
    found = await mail(make_broker(limited))
    assert (found.ready, found.bytes) == (1, None)
    assert found.heads


async def test_without_the_right_to_run_scripts_it_says_what_is_not_known(
    redis: Any, limited: str, make_broker: MakeBroker
) -> None:
    redis.execute_command("ACL", "SETUSER", "limited", "-eval")
    redis.lpush("mail", message())
    reading = await make_broker(limited).queues(["mail"])
    (found,) = reading.queues
    assert (found.ready, found.bytes, found.heads) == (1, None, None)
    assert any("may not run EVAL" in note for note in reading.notes)
