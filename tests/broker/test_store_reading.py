"""Messages on a real Redis: looked at in the order in which kombu would serve them."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import PreconditionFailed
from tests.rig.monitor import Monitor

if TYPE_CHECKING:
    from celery_ops.broker.redis import RedisBroker
    from celery_ops.model import StoredMessage
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

SEPARATOR = "\x06\x16"


def fill(server: RedisServer, key: str, *ids: str, padding: int = 0) -> None:
    """Messages as kombu pushes them, the first to be served first."""
    client = server.client()
    with client.pipeline() as pipe:
        for id_ in ids:
            headers = {"id": id_, "task": "shop.mail", "retries": 0}
            envelope = {"body": "x" * padding, "headers": headers, "properties": {}}
            pipe.lpush(key, json.dumps(envelope))
        pipe.execute()
    client.close()


async def everything(broker: RedisBroker, queue: str) -> list[StoredMessage]:
    async with aclosing(broker.messages.read(queue)) as portions:
        return [message async for portion in portions for message in portion]


def ids(messages: list[StoredMessage] | tuple[StoredMessage, ...]) -> list[str | None]:
    return [message.id for message in messages]


async def test_smaller_steps_are_served_first(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    fill(redis_server, f"mail{SEPARATOR}9", "late-1", "late-2")
    fill(redis_server, "mail", "first", "second")
    fill(redis_server, f"mail{SEPARATOR}3", "third")
    in_order = ["first", "second", "third", "late-1", "late-2"]
    found = await broker.messages.peek("mail", skip=0, count=10)
    assert ids(found) == in_order
    assert [message.priority for message in found] == [0, 0, 3, 9, 9]
    assert ids(await everything(broker, "mail")) == in_order
    for skip in range(6):
        for count in range(6):
            some = await broker.messages.peek("mail", skip=skip, count=count)
            assert ids(some) == in_order[skip : skip + count]


async def test_steps_and_prefix_are_the_fleets_own(
    make_broker: MakeBroker, redis_server: RedisServer
) -> None:
    broker = make_broker(
        redis_server.url(), global_keyprefix="shop:", sep=":", priority_steps=[0, 5]
    )
    fill(redis_server, "shop:mail:5", "second")
    fill(redis_server, "shop:mail", "first")
    fill(redis_server, "mail", "of another fleet")
    assert ids(await everything(broker, "mail")) == ["first", "second"]
    told = await broker.store.priorities("mail")
    assert told.levels == (0, 5)
    assert told.options == {"priority_steps": (0, 5), "sep": ":"}


async def test_large_messages_are_read_a_few_at_a_time(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    sent = [f"id-{number}" for number in range(120)]
    fill(redis_server, "large", *sent, padding=300_000)
    portions = []
    async with aclosing(broker.messages.read("large")) as reading:
        portions = [ids(portion) async for portion in reading]
    assert [id_ for portion in portions for id_ in portion] == sent
    assert max(map(len, portions[1:])) == 3
    assert ids(await broker.messages.peek("large", skip=1, count=80)) == sent[1:81]


async def test_messages_that_come_meanwhile_do_not_keep_a_reading_from_its_end(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    fill(redis_server, "busy", "id-1", "id-2")
    found: list[str | None] = []
    async with aclosing(broker.messages.read("busy")) as reading:
        async for portion in reading:
            fill(redis_server, "busy", "later")
            found += ids(portion)
    assert found == ["id-1", "id-2"]


async def test_what_is_no_list_is_no_queue(broker: RedisBroker, redis_server: RedisServer) -> None:
    redis_server.client().hset("unacked", "tag", "value")
    with pytest.raises(PreconditionFailed, match="'unacked' is not a queue"):
        await broker.messages.peek("unacked", skip=0, count=1)
    with pytest.raises(PreconditionFailed):
        await everything(broker, "unacked")


async def test_bytes_come_back_as_they_are(broker: RedisBroker, redis_server: RedisServer) -> None:
    odd = [
        b"",
        b"\x00\xff\xfe",
        b"not json",
        b'{"body": 1}',
        b"[[[[",
        b"5",
        "漢\ud83d".encode("utf-8", "surrogatepass"),
    ]
    client = redis_server.client()
    client.lpush("odd", *odd)
    client.close()
    found = await broker.messages.peek("odd", skip=0, count=100)
    assert [message.raw for message in found] == odd
    assert {(message.id, message.task, message.retries) for message in found} == {(None,) * 3}


async def test_a_peek_reads_no_more_than_it_shows(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    fill(redis_server, "deep", *(f"id-{number}" for number in range(5_000)))
    monitor = Monitor(redis_server)
    found = await broker.messages.peek("deep", skip=2_000, count=20)
    monitor.stop()
    assert ids(found) == [f"id-{number}" for number in range(2_000, 2_020)]
    slices = [line.partition('"LRANGE" ')[2] for line in monitor.lines if "LRANGE" in line]
    assert slices == ['"deep" "-2020" "-2001"']


async def found_by(broker: RedisBroker, queue: str, *ids: str) -> list[tuple[int, str | None]]:
    async with aclosing(broker.messages.search(queue, ids)) as found:
        return [(ahead, message.id) async for ahead, message in found]


async def test_few_are_found_among_many_with_how_many_are_before_them(
    broker: RedisBroker, redis_server: RedisServer
) -> None:
    fill(redis_server, "mail", *(f"id-{number:04}" for number in range(2_500)), padding=2_000)
    fill(redis_server, f"mail{SEPARATOR}9", "late")
    assert await found_by(broker, "mail", "id-1999", "late", "id-0000", "no-such") == [
        (0, "id-0000"),
        (1999, "id-1999"),
        (2500, "late"),
    ]
    assert await found_by(broker, "mail") == []
    assert await found_by(broker, "never-used", "late") == []


@pytest.mark.parametrize("id_", ['a"b', "a\\b", "naïve", "\x1b[31m", "\n", "日本"])
@pytest.mark.parametrize("ascii_only", [True, False])
async def test_an_id_is_found_however_json_writes_it(
    broker: RedisBroker, redis_server: RedisServer, id_: str, ascii_only: bool
) -> None:
    envelope = {"body": "", "headers": {"id": id_, "task": "x"}, "properties": {}}
    with redis_server.client() as client:
        client.lpush("mail", json.dumps(envelope, ensure_ascii=ascii_only))
    assert await found_by(broker, "mail", id_) == [(0, id_)]
