"""The whole command watches: `status --watch` writes nothing but keys that expire by themselves.

What the broker's adapter does, late replies and all, is the matter of tests/broker.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.monitor import Monitor
from tests.rig.operations import PASSWORD, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.promises.conftest import MakeOperator

pytestmark = pytest.mark.rig

WATCHED_FOR = 10.0
LONGEST_LIFE = 60_000
"""Milliseconds."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), Program("w1"), Program("w2")) as made:
        yield made


@pytest.fixture
def as_watcher(fleet: Operations, tmp_path: Path) -> Path:
    """The configuration, with a login by which the connections of the command can be told."""
    login = ("watcher", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    redis: Any = fleet.redis
    redis.execute_command("ACL", "SETUSER", *login)
    config = tmp_path / "celery-ops.yaml"
    config.write_text(fleet.config.read_text().replace("redis://ops:", "redis://watcher:"))
    return config


def addresses(fleet: Operations) -> set[str]:
    connected: Any = fleet.redis.client_list()
    return {entry["addr"] for entry in connected if entry["user"] == "watcher"}


def lives(fleet: Operations) -> dict[str, int]:
    """How many ms each key lives on; -1 if it stays."""
    redis: Any = fleet.redis
    return {name.decode(): redis.pttl(name) for name in redis.keys("*")}


def test_all_that_is_left_of_a_killed_watcher_expires(
    fleet: Operations, operator: MakeOperator, as_watcher: Path
) -> None:
    fleet.fleet.send(1, task="rig.hold", queue="w1")
    wait_until(lambda: 1 in fleet.fleet.starts(), what="a task that is held")
    before = lives(fleet)
    monitor = Monitor(fleet.server)
    watching = operator("ann", "--config", str(as_watcher)).start("status", "--watch", "--json")
    seen: set[str] = set()
    until = time.monotonic() + WATCHED_FOR
    while time.monotonic() < until:
        seen |= addresses(fleet)
        time.sleep(0.02)
    watching.process.kill()
    said = watching.wait()
    monitor.stop()
    writes = monitor.writes_of(seen)

    shown = [json.loads(line) for line in said.out.splitlines()]
    assert len(shown) >= 3
    assert {worker["name"]: worker["active"] for worker in shown[-1]["workers"]} == {
        "w1@rig": 1, "w2@rig": 0,
    }  # fmt: skip
    assert writes, "the watcher was watched"
    written = {key for _, key in writes}
    left = {key: life for key, life in lives(fleet).items() if key not in before}
    assert written == left.keys()
    assert all("celery-ops" in key for key in written)
    assert all(0 < life <= LONGEST_LIFE for life in left.values()), left
    (binding,) = (life for key, life in left.items() if "binding" in key)
    (replies,) = (life for key, life in left.items() if "binding" not in key)
    assert binding < replies, "who answers late finds no binding, and leaves nothing"
    fleet.fleet.release(1)
