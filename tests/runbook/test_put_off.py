"""`on_timeout: defer`: a worker that is not free has its turn again, after all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending, EventKind, Result, RunState
from tests.runbook.operation import Operation, Ran

if TYPE_CHECKING:
    from pathlib import Path

ROLL = """
name: patient
summary: Restart all, the busy ones last.
risk: low
steps:
  - roll: "*"
    canary: 0
    batch: 1
    keep_available: 50%
    settle: 1s
    on_fail: stop
    steps:
      - drain: worker
        timeout: 30s
        on_timeout: defer
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.queues == before.worker.queues]
      hold: 1s
      timeout: 1m
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.write_runbook("patient", ROLL)
    return made


def busy(operation: Operation, *seconds: float) -> None:
    """As many workers, each with a task that runs for so long; w1 is the first."""
    for number, one in enumerate(seconds, 1):
        operation.fleet.add_worker(f"w{number}@web1", queues=(f"own{number}", "default"))
        if one:
            operation.fleet.send(f"own{number}", one)


def restarted(ran: Ran) -> list[str | None]:
    """In the order of their stops."""
    return [event.target for event in ran.events if event.verb == "stop"]


async def test_a_busy_worker_gets_its_queues_back_and_its_turn_last(operation: Operation) -> None:
    busy(operation, 50.0, 0.0, 0.0)
    plan = await operation.plan("patient", allow_gap="own1,own2,own3")
    operation.fleet.watch_consumers()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    # By name the idle ones come first anyway: what counts is that w1 was tried, and came again.
    assert (Result.DEFERRED in {result for _, result, _ in ran.results("w1@web1")}) is True
    assert restarted(ran)[-1] == "w1@web1"
    assert sorted(filter(None, restarted(ran))) == ["w1@web1", "w2@web1", "w3@web1"]
    assert operation.fleet.least_consumers["default"] == 2
    assert not operation.fleet.lost
    assert ran.end.report is not None
    assert (set(ran.end.report.done), ran.end.report.deferred) == (
        {"w1@web1", "w2@web1", "w3@web1"},
        (),
    )


async def test_one_that_is_never_free_is_deferred_by_name_and_consumes(
    operation: Operation,
) -> None:
    busy(operation, 7200.0, 0.0, 0.0)
    ran = await operation.run("patient", allow_gap="own1,own2,own3")
    assert (ran.ending, ran.end.state) == (Ending.STOPPED, RunState.FAILED), ran.told()
    assert ran.end.report is not None
    assert ran.end.report.deferred == ("w1@web1",)
    assert set(ran.end.report.done) == {"w2@web1", "w3@web1"}
    assert "w1@web1: deferred, and not free within 30s after the others" in ran.end.says
    assert set(operation.fleet.worker("w1@web1").consuming) == {"own1", "default"}
    assert await operation.broker.taken() == ()


async def test_whoever_is_free_first_is_next_and_progress_is_told(operation: Operation) -> None:
    busy(operation, 85.0, 70.0, 0.0)
    ran = await operation.run("patient", allow_gap="own1,own2,own3")
    assert ran.ending is Ending.DONE, ran.told()
    assert restarted(ran) == ["w3@web1", "w2@web1", "w1@web1"]
    told = [
        event.outcome.says
        for event in ran.events
        if event.event is EventKind.PROGRESS and event.outcome and event.target == "w1@web1"
    ]
    assert "comes again: still runs 1 task" in told


async def test_the_guard_is_asked_again_for_the_later_turn(operation: Operation) -> None:
    busy(operation, 70.0, 0.0, 0.0)
    service = operation.fleet.worker("w3@web1").service
    assert service is not None

    async def others_die() -> None:
        while service.starts < 2:
            await operation.clock.sleep(0.5)
        await operation.clock.sleep(8)
        for name in ("w2@web1", "w3@web1"):
            operation.fleet.worker(name).faults.hangs = True

    ran = await operation.run_while("patient", others_die, allow_gap="own1,own2,own3")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "the guard refused to take w1@web1" in ran.end.says
    assert "w1@web1" not in restarted(ran)
    assert set(operation.fleet.worker("w1@web1").consuming) == {"own1", "default"}
