"""RedBeat: one scheduler has its lock and sends, the other stands by, and both come back.

What they send goes to a queue that nobody consumes, so somebody who knows nothing of celery_ops can
count who sent how much.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.celeries import redbeat
from tests.rig.operations import Operations, Program, operations
from tests.rig.workers import beat_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

LOCK = "redbeat::lock"
TICK = {"task": "rig.work", "schedule": 0.5, "args": [0], "options": {"queue": "periodic"}}
CONF = {
    "beat_schedule": {"tick": TICK},
    "beat_max_loop_interval": 1,
    "redbeat_lock_timeout": 10,
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    folder = tmp_path_factory.mktemp("redbeat")
    how: dict[str, Any] = {
        "beat": True,
        "packages": redbeat(folder / "packages"),
        "arguments": ("-S", "redbeat.RedBeatScheduler"),
    }
    with operations(folder, Program("one", **how), Program("two", **how), conf=CONF) as made:
        wait_until(lambda: bool(senders(made)), what="one of them sends")
        yield made


@pytest.fixture
def ann(fleet: Operations, tmp_path: Path) -> Operator:
    return fleet.operator(tmp_path, "ann")


def senders(fleet: Operations, since: int = 0) -> set[str]:
    """Who sent what has come to the queue since it was so long."""
    sent: Any = fleet.redis.lrange("periodic", 0, -1 - since)
    return {json.loads(one)["headers"]["origin"].partition("@")[0] for one in sent}


def is_due(fleet: Operations) -> bool:
    due: Any = fleet.redis.zscore("redbeat::schedule", "redbeat:tick")
    return float(due) < time.time()


def test_a_standby_is_no_second_sender_and_both_come_back(fleet: Operations, ann: Operator) -> None:
    seen = ann.do("beat", "--json").json
    assert seen["senders"] == 1, seen
    ours = [one for one in seen["beats"] if one["configured"]]
    assert [one["waits_for_lock"] for one in ours] == [True, True]
    assert 0 < seen["lock_held_for"] <= 10
    assert seen["problems"] == []
    names = {one["sends_as"].partition("@")[0] for one in ours}
    assert senders(fleet) < names, "one of the two sends, under the name that was told"

    plan = ann.do("beat", "stop", "--plan")
    assert "longer than the shortest interval, 500ms (tick; RedBeat's own entries" in plan.out
    stopped = ann.do("beat", "stop", "--yes", "-p", "silence=1s")
    assert stopped.code == 0, stopped.all
    assert (fleet.pid("one"), fleet.pid("two")) == (0, 0)
    assert not fleet.redis.exists(LOCK)
    length: Any = fleet.redis.llen("periodic")

    wait_until(lambda: is_due(fleet), what="its entry has come due")
    started = ann.do("beat", "start", "--yes", "-p", "silence=1s")
    assert started.code == 0, started.all
    assert 0 not in (fleet.pid("one"), fleet.pid("two"))
    assert len(senders(fleet, length)) == 1
    assert "rig.work came from gen" in started.out
    assert "tick (every 500ms) is sent at once" in started.out
    assert fleet.nothing_is_taken()


def test_one_that_was_started_by_hand_is_found_and_refused(
    fleet: Operations, ann: Operator
) -> None:
    """Without RedBeat's lock it is a second sender."""
    by_hand = subprocess.Popen(
        beat_command("by-hand"),
        cwd=fleet.folder / "app",
        env={**fleet.fleet.environment(), "PATH": "/usr/bin:/bin", "RIG_PROGRAM": "by-hand"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: f"gen{by_hand.pid}" in senders(fleet), what="it sends")
        seen = ann.do("beat", "--json").json
        assert (seen["senders"], seen["problems"][0]["rule"]) == (2, "two-beats")
        refused = ann.do("beat", "stop", "--yes")
        assert refused.code == 7, refused.all
        assert f"pid {by_hand.pid}) schedules, and no service is configured" in refused.all
        assert 0 not in (fleet.pid("one"), fleet.pid("two"))
    finally:
        by_hand.kill()
        by_hand.wait()
