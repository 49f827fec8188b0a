"""The contract, kept by the adapter for Redis and by the stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.contract import BrokerContract
from tests.broker.held import hold
from tests.broker.reading_contract import ReadingContract
from tests.rig.nodes import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.ports import Broker
    from tests.broker.conftest import MakeBroker
    from tests.rig.nodes import SimulatedNodes
    from tests.rig.redis import RedisServer


class TestRedis(BrokerContract, ReadingContract):
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
