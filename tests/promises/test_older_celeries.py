"""A queue is paused, its executor killed, and given back by somebody else: with workers of older
Celeries too, consumers are exactly as before.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.celeries import PACKAGES, python_with
from tests.rig.mortal import Death, When
from tests.rig.operator import Operator
from tests.rig.poller import Poller
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.rig

NODES = ("old1@rig", "old2@rig")
QUEUES = ("plain", "other", "special")
HOW: dict[str, Any] = {
    "exchange": "shops",
    "exchange_type": "topic",
    "routing_key": "shop.#",
    "options": {"queue_arguments": {"x-expires": 3_600_000}, "max_priority": 9},
}
OWN = "this one"


@pytest.fixture(scope="module", params=(*PACKAGES, OWN))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    folder = tmp_path_factory.mktemp("old")
    version: str = request.param
    python = sys.executable if version == OWN else python_with(version, folder)
    server = RedisServer(folder / "redis")
    try:
        fleet = Fleet(folder / "app", server.url(), server.url(1), python=python)
        try:
            quiet = ("--without-gossip", "--without-mingle")
            fleet.start(*NODES, queues=("plain", "other"), arguments=quiet)
            for node in NODES:
                fleet.add_consumer(node, "special", **HOW)
            yield Old(version, server, fleet)
        finally:
            fleet.stop()
    finally:
        server.stop()


class Old:
    """A fleet of some version of Celery."""

    def __init__(self, version: str, server: RedisServer, fleet: Fleet) -> None:
        self.version = version
        self.fleet = fleet
        self.url = server.url()
        self._poller = Poller(server.client())

    def consumed(self) -> dict[str, list[dict[str, Any]]]:
        """All that each worker says of each queue it consumes, once both have answered."""
        said: dict[str, list[dict[str, Any]]] = {}

        def has_answered() -> bool:
            said.clear()
            said.update(self._poller.consuming())
            return said.keys() == set(NODES)

        wait_until(has_answered, what="both say what they consume")
        return said

    def is_consumed(self, queue: str) -> bool:
        """Whether any worker says that it consumes it."""
        return any(queue in {one["name"] for one in said} for said in self.consumed().values())


@pytest.fixture
def operators(old: Old, tmp_path: Path) -> Iterator[tuple[Operator, Operator]]:
    ann, bob = (Operator(tmp_path, name, "-b", old.url) for name in ("ann", "bob"))
    yield ann, bob
    ann.stop()
    bob.stop()


def test_consumers_are_exactly_as_before(
    old: Old, operators: tuple[Operator, Operator], tmp_path: Path
) -> None:
    ann, bob = operators
    before = old.consumed()
    assert all({one["name"] for one in said} == set(QUEUES) for said in before.values())
    dies = Death("pause queue", When.DURING).variables(tmp_path / "death")
    died = ann.do("queue", "pause", "special", "--yes", **dies)
    assert died.code == 4, died.all
    wait_until(lambda: not old.is_consumed("special"), what="nobody consumes it")
    (run,) = {one["run"] for one in bob.status()["taken"]}
    adopted = bob.do("runs", "adopt", run, "--yes", "--wait", "1m")
    assert adopted.code == 0, adopted.all
    assert old.consumed() == before
    assert bob.status()["taken"] == []
    forgets = "forgets that when it next reconnects to the broker" in adopted.all
    assert forgets is (old.version != OWN), adopted.all


def test_a_queue_that_the_application_knows_is_paused_and_given_back(
    old: Old, operators: tuple[Operator, Operator]
) -> None:
    ann, bob = operators
    before = old.consumed()
    paused = ann.do("queue", "pause", "plain", "--yes")
    assert paused.code == 0, paused.all
    assert not old.is_consumed("plain")
    seen = {one["name"]: one for one in bob.status()["queues"]}
    assert seen["plain"]["paused"] is True
    assert seen["plain"]["consumers"] == 0
    assert seen["other"]["consumers"] == len(NODES)
    again = bob.do("queue", "resume", "plain")
    assert again.code == 0, again.all
    assert old.consumed() == before


def test_tasks_are_held_and_released_and_consumers_are_exactly_as_before(
    old: Old, operators: tuple[Operator, Operator]
) -> None:
    ann, bob = operators
    before = old.consumed()
    refused = ann.do("task", "hold", "rig.work_late", "--yes")
    assert refused.code == 7, refused.all
    assert "special expires (x-expires)" in refused.all
    assert "-p queues=other,plain" in refused.all
    held = ann.do("task", "hold", "rig.work_late", "-p", "queues=plain,other", "--yes")
    assert held.code == 0, held.all
    assert not old.is_consumed("plain")
    assert not old.is_consumed("other")
    for number in range(20):
        old.fleet.send(number, queue="plain", task="rig.work_late")
        old.fleet.send(100 + number, queue="other")
    wait_until(lambda: len(old.fleet.ends()) == 20, what="the others")
    assert min(old.fleet.starts()) == 100
    released = bob.do("task", "release", "--yes")
    assert released.code == 0, released.all
    wait_until(lambda: len(old.fleet.ends()) == 40, what="those that were held")
    assert set(old.fleet.starts().values()) == {1}
    assert old.consumed() == before
    assert bob.status()["taken"] == []
