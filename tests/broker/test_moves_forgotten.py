"""Messages that move while their broker forgets or loses what was said: on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import Transfer
from tests.broker.contract import ANN
from tests.broker.test_store_moving import ASIDE, envelope, is_even, number_of, transferred

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.broker.redis import RedisBroker
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import RedisServer

COUNT = 40
KEYS = ("mail", ASIDE, "celery-ops:tickets")


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    client: Any = redis_server.client()
    client.lpush("mail", *(envelope(number) for number in range(COUNT)))
    return client


def numbers(redis: Any, queue: str) -> list[int]:
    """The one that is served next first."""
    return [number_of(raw) for raw in reversed(redis.lrange(queue, 0, -1))]


def wanted(choose: object, limit: int | None) -> list[int]:
    return [number for number in range(COUNT) if choose is None or number % 2 == 0][:limit]


@pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
@pytest.mark.parametrize("limit", [None, 17], ids=["any", "limited"])
@pytest.mark.parametrize("at", [2, 4, None], ids=["early", "later", "at the end"])
async def test_what_the_broker_forgets_of_a_transfer_is_told_and_moves_again(
    redis: Any, broker: RedisBroker, choose: Any, limit: int | None, at: int | None
) -> None:
    """A fail-over that no connection notices, and that loses the last two portions."""
    fence = await broker.lease.acquire(ANN)
    transfer = Transfer("t", "mail", ASIDE, choose=choose, limit=limit, portion=3)
    known: list[dict[str, bytes | None]] = []

    def forget() -> None:
        for key, value in known[-3].items():
            redis.delete(key)
            if value is not None:
                redis.restore(key, 0, value)

    async def until_it_is_told() -> None:
        async with aclosing(broker.store.transfer(transfer, fence=fence)) as portions:
            async for portion in portions:
                known.append({key: redis.dump(key) for key in KEYS})
                is_last = portion.done == len(wanted(choose, limit))
                if is_last if at is None else len(known) == at + 2:
                    forget()

    with pytest.raises(BrokerUnreachable, match=r"has forgotten that \d of \d+ messages"):
        await until_it_is_told()
    assert await transferred(broker, transfer, fence) == len(wanted(choose, limit))
    assert numbers(redis, ASIDE) == wanted(choose, limit)
    left = set(range(COUNT)) - set(wanted(choose, limit))
    assert numbers(redis, "mail") == sorted(left)
    assert await broker.store.counted("t") == len(wanted(choose, limit))


class Deaf:
    """Stands before a server. Once the word was given, one script is done and its answer lost: the
    connection breaks instead.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.loses = False
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, there = await asyncio.open_connection(self._server.address, self._server.port)
        asked = asyncio.create_task(self._ask(reader, there, writer))
        try:
            while data := await behind.read(65_536):
                if self.loses and self.lost:
                    break
                writer.write(data)
                await writer.drain()
        finally:
            asked.cancel()
            writer.close()
            there.close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                self.lost += self.loses and b"EVAL" in data
                there.write(data)
                await there.drain()
            writer.close()


@pytest.fixture
async def deaf(redis_server: RedisServer) -> AsyncIterator[tuple[Deaf, str]]:
    made = Deaf(redis_server)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield made, f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
@pytest.mark.parametrize("limit", [None, 17], ids=["any", "limited"])
async def test_a_transfer_whose_answer_is_lost_goes_on_to_its_exact_end(
    redis: Any, deaf: tuple[Deaf, str], make_broker: MakeBroker, choose: Any, limit: int | None
) -> None:
    before, url = deaf
    broker = make_broker(url)
    fence = await broker.lease.acquire(ANN)
    transfer = Transfer("t", "mail", ASIDE, choose=choose, limit=limit, portion=3)
    done = 0

    async def until_it_is_lost() -> None:
        nonlocal done
        async with aclosing(broker.store.transfer(transfer, fence=fence)) as portions:
            async for portion in portions:
                done = portion.done
                before.loses = done >= 6

    with pytest.raises(BrokerUnreachable):
        await until_it_is_lost()
    before.loses = False
    assert before.lost == 1
    assert await broker.store.counted("t") > done, "it was done, and nobody was told"
    assert await transferred(broker, transfer, fence) == len(wanted(choose, limit))
    assert numbers(redis, ASIDE) == wanted(choose, limit)
    assert len(numbers(redis, "mail")) == COUNT - len(wanted(choose, limit))


async def test_a_put_whose_answer_is_lost_is_not_put_again(
    redis: Any, deaf: tuple[Deaf, str], make_broker: MakeBroker
) -> None:
    before, url = deaf
    broker = make_broker(url)
    fence = await broker.lease.acquire(ANN)
    stored = await broker.store.peek("mail", skip=0, count=5)
    before.loses = True
    with pytest.raises(BrokerUnreachable):
        await broker.store.put(stored, queue=ASIDE, ticket="b", done=0, fence=fence)
    before.loses = False
    assert not await broker.store.put(stored, queue=ASIDE, ticket="b", done=0, fence=fence)
    assert await broker.store.counted("b") == 5
    assert numbers(redis, ASIDE) == list(range(5))
