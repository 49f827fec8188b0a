"""Workers that a roll cannot reach: refused, counted as failed, left out, or done without them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import WorkerState
from celery_ops.ports import Question
from celery_ops.runbook.events import Ending, EventKind, Result
from celery_ops.runbook.roll_words import Order
from celery_ops.runbook.targets import in_order
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.journal import Event
    from tests.standin.fleet import SimulatedWorker

ROLL = """
name: patient
summary: Restart all.
risk: low
params:
  most: {type: integer, default: 0}
steps:
  - roll: "*"
    canary: 0
    batch: 1
    keep_available: 1
    max_failed: ${{ params.most }}
    settle: 1s
    on_fail: stop
    offline: fail
    steps:
      - drain: worker
        timeout: 30s
      - restart: worker
        timeout: 20s
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
"""
SKIPS = ROLL.replace("offline: fail", "offline: skip")
DRAINS_WHO_ANSWERS = ROLL.replace("timeout: 30s\n", "timeout: 30s\n        when: worker.answers\n")


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return Operation(tmp_path)


async def one_is_silent(operation: Operation, runbook: str) -> SimulatedWorker:
    """Three workers, of which the second does not answer."""
    operation.write_runbook("patient", runbook)
    workers = [operation.fleet.add_worker(f"w{number}@web{number}", host=f"web{number}")
               for number in (1, 2, 3)]  # fmt: skip
    workers[1].faults.hangs = True
    await operation.clock.sleep(30)
    return workers[1]


async def test_a_silent_worker_stands_in_the_way_by_default(operation: Operation) -> None:
    await one_is_silent(operation, ROLL)
    plan = await operation.plan("patient")
    assert any("w2@web2" in refusal and "leave it out" in refusal for refusal in plan.refusals)


async def test_a_silent_worker_is_left_out_by_name_where_the_roll_skips_it(
    operation: Operation,
) -> None:
    await one_is_silent(operation, SKIPS)
    plan = await operation.plan("patient")
    assert plan.refusals == ()
    assert list(plan.left_out) == ["w2@web2"]
    assert [target.name for target in plan.targets] == ["w1@web1", "w3@web3"]
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.not_started == ("w2@web2",)
    assert "silent" in ran.end.report.left_out["w2@web2"]


async def test_one_that_falls_silent_before_its_turn_is_left_out_then(
    operation: Operation,
) -> None:
    silent = await one_is_silent(operation, SKIPS)
    silent.faults.hangs = False
    await operation.clock.sleep(5)
    plan = await operation.plan("patient")
    assert plan.left_out == {}
    silent.faults.hangs = True
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.report is not None
    assert (ran.end.report.done, ran.end.report.not_started) == (
        ("w1@web1", "w3@web3"),
        ("w2@web2",),
    )
    ((step, result, says),) = ran.results("w2@web2")
    assert (step, result) == ("1", Result.SKIPPED)
    assert "silent" in says


async def test_an_unreachable_host_leaves_its_workers_out(operation: Operation) -> None:
    worker = await one_is_silent(operation, SKIPS)
    worker.faults.hangs = False
    operation.hosts.unreachable.add("web3")
    plan = await operation.plan("patient")
    assert list(plan.left_out) == ["w3@web3"]
    assert "no route to host" in plan.left_out["w3@web3"]


async def test_where_nobody_can_be_reached_there_is_nothing_to_do(operation: Operation) -> None:
    worker = await one_is_silent(operation, SKIPS)
    worker.faults.hangs = False
    operation.hosts.unreachable |= {"web1", "web2", "web3"}
    plan = await operation.plan("patient")
    assert "there is nothing to do: none of these workers can be reached" in plan.refusals


async def test_an_unreachable_one_counts_as_failed_over_the_whole_roll(
    operation: Operation,
) -> None:
    await one_is_silent(operation, ROLL)
    plan = await operation.plan("patient", most="1")
    assert plan.refusals == ()
    assert any("w2@web2 counts as failed, of at most 1" in hazard for hazard in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.failed == ("w2@web2",)
    operation.fleet.worker("w3@web3").faults.dies_at_start = True
    ran = await operation.run("patient", most="1")
    assert ran.end.report is not None
    assert set(ran.end.report.failed) == {"w2@web2", "w3@web3"}
    assert ran.ending is not Ending.DONE


async def test_a_silent_worker_can_be_restarted_by_its_supervisor_without_a_drain(
    operation: Operation,
) -> None:
    silent = await one_is_silent(operation, DRAINS_WHO_ANSWERS)
    assert silent.service is not None
    silent.service.stop_grace = 5.0
    plan = await operation.plan("patient", most="1")
    assert plan.refusals == ()
    assert any("w2@web2 is silent" in hazard for hazard in plan.hazards)
    does = [one.does for step in plan.steps for one in step.actions if one.target == "w2@web2"]
    assert does
    assert not any("cancel_consumer" in one for one in does)
    service = silent.service

    async def well_again() -> None:
        while service.starts == 1:
            await operation.clock.sleep(0.5)
        silent.faults.hangs = False

    operation.beside.append(asyncio.ensure_future(well_again()))
    ran = await operation.execute(plan)
    assert service.starts == 2
    assert ran.end.report is not None
    # Its supervisor had to kill it, which is said; the roll counts it, and goes on.
    assert ran.end.report.failed == ("w2@web2",)
    assert ran.ending is Ending.DONE, ran.told()


async def test_targets_are_taken_in_the_order_asked_for(operation: Operation) -> None:
    fleet = operation.fleet
    for name, host in (("c@h1", "h2"), ("a@h1", "h2"), ("b@h1", "h1"), ("d@h1", "h1")):
        fleet.add_worker(name, queues=(name[0],), host=host)
    fleet.send("a", 500.0)
    fleet.worker("d@h1").faults.hangs = True
    await operation.clock.sleep(30)
    workers = (await operation.look()).workers

    def taken(order: Order) -> str:
        return "".join(one.name[0] for one in in_order(workers, order))

    assert {one.name: one.state for one in workers}["d@h1"] is WorkerState.SILENT
    assert taken(Order.BY_NAME) == "abcd"
    assert taken(Order.BY_HOST) == "bdac"
    assert taken(Order.UNHEALTHY_FIRST) == "dabc"
    assert taken(Order.FEWEST_ACTIVE_FIRST) == "bcad"


async def test_one_that_does_not_answer_any_more_is_no_consumer_however_long_it_is_waited_for(
    operation: Operation,
) -> None:
    fleet = operation.fleet
    workers = [fleet.add_worker(f"w{number}@web1") for number in (1, 2)]
    operation.write_runbook("patient", ROLL.replace("keep_available: 1", "keep_available: 50%"))
    plan = await operation.plan("patient")
    workers[1].faults.never_replies = True
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "the guard refused to take w1@web1" in ran.end.says
    assert operation.broker.orders == []


async def test_one_that_was_drained_takes_from_no_queue_also_where_it_does_not_say_so(
    operation: Operation,
) -> None:
    fleet = operation.fleet
    hosts = ("web1", "web1", "web2", "web2")
    workers = [
        fleet.add_worker(f"w{number}@{host}", queues=("common",), host=host)
        for number, host in enumerate(hosts, 1)
    ]

    def their_host_is_lost_in_the_middle_of_a_round(event: Event) -> None:
        if event.event is EventKind.RESULT and event.step == "2.1":
            workers[2].faults.silent_to = frozenset({Question.ACTIVE_QUEUES})
            workers[3].faults.never_replies = True

    plan = await operation.plan("rolling-restart", workers="w3@web2", drain_timeout="6s")
    journal = operation.write_down(plan)
    ran = await operation.take_up(journal, then=their_host_is_lost_in_the_middle_of_a_round)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert "w3@web2: was not stopped, not drained any more: not within 6s: " in ran.end.says
    assert ran.end.report is not None
    assert [owed.says for owed in ran.end.report.owed] == ["w3@web2 is drained"]
    assert [what for _, what in ran.effects] == ["cancel_consumer common", "add_consumer common"]
