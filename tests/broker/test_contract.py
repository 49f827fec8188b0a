"""The contract, kept by the adapters for Redis and RabbitMQ; the stand-in's is beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.contract import PING, BrokerContract, HoldingContract
from tests.broker.held import hold
from tests.broker.moving_contract import ELSEWHERE, MovingContract
from tests.broker.reading_contract import ReadingContract
from tests.rig.amqp_nodes import AmqpNodes, declare
from tests.rig.nodes import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.ports import Broker
    from tests.broker.conftest import MakeBroker, MakeRabbit
    from tests.rig.nodes import SimulatedNodes
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import RedisServer


class TestRedis(HoldingContract, ReadingContract, MovingContract):
    """Two clients and three simulated nodes on a real Redis."""

    @pytest.fixture
    def rival(self, redis_server: RedisServer, make_broker: MakeBroker) -> Broker:
        return make_broker(redis_server.url())

    @pytest.fixture
    def abandon(self, redis_server: RedisServer) -> Callable[[str], str]:
        return lambda queue: hold(redis_server.client(), queue)

    @pytest.fixture
    def nodes(self, simulate: Callable[..., SimulatedNodes]) -> list[str]:
        names = ["w1@lab", "w2@lab", "w3@lab"]
        simulate(*map(Node, names))
        return names


class TestRabbit(BrokerContract):
    """Two clients and three simulated nodes on a real RabbitMQ."""

    @pytest.fixture
    def broker(self, rabbit: str, make_rabbit: MakeRabbit) -> Broker:
        return make_rabbit(rabbit)

    @pytest.fixture
    def rival(self, rabbit: str, make_rabbit: MakeRabbit) -> Broker:
        return make_rabbit(rabbit)

    @pytest.fixture
    def nodes(self, rabbit: str) -> Iterator[list[str]]:
        names = ["w1@lab", "w2@lab", "w3@lab"]
        simulated = AmqpNodes(rabbit, [Node(name) for name in names])
        yield names
        simulated.stop()

    @pytest.fixture
    def unconsumed(self, rabbit: str) -> str:
        declare(rabbit, PING.queue)
        return PING.queue


class TestRabbitWithItsManagement(TestRabbit):
    """The same, where the management API says who is bound and what is held."""

    @pytest.fixture
    def broker(self, rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer) -> Broker:
        return make_rabbit(rabbit, management=shared_rabbit.management)


class TestMessagesOfRabbit(ReadingContract, MovingContract):
    """What waits in the queues of a real RabbitMQ, which have to be declared."""

    @pytest.fixture
    def broker(self, rabbit: str, make_rabbit: MakeRabbit) -> Broker:
        for queue in (PING.queue, ELSEWHERE):
            declare(rabbit, queue)
        return make_rabbit(rabbit)
