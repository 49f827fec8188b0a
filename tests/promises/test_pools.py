"""Every kind of pool passes a drain and a restart under load: nothing is lost, nothing runs twice.

A solo worker cannot answer while it runs a task; it is waited for, and not taken for dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import ATTEMPTS, Load
from tests.rig.operations import COMMON, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

POOLS = ("prefork", "threads", "solo")
RESTART = ("runbook", "rolling-restart", "--yes", "-p", "hold=1s")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """A worker of each pool, and one that keeps the queue they share consumed."""
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
    with Load(fleet.fleet, COMMON) as load:
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
    wait_until(lambda: fleet.fleet.ends().keys() >= set(numbers), what="all tasks end")
    assert {fleet.fleet.starts()[number] for number in numbers} == {1}
    assert {fleet.fleet.ends()[number] for number in numbers} == {1}


def test_a_solo_worker_that_does_not_answer_at_all_is_left_alone(
    fleet: Operations, ann: Operator
) -> None:
    pid = fleet.pid("solo")
    fleet.fleet.send(20_000, task="rig.hold", queue="solo")
    wait_until(lambda: 20_000 in fleet.fleet.starts(), what="it is at work")
    said = ann.do(*RESTART, "-p", "workers=solo@rig", "-p", "allow_gap=solo")
    fleet.fleet.release(20_000)
    assert said.code == 7, said.all
    assert "solo@rig is silent and cannot be asked to drain" in said.err
    assert ann.journals() == []
    assert fleet.pid("solo") == pid
    wait_until(lambda: fleet.consumes_all("solo"), what="it answers again")
