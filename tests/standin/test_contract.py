"""The stand-in broker keeps the contract of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.contract import HoldingContract
from tests.broker.moving_contract import MovingContract
from tests.broker.reading_contract import ReadingContract
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from collections.abc import Callable


class TestStandinBroker(HoldingContract, ReadingContract, MovingContract):
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
    def abandon(self, broker: StandinBroker) -> Callable[[str], str]:
        fleet = broker.fleet

        def leave(queue: str) -> str:
            message = fleet.send(queue)
            fleet.queues[queue].remove(message)
            message.delivered = fleet.clock.now()
            fleet.stuck.append((message, fleet.clock.monotonic()))
            return message.id

        return leave

    @pytest.fixture
    def rival(self, broker: StandinBroker) -> StandinBroker:
        return broker
