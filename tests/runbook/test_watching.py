"""How tasks end is watched: too many failures, a new life, and silence are no pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.units import Count
from celery_ops.model import TaskNews, TaskState
from celery_ops.runbook.events import Ending, EventKind
from celery_ops.runbook.watching import ENOUGH, Tally
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

WATCHES = """
name: watches
summary: Watches.
risk: low
params:
  most: {type: count, default: 5%}
steps:
  - watch: "w1@web1 w2@web1"
    for: 30s
    max_failures: ${{ params.most }}
"""
IN_A_ROLL = """
name: watches
summary: Restarts and watches.
risk: low
params:
  most: {type: count, default: 5%}
steps:
  - roll: "*"
    order: by_name
    batch: 1
    keep_available: 0
    settle: 0s
    on_fail: undo
    steps:
      - restart: worker
        timeout: 1m
      - watch: worker
        for: 20s
        max_failures: ${{ params.most }}
    verify: {that: worker.online, timeout: 10s}
"""
FIVE, NONE = Count(5, percent=True), Count(0, percent=True)


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    made.fleet.add_worker("w2@web1", queues=("mail",))
    made.write_runbook("watches", WATCHES)
    return made


def send(operation: Operation, queue: str, *, fine: int = 0, failing: int = 0) -> None:
    for _ in range(fine):
        operation.fleet.send(queue, 0.2)
    for _ in range(failing):
        operation.fleet.send(queue, 0.2).fails = "ValueError('no such user')"


def tally(fine: int, failing: int) -> Tally:
    made = Tally()
    for state, count in ((TaskState.SUCCESS, fine), (TaskState.FAILURE, failing)):
        for _ in range(count):
            made.add(TaskNews(state, "w1@web1", error="ValueError('x')"))
    return made


@pytest.mark.parametrize(
    ("fine", "failing", "most", "early", "at_end"),
    [
        (0, 0, FIVE, False, False),
        (0, 1, FIVE, False, True),
        (95, 5, FIVE, False, False),
        (94, 6, FIVE, True, True),
        (10, 9, FIVE, False, True),
        (10, 10, FIVE, True, True),
        (1000, 1, NONE, True, True),
        (0, 3, Count(3), False, False),
        (0, 4, Count(3), True, True),
    ],
)
def test_a_share_is_judged_of_enough(
    fine: int, failing: int, most: Count, *, early: bool, at_end: bool
) -> None:
    found = tally(fine, failing)
    assert found.exceeds(most, at_end=False) is early
    assert found.exceeds(most, at_end=True) is at_end


def test_a_tally_says_where_and_why() -> None:
    assert str(tally(0, 0)) == "no task ended"
    assert str(tally(3, 0)) == "3 tasks ended, 0 of them failed (0%)"
    assert str(tally(3, 1)) == (
        "4 tasks ended, 1 of them failed (25%): 1 in w1@web1: 1x ValueError('x')"
    )
    retried = Tally()
    for state in (TaskState.RETRY, TaskState.REVOKED, TaskState.REJECTED, TaskState.STARTED):
        retried.add(TaskNews(state, "w1@web1"))
    assert retried.ended == 0


async def test_tasks_that_end_well_are_a_pass(operation: Operation) -> None:
    send(operation, "default", fine=100, failing=3)
    ran = await operation.run("watches")
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says.startswith("watched for 30s: 103 tasks ended, 3 of them failed (2.9%)")
    assert not any(worker.sends_task_events for worker in operation.fleet.workers)


async def test_too_many_failures_end_it_early(operation: Operation) -> None:
    send(operation, "default", failing=ENOUGH + 5)
    before = operation.clock.monotonic()
    ran = await operation.run("watches")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "no such user" in ran.end.says
    assert "at most 5% may fail" in ran.end.says
    assert operation.clock.monotonic() - before < 20


async def test_a_time_in_which_nothing_ended_is_no_pass(operation: Operation) -> None:
    ran = await operation.run("watches")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "no task ended in 30s: nothing is proved" in ran.end.says


async def test_what_others_run_does_not_count(operation: Operation) -> None:
    operation.fleet.add_worker("w3@web1", queues=("other",))
    operation.fleet.workers[-1].sends_task_events = True
    send(operation, "other", failing=50)
    send(operation, "mail", fine=2)
    ran = await operation.run("watches")
    assert ran.ending is Ending.DONE, ran.told()
    assert "2 tasks ended" in ran.end.says
    assert operation.fleet.workers[-1].sends_task_events


async def test_events_that_may_be_off_are_no_pass(operation: Operation) -> None:
    operation.fleet.workers[1].faults.has_no_events = True
    send(operation, "default", fine=5)
    ran = await operation.run("watches")
    assert ran.ending is not Ending.DONE, ran.told()
    assert "w2@web1" in ran.end.says


async def test_a_worker_that_is_started_anew_fails_it(operation: Operation) -> None:
    send(operation, "default", fine=100)

    async def crash() -> None:
        await operation.clock.sleep(10)
        worker = operation.fleet.workers[0]
        assert worker.service is not None
        worker.service.restarts_itself = True
        operation.fleet.kill(worker)

    ran = await operation.run_while("watches", crash)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w1@web1 was started anew while it was watched" in ran.end.says


async def test_a_broker_that_is_away_lengthens_it(operation: Operation) -> None:
    send(operation, "default", fine=300)

    async def leave() -> None:
        await operation.clock.sleep(10)
        operation.broker.is_down = True
        await operation.clock.sleep(15)
        operation.broker.is_down = False

    before = operation.clock.monotonic()
    ran = await operation.run_while("watches", leave)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.clock.monotonic() - before > 44


async def test_in_a_roll_a_worker_that_fails_its_tasks_stops_it(operation: Operation) -> None:
    operation.write_runbook("watches", IN_A_ROLL)
    send(operation, "default", fine=400)
    send(operation, "mail", failing=400)
    ran = await operation.run("watches")
    assert ran.ending is Ending.UNDONE, ran.told()
    results = Counter(
        event.target
        for event in ran.events
        if event.event is EventKind.RESULT and event.step == "1.2"
    )
    assert results == {"w1@web1": 1, "w2@web1": 1}
    assert "no such user" in ran.end.says
