"""A rollback to a release that lacks a task, while messages of it wait and more of them come: its
workers would discard them, and get none.

They run once on the release that knows them, are parked, or are among the few that a worker got as
it started, of which its own log tells.
"""

from __future__ import annotations

import json
import os
import re
import signal
from base64 import b64decode
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.released import NEW, OLD, current, released_fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet
    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

FIRST = 100_000
"""The number of the first task that the earlier release does not know."""
NOVEL_EVERY = 0.02
OPTIONS = ("-p", "watch=1s", "-p", "batch=2", "-p", "silence=1s", "--yes", "--json")


@pytest.mark.parametrize("strategy", ["drain-first", "rolling"])
def test_what_the_earlier_release_does_not_know_is_parked_and_comes_back(
    tmp_path: Path, strategy: str
) -> None:
    with released_fleet(tmp_path / "fleet", "web1") as fleet:
        fleet.hosts["web1"].run("chmod", "-R", "a+rX", "/srv/app")  # who looks is not who runs it
        ann = fleet.operator(tmp_path, "ann")
        novel = Load(
            fleet.fleet, "common", "mail", first=FIRST, every=NOVEL_EVERY, tasks=("rig.novel",)
        )
        with Load(fleet.fleet, *fleet.consumers) as load, novel:
            wait_until(lambda: len(fleet.fleet.ends()) > 20, what="the fleet is at work")
            run = rolled_back_in_spite_of_a_crash(ann, strategy)
        assert run.code == 0, run.all
        assert current(fleet) == {"web1": OLD}
        load.settle(logs=fleet.logged)
        assert load.twice() == []
        wait_until(lambda: fleet.redis.llen("common") == 0, what="nothing waits")
        kept, discarded = parked(fleet), logged_as_discarded(fleet)
        begun = {number for number in fleet.fleet.starts() if number >= FIRST}
        print(f"{novel.sent} sent, {len(begun)} begun, {len(kept)} parked, {discarded} discarded")
        assert not begun & kept.keys()
        assert len(kept) > 50
        late = set(novel.numbers[-10:])  # sent when all is over: nothing parks them any more
        gone = set(novel.numbers) - begun - kept.keys()
        assert len(gone) == discarded
        assert fleet.poller.consumers() == fleet.consumers
        assert fleet.nothing_is_taken()
        assert not fleet.redis.keys("*through*")
        assert late
        fleet.dismiss()
        assert fleet.leaks() == []


def rolled_back_in_spite_of_a_crash(ann: Operator, strategy: str) -> Said:
    """The executor is killed when the first worker is switched."""
    plan = ann.do("runbook", "rollback", "-p", f"strategy={strategy}", "--plan")
    print(plan.all)
    going = ann.start("runbook", "rollback", "-p", f"strategy={strategy}", *OPTIONS)
    ann.until(lambda one: one["event"] == "intent" and one.get("verb") == "start", "a start")
    os.kill(ann.executor(), signal.SIGKILL)
    died = going.wait()
    assert died.code == 4, died.all
    return ann.do("runs", "resume", "--json")


def parked(fleet: HostFleet) -> dict[int, bytes]:
    """The messages that are parked, by the number of their task."""
    found = {}
    for key in fleet.redis.keys("celery-ops.parked.*"):
        for raw in fleet.redis.lrange(key, 0, -1):
            message = json.loads(raw)
            assert message["headers"]["task"] == "rig.novel"
            found[json.loads(b64decode(message["body"]))[0][0]] = raw
    return found


def logged_as_discarded(fleet: HostFleet) -> int:
    said = fleet.logged(["unregistered"])
    return len(re.findall(r"Received unregistered task of type", said))


assert NEW
