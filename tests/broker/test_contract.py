"""The contract, kept by the adapters for Redis (with Sentinel, too) and RabbitMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.contract import PING, BrokerContract, HoldingContract
from tests.broker.held import hold
from tests.broker.moving_contract import ELSEWHERE, MovingContract
from tests.broker.reading_contract import ReadingContract
from tests.rig.amqp_nodes import AmqpNodes, declare
from tests.rig.nodes import Node, SimulatedNodes
from tests.rig.sentinel import LONG, SentinelRig, sentinel_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.ports import Broker
    from tests.broker.conftest import MakeBroker, MakeRabbit
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import RedisServer


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelRig]:
    """Servers and sentinels that want passwords."""
    folder = tmp_path_factory.mktemp("sentinel")
    with sentinel_rig(
        folder, down_after=LONG, password="of-redis", sentinel_password="of-sentinels"
    ) as made:
        yield made


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


class TestSentinel(HoldingContract):
    """The same on a master that three sentinels know of; it and they want passwords."""

    @pytest.fixture
    def broker(self, rig: SentinelRig, make_broker: MakeBroker) -> Broker:
        with rig.client() as client:
            client.flushall()
        return make_broker(rig.url(login=":of-redis@"), **rig.options())

    @pytest.fixture
    def rival(self, rig: SentinelRig, make_broker: MakeBroker) -> Broker:
        others = ";".join(reversed(rig.url(login=":of-redis@").split(";")))
        return make_broker(others, **rig.options())

    @pytest.fixture
    def abandon(self, rig: SentinelRig) -> Callable[[str], str]:
        return lambda queue: hold(rig.client(), queue)

    @pytest.fixture
    def nodes(self, rig: SentinelRig, broker: Broker) -> Iterator[list[str]]:
        del broker  # empties the server first
        names = ["w1@lab", "w2@lab", "w3@lab"]
        url = f"redis://:of-redis@127.0.0.1:{rig.master.port}/0"
        simulated = SimulatedNodes(url, [Node(name) for name in names])
        yield names
        simulated.stop()


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
