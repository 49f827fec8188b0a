"""The stand-in broker keeps the contract of the real ones."""

from __future__ import annotations

import pytest

from tests.broker.contract import BrokerContract
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet


class TestStandinBroker(BrokerContract):
    @pytest.fixture
    def nodes(self) -> list[str]:
        return ["w1@lab", "w2@lab"]

    @pytest.fixture
    def broker(self, nodes: list[str]) -> StandinBroker:
        fleet = StandinFleet(VirtualClock())
        for name in nodes:
            fleet.add_worker(name, host=None)
        return StandinBroker(fleet)

    @pytest.fixture
    def rival(self, broker: StandinBroker) -> StandinBroker:
        return broker
