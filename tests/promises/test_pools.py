"""Every kind of pool passes a drain and a restart under load: nothing is lost, nothing runs twice.

A solo worker cannot answer while it runs a task; it is waited for, and not taken for dead.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import ATTEMPTS, Load
from tests.rig.missing import missing
from tests.rig.operations import COMMON, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

GREEN = ("gevent", "eventlet")
POOLS = ("prefork", "threads", *GREEN, "solo")
RESTART = ("runbook", "rolling-restart", "--yes", "-p", "hold=1s")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """A worker of each pool, and one that keeps the queue they share consumed."""
    for name in GREEN:
        if importlib.util.find_spec(name) is None:
            missing(name)
    with operations(
        tmp_path_factory.mktemp("fleet"),
        *(Program(pool, pool=pool) for pool in POOLS),
        Program("other"),
    ) as made:
        yield made


def test_every_pool_is_restarted_under_load_without_losing_a_task(
    fleet: Operations, ann: Operator
) -> None:
    before = {pool: fleet.pid(pool) for pool in POOLS}
    long = range(30_000, 30_004)
    with Load(fleet.fleet, COMMON) as load:
        for number in long:
            fleet.fleet.send(number, 4.0, task=ATTEMPTS[number % 2], queue="solo")
        wait_until(lambda: len(fleet.fleet.ends()) > 10, what="the fleet is at work")
        said = ann.do(
            *RESTART,
            *("-p", f"workers={','.join(f'{pool}@rig' for pool in POOLS)}", "-p", "batch=2"),
            *("-p", "keep_available=1", "-p", f"allow_gap={','.join(POOLS)}"),
        )
    assert said.code == 0, said.all
    assert all(fleet.pid(pool) not in {0, before[pool]} for pool in POOLS)
    load.settle()
    assert load.twice() == []
    _ran_once(fleet, long)
    assert fleet.nothing_is_taken()
    wait_until(lambda: fleet.consumes_all(*POOLS, "other"), what="everybody consumes")


def test_a_busy_solo_worker_is_waited_for(fleet: Operations, ann: Operator) -> None:
    pid = fleet.pid("solo")
    numbers = range(10_000, 10_008)
    for number in numbers:
        fleet.fleet.send(number, 1.0, task=ATTEMPTS[number % 2], queue="solo")
    wait_until(lambda: numbers[0] in fleet.fleet.starts(), what="it is at work")
    said = ann.do(*RESTART, "-p", "workers=solo@rig", "-p", "allow_gap=solo")
    assert said.code == 0, said.all
    assert fleet.pid("solo") not in {0, pid}
    _ran_once(fleet, numbers)


def test_a_solo_worker_that_answers_nothing_for_long_is_waited_for(
    fleet: Operations, ann: Operator
) -> None:
    """Longer than a survey lasts, and than a worker may be silent before it is called so: first
    when it is planned for, and again when it is told to drain.
    """
    pid = fleet.pid("solo")
    numbers = range(20_000, 20_002)
    for number in numbers:
        fleet.fleet.send(number, 9.0, task=ATTEMPTS[number % 2], queue="solo")
    wait_until(lambda: numbers[0] in fleet.fleet.starts(), what="it is at work")
    said = ann.do(*RESTART, "-p", "workers=solo@rig", "-p", "allow_gap=solo")
    assert said.code == 0, said.all
    assert fleet.pid("solo") not in {0, pid}
    _ran_once(fleet, numbers)


def _ran_once(fleet: Operations, numbers: range) -> None:
    wait_until(lambda: fleet.fleet.ends().keys() >= set(numbers), what="all tasks end")
    assert {fleet.fleet.starts()[number] for number in numbers} == {1}
    assert {fleet.fleet.ends()[number] for number in numbers} == {1}
