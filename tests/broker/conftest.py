"""Brokers of ours, and nodes that answer when the test tells them to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from redis.asyncio import Redis

from celery_ops.broker import address
from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit.adapter import RabbitBroker
from celery_ops.broker.redis import RedisBroker
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from tests.rig.nodes import Node, SimulatedNodes, envelope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.rig.redis import RedisServer


class MakeBroker(Protocol):
    """Makes brokers that are closed at the end of the test."""

    def __call__(
        self,
        url: str,
        *,
        lease_ttl: float = 15.0,
        reply_expiry: float = 60.0,
        **options: object,
    ) -> RedisBroker: ...


@pytest.fixture
async def make_broker() -> AsyncIterator[MakeBroker]:
    made: list[RedisBroker] = []

    def make(
        url: str, *, lease_ttl: float = 15.0, reply_expiry: float = 60.0, **options: object
    ) -> RedisBroker:
        broker = RedisBroker(
            address.parse(Secret(url), options),
            options,
            clock=SystemClock(),
            lease_ttl=lease_ttl,
            reply_expiry=reply_expiry,
        )
        made.append(broker)
        return broker

    yield make
    for broker in made:
        await broker.close()


class MakeRabbit(Protocol):
    """The same for RabbitMQ; `management` is the URL of its API."""

    def __call__(
        self, url: str, *, management: str = "", lease_ttl: float = 15.0, **options: object
    ) -> RabbitBroker: ...


@pytest.fixture
async def make_rabbit() -> AsyncIterator[MakeRabbit]:
    made: list[RabbitBroker] = []

    def make(
        url: str, *, management: str = "", lease_ttl: float = 15.0, **options: object
    ) -> RabbitBroker:
        broker = RabbitBroker(
            amqp_address.parse(Secret(url), options),
            options,
            clock=SystemClock(),
            management=Secret(management) if management else None,
            lease_ttl=lease_ttl,
        )
        made.append(broker)
        return broker

    yield make
    for broker in made:
        await broker.close()


@pytest.fixture
def broker(redis_server: RedisServer, make_broker: MakeBroker) -> RedisBroker:
    """A broker on an empty Redis."""
    return make_broker(redis_server.url())


@pytest.fixture
def simulate(redis_server: RedisServer) -> Iterator[Callable[..., SimulatedNodes]]:
    """Starts simulated nodes on that Redis."""
    started: list[SimulatedNodes] = []

    def start(*nodes: Node, **where: str) -> SimulatedNodes:
        started.append(SimulatedNodes(redis_server.url(), nodes, **where))
        return started[-1]

    yield start
    for nodes in started:
        nodes.stop()


@dataclass(frozen=True)
class Heard:
    """A control message as a node received it."""

    method: str
    arguments: dict[str, object]
    destination: list[str] | None
    ticket: str
    reply_to: dict[str, str]
    channel: str


class HandledNode:
    """A node whose every reply is given by the test."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis: Any = redis  # redis-py is typed only in part
        self._pubsub: Any = self._redis.pubsub()
        self.name = name

    async def listen(self, channel: str = "/0.celery.pidbox") -> None:
        await self._redis.sadd(
            "_kombu.binding.celery.pidbox", f"\x06\x16\x06\x16{self.name}.celery.pidbox"
        )
        await self._pubsub.psubscribe(channel)
        await self._pubsub.get_message(timeout=5)

    async def next(self) -> Heard:
        """The next question; raise TimeoutError if none comes."""
        async with asyncio.timeout(10):
            while True:
                message: Any = await self._pubsub.get_message(timeout=10)
                if message is not None and message["type"] == "pmessage":
                    break
        body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
        assert (body.pop("pattern"), body.pop("matcher")) == (None, None)
        return Heard(**body, channel=message["channel"].decode())

    async def reply(
        self, to: Heard, value: object, *, name: str | None = None, pickled: bool = False
    ) -> None:
        """As kombu does it: to the lists that are bound with that routing key."""
        body = {name or self.name: value}
        await self.push(to, envelope(body, {"ticket": to.ticket, "clock": 1}, pickled=pickled))

    async def push(self, to: Heard, message: bytes) -> None:
        members = await self._redis.smembers(f"_kombu.binding.{to.reply_to['exchange']}")
        for member in members:
            key, _, queue = member.decode().split("\x06\x16")
            if key == to.reply_to["routing_key"]:
                await self._redis.lpush(queue, message)

    async def close(self) -> None:
        await self._pubsub.aclose()
        await self._redis.aclose()


@pytest.fixture
async def node(redis_server: RedisServer) -> AsyncIterator[Callable[[str], HandledNode]]:
    """Makes nodes in the test's own hand."""
    async with contextlib.AsyncExitStack() as stack:

        def make(name: str) -> HandledNode:
            made = HandledNode(Redis.from_url(redis_server.url(), protocol=2), name)
            stack.push_async_callback(made.close)
            return made

        yield make
