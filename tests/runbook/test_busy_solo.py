"""A solo pool answers nothing while it runs a task: it is waited for, never taken for granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import WorkerState
from celery_ops.runbook.events import Ending, EventKind
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.runbook.journal import Event
    from tests.standin.fleet import SimulatedWorker

SOLO = "solo@web1"
GIVEN = {"workers": SOLO, "hold": "1s", "drain_timeout": "5m"}
ALONE = {**GIVEN, "allow_gap": "slow"}


DRAINS_WHO_ANSWERS = """
name: patient
summary: Restart all.
risk: low
steps:
  - roll: "*"
    batch: 1
    keep_available: 0
    steps:
      - drain: worker
        when: worker.answers
        timeout: 2m
      - restart: worker
        timeout: 20s
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    operation = Operation(tmp_path)
    operation.fleet.add_worker(SOLO, queues=("slow",), pool="solo", concurrency=1)
    operation.fleet.add_worker("other@web2", host="web2")
    return operation


def solo(operation: Operation) -> SimulatedWorker:
    return operation.fleet.worker(SOLO)


async def test_the_plan_waits_for_its_word_and_says_that_it_is_busy(operation: Operation) -> None:
    began = operation.clock.monotonic()
    operation.fleet.send("slow", 20.0)
    plan = await operation.plan("rolling-restart", **ALONE)
    assert not plan.refusals
    assert 20.0 <= operation.clock.monotonic() - began < 60.0
    assert any("a solo pool reads nothing while it runs a task" in one for one in plan.hazards)
    (target,) = plan.targets
    assert [queue.name for queue in target.queues or ()] == ["slow"]


async def test_one_that_is_busy_all_the_while_is_not_planned_for(operation: Operation) -> None:
    operation.fleet.send("slow", 3600.0)
    plan = await operation.plan("rolling-restart", **ALONE)
    assert [one for one in plan.refusals if "plan again when its task has ended" in one]


async def test_the_plan_waits_for_as_long_as_it_is_told_to(operation: Operation) -> None:
    began = operation.clock.monotonic()
    operation.fleet.send("slow", 900.0)
    plan = await operation.plan("rolling-restart", **ALONE, busy_wait="20m")
    assert not plan.refusals
    assert 900.0 <= operation.clock.monotonic() - began < 1000.0
    (target,) = plan.targets
    assert [queue.name for queue in target.queues or ()] == ["slow"]


async def test_the_plan_does_not_wait_where_it_is_told_not_to(operation: Operation) -> None:
    began = operation.clock.monotonic()
    operation.fleet.send("slow", 900.0)
    plan = await operation.plan("rolling-restart", **ALONE, busy_wait="1s")
    assert [one for one in plan.refusals if "-p busy_wait=1h" in one]
    assert operation.clock.monotonic() - began < 30.0


async def test_it_drains_when_its_task_has_ended(operation: Operation) -> None:
    """It began the task after the plan was made, and is told while it is deaf."""
    plan = await operation.plan("rolling-restart", **ALONE)
    pid = solo(operation).pid
    operation.fleet.send("slow", 90.0)
    operation.fleet.send("slow", 1.0)
    await operation.clock.sleep(20.0)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.end
    assert solo(operation).pid != pid
    await operation.clock.sleep(5.0)
    ledger = operation.fleet.ledger
    assert (ledger.sent, sum(ledger.ended.values())) == (2, 2)
    assert not ledger.lost
    assert not ledger.twice


async def test_one_whose_task_never_ends_keeps_its_process(operation: Operation) -> None:
    plan = await operation.plan("rolling-restart", **{**ALONE, "drain_timeout": "1m"})
    pid = solo(operation).pid
    operation.fleet.send("slow", 9000.0)
    await operation.clock.sleep(20.0)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.NEEDS_HUMAN
    assert solo(operation).pid == pid
    assert not operation.fleet.ledger.lost
    await operation.clock.sleep(9000.0)
    assert list(solo(operation).consuming) == ["slow"]


async def test_one_whose_mailbox_forgot_the_message_is_told_again(operation: Operation) -> None:
    """As RabbitMQ does after five minutes."""
    plan = await operation.plan("rolling-restart", **{**ALONE, "drain_timeout": "20m"})
    pid = solo(operation).pid
    operation.fleet.send("slow", 400.0)
    path = operation.write_down(plan)

    def forget(event: Event) -> None:
        if event.event is EventKind.PROGRESS:
            solo(operation).pending.clear()

    ran = await operation.take_up(path, then=forget)
    assert ran.ending is Ending.DONE, ran.end
    assert solo(operation).pid != pid


async def test_its_queue_is_guarded_though_it_tells_nothing(operation: Operation) -> None:
    """The run's process has never heard what it consumes: the plan has."""
    plan = await operation.plan("rolling-restart", **GIVEN)
    assert any("queue slow would keep 0" in one for one in plan.refusals)


async def test_a_task_begun_right_after_the_restart_is_no_failure(operation: Operation) -> None:
    plan = await operation.plan("rolling-restart", **{**ALONE, "hold": "40s"})
    path = operation.write_down(plan)

    def keep_busy(event: Event) -> None:
        if event.event is EventKind.RESULT and event.outcome and "pid" in event.outcome.says:
            operation.fleet.send("slow", 120.0)

    ran = await operation.take_up(path, then=keep_busy)
    assert ran.ending is Ending.DONE, ran.end


async def test_a_drain_of_those_who_answer_is_for_one_that_will(operation: Operation) -> None:
    """Else it were stopped in the midst of its task, and killed when its grace is over."""
    operation.write_runbook("patient", DRAINS_WHO_ANSWERS)
    plan = await operation.plan("patient", allow_gap="slow,default")
    operation.fleet.send("slow", 45.0)
    await operation.clock.sleep(20.0)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.end
    told = [event.outcome.says for event in ran.events if event.target == SOLO and event.outcome]
    assert [says for says in told if says.startswith("drained: ")]


def without_supervisor(operation: Operation) -> None:
    operation.hosts.unreachable.add("web1")


def of_an_unknown_pool(operation: Operation) -> None:
    service = solo(operation).service
    assert service is not None
    service.arguments = ("celery", "-A", "app", "worker")


def of_another_pool(operation: Operation) -> None:
    service = solo(operation).service
    assert service is not None
    service.arguments = ("celery", "-A", "app", "worker", "--pool=prefork")


@pytest.mark.parametrize(
    "doubtful",
    [without_supervisor, of_an_unknown_pool, of_another_pool],
    ids=lambda one: one.__name__,
)
async def test_who_is_mute_for_an_unproved_reason_is_refused(
    operation: Operation, doubtful: Callable[[Operation], None]
) -> None:
    operation.fleet.send("slow", 30.0)
    doubtful(operation)
    plan = await operation.plan("rolling-restart", **ALONE)
    assert any("cannot be asked to drain" in one for one in plan.refusals)


async def test_a_busy_solo_worker_is_told_from_a_hung_one(operation: Operation) -> None:
    surveyor = operation.surveyor()
    await surveyor.refresh()
    operation.fleet.send("slow", 60.0)
    operation.fleet.worker("other@web2").faults.hangs = True
    for _ in range(12):
        await operation.clock.sleep(1.0)
        snapshot = await surveyor.refresh()
    busy, hung = snapshot.worker(SOLO), snapshot.worker("other@web2")
    assert busy is not None
    assert hung is not None
    assert (busy.state, hung.state) == (WorkerState.SILENT, WorkerState.SILENT)
    assert (busy.busy_solo, hung.busy_solo) == (True, False)
    assert "runs a task: a solo pool answers nothing" in busy.says
