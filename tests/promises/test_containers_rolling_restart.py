"""The main job in containers: workers under docker and compose are restarted, under load.

Tasks that are acknowledged before and after their run are sent all the while; somebody who knows
nothing of celery_ops counts them, and the consumers; docker itself tells the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.down_and_up import down_and_up_again
from tests.rig import wait_until
from tests.rig.container_fleet import MEMBERS, SHELLED, ContainerFleet, container_fleet
from tests.rig.load import Load
from tests.rig.poller import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.rig

NODES = sorted(one.node for one in MEMBERS)
RESTART = (
    *("runbook", "rolling-restart", "-p", "hold=1s", "-p", "workers=queue:common"),
    *("-p", "batch=3", "-p", "keep_available=25%"),
)
GOES = ("two@box", "under-init@box")
"""One of docker's and one of compose's."""
TASKS_BEFORE = 20


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerFleet]:
    with container_fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def test_workers_in_containers_are_restarted_under_load_and_no_task_is_lost(
    fleet: ContainerFleet, tmp_path: Path
) -> None:
    ann = fleet.operator(tmp_path, "ann")
    before = fleet.lives()
    with Load(fleet.fleet, "common", "mail") as load:
        wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
        plan = ann.do(*RESTART, "--plan")
        with Sampler(fleet.poller) as sampler:
            run = ann.do(*RESTART, "--yes", "--json")
        down_and_up_again(
            ann,
            fleet.poller,
            goes=GOES,
            runs=lambda: fleet.running() - {SHELLED.node},
            workers=f"!{SHELLED.node}",
        )
    load.settle(logs=fleet.logged)
    assert plan.code == 0, plan.all
    assert "LOST" not in plan.out
    assert run.code == 0, run.all
    assert sorted(run.events[-1]["outcome"]["report"]["done"]) == NODES
    assert load.sent > 50
    assert load.twice() == []
    assert set(fleet.fleet.starts()) == set(load.numbers)
    assert sampler.samples[0] == sampler.samples[-1] == fleet.consumers
    assert all(sampler.least(queue) >= 1 for queue in ("common", "mail"))
    after = fleet.lives()
    assert all(after[node].split()[0] == before[node].split()[0] for node in NODES), "no new ones"
    assert all(after[node] != before[node] for node in NODES)
    for one in MEMBERS:
        assert fleet.daemon.inspect(one.container, "{{.RestartCount}}") == "0"
    assert not fleet.redis.exists("celery-ops:lease")
    fleet.dismiss()
    assert fleet.leaks() == []


def test_a_shell_that_keeps_the_stop_signal_is_told_before_anything_is_changed(
    fleet: ContainerFleet, tmp_path: Path
) -> None:
    ann = fleet.operator(tmp_path, "ann")
    name = f"name:{SHELLED.node}"
    plan = ann.do("runbook", "stop-worker", "-p", f"workers={name}", "--plan")
    assert f"{SHELLED.node}: its stop signal does not get to it" in plan.out, plan.all
    [found] = [
        problem
        for problem in ann.status()["problems"]
        if problem["rule"] == "stop-loses-tasks" and SHELLED.node in problem["subject"]
    ]
    assert "PID 1 of its container is a shell" in found["says"]
