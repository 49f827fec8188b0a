"""The main promises on RabbitMQ: real workers under load, the real command, and executors that die.

Its queues have priorities, so each has an argument that must be given back exactly: with another
one RabbitMQ would end the worker (406).
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.mortal import Death, When
from tests.rig.operations import COMMON, Program
from tests.rig.poller import Sampler
from tests.rig.rabbit_operations import RabbitOperations, rabbit_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (Program("prefork", pool="prefork"), Program("threads"), Program("other"))
NAMES = tuple(program.name for program in PROGRAMS)
NODES = {program.node_name for program in PROGRAMS}
FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""
ONE = ("-p", "allow_gap=prefork")
DRAIN = ("worker", "drain", "prefork@rig", "--yes", *ONE)
RESUME = ("worker", "resume", "prefork@rig", "--yes")
RESTART = (
    *("runbook", "rolling-restart", "--yes", "-p", "hold=1s"),
    *("-p", f"allow_gap={','.join(NAMES)}"),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitOperations]:
    conf = {"task_queue_max_priority": 9}
    with rabbit_operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS, conf=conf) as made:
        yield made


@pytest.fixture(autouse=True)
def load(fleet: RabbitOperations) -> Iterator[Load]:
    """Numbered tasks all the time. In the end each ran once, every worker consumes what it did to
    the last argument, and nothing is owed.
    """
    wait_until(lambda: fleet.poller.consuming().keys() == NODES, what="all workers answer")
    before = {name: fleet.consumed_by(name) for name in NODES}
    assert all(queue["queue_arguments"] == {"x-max-priority": 9} for queue in before["other@rig"])
    with Load(fleet.fleet, *NAMES, COMMON, first=next(FIRSTS), every=0.3) as load:
        wait_until(lambda: load.sent > 2, what="some tasks")
        yield load
    wait_until(lambda: fleet.consumes_all(*NAMES), what="all is as it was")
    assert {name: fleet.consumed_by(name) for name in NODES} == before
    load.settle()
    assert load.twice() == []
    assert fleet.nothing_is_taken()


@pytest.fixture
def endless(fleet: RabbitOperations) -> Iterator[int]:
    """The number of a task in the worker `prefork` that does not end before it is released."""
    number = next(FIRSTS) + 99_999
    fleet.fleet.send(number, task="rig.hold", queue="prefork")
    wait_until(lambda: number in fleet.fleet.starts(), what="a task that does not end")
    yield number
    fleet.fleet.release(number)
    wait_until(lambda: fleet.fleet.ends().get(number) == 1, what="the task ends")
    assert fleet.fleet.starts()[number] == 1


def test_a_rolling_restart_loses_nothing_and_leaves_no_queue_unconsumed(
    fleet: RabbitOperations, ann: Operator
) -> None:
    pids = {name: fleet.pid(name) for name in NAMES}
    with Sampler(fleet.poller) as sampler:
        restarted = ann.do(*RESTART)
    assert restarted.code == 0, restarted.all
    assert all(fleet.pid(name) not in {0, pids[name]} for name in NAMES)
    assert sampler.least(COMMON) == 2, "75% of three, and the restart itself was seen"


def test_a_worker_is_drained_and_resumed_and_its_process_stays(
    fleet: RabbitOperations, ann: Operator, bob: Operator
) -> None:
    pid = fleet.pid("prefork")
    drained = ann.do(*DRAIN)
    assert drained.code == 0, drained.all
    (taken,) = bob.status()["taken"]
    assert (taken["worker"], taken["queues"]) == ("prefork@rig", [COMMON, "prefork"])
    assert fleet.consumed_by("prefork@rig") == []
    resumed = bob.do(*RESUME)
    assert resumed.code == 0, resumed.all
    assert fleet.pid("prefork") == pid


@pytest.mark.parametrize("when", [When.BEFORE, When.DURING])
def test_a_killed_executors_run_is_gone_on_with(
    when: When, fleet: RabbitOperations, ann: Operator
) -> None:
    pid = fleet.pid("prefork")
    said = ann.do(*DRAIN, **Death("drain", when).variables(ann.home / "mortal"))
    assert said.code == 4, said.all
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert fleet.consumed_by("prefork@rig") == []
    mended = ann.do(*RESUME)
    assert mended.code == 0, mended.all
    assert fleet.pid("prefork") == pid


def test_a_killed_restart_is_gone_on_with(fleet: RabbitOperations, ann: Operator) -> None:
    restart = (*RESTART, "-p", "workers=threads@rig")
    said = ann.do(*restart, **Death("stop", When.DURING).variables(ann.home / "mortal"))
    assert said.code == 4, said.all
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert fleet.consumes_all("threads")


def test_what_a_killed_run_took_is_adopted_by_somebody_else(
    fleet: RabbitOperations, endless: int, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*DRAIN)
    ann.until_draining()
    os.kill(ann.executor(), signal.SIGKILL)
    said = following.wait()
    assert said.code == 4, said.all
    (taken,) = bob.status()["taken"]
    assert taken["run"] == ann.journals()[-1].stem
    fleet.fleet.release(endless)
    adopted = bob.do("runs", "adopt", taken["run"], "--yes")
    assert adopted.code == 0, adopted.all
    assert bob.status()["taken"] == []


def test_only_one_runs_and_who_breaks_its_lease_is_told(
    fleet: RabbitOperations, endless: int, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*DRAIN)
    ann.until_draining()
    refused = bob.do("worker", "drain", "other@rig", "--yes", "-p", "allow_gap=other")
    assert refused.code == 6, refused.all
    assert "ann@" in refused.err
    broken = bob.do("runs", "break-lease", "--yes")
    assert broken.code == 0, broken.all
    said = following.wait()
    assert said.code == 4, said.all
    assert "bob@" in said.all
    assert bob.status()["holder"] is None
    fleet.fleet.release(endless)
    resumed = bob.do(*RESUME)
    assert resumed.code == 0, resumed.all


def test_a_run_without_a_configuration_knows_the_fleet_too(
    fleet: RabbitOperations, operator: MakeOperator
) -> None:
    eve = operator("eve", "-b", fleet.url)
    shown = eve.status()
    assert {worker["name"] for worker in shown["workers"]} == NODES
    assert all(queue["unacked"] is None for queue in shown["queues"])
    assert "management" in shown["notes"][0]
    drained = eve.do(*DRAIN)
    assert drained.code == 0, drained.all
    resumed = eve.do(*RESUME)
    assert resumed.code == 0, resumed.all
