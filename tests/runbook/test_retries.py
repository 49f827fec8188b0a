"""`retries`, `retry_pause` and `once_per: host`: what is tried again, when, and what never is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import HostUnreachable
from celery_ops.ports import Command, Completed
from celery_ops.runbook.events import Ending, EventKind, Result
from tests.runbook.operation import Operation, Ran

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
name: again
summary: Try again.
risk: low
steps:
"""
ROLL = """
  - roll: "*"
    canary: 0
    batch: 1
    keep_available: 0
    max_failed: 3
    settle: 0s
    on_fail: stop
    steps:
      - {step}
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 10s
"""
DEPLOY = 'run: ["deploy"]\n        retries: 2\n        retry_pause: 10s'


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for number, host in ((1, "web1"), (2, "web1"), (3, "web2")):
        made.fleet.add_worker(f"w{number}@{host}", host=host)
    return made


class Program:
    """Fails so often, then ends with 0; `hosts` unreachable in the midst of it."""

    def __init__(self, fails: int, *, drops: bool = False) -> None:
        self.fails = fails
        self.drops = drops
        self.times = 0

    def __call__(self, _command: Command) -> Completed:
        self.times += 1
        if self.times > self.fails:
            return Completed(0, b"done", b"", 0.0)
        if self.drops:
            raise HostUnreachable("web1: the connection was lost")
        return Completed(1, b"", b"busy", 0.0)


async def ran(operation: Operation, steps: str, program: Program, **params: str) -> Ran:
    operation.hosts.programs["deploy"] = program
    operation.write_runbook("again", HEAD + steps)
    return await operation.run("again", **params)


def intents(run: Ran) -> list[str | None]:
    return [event.target for event in run.events if event.event is EventKind.INTENT]


async def test_a_command_that_fails_is_tried_again_and_every_attempt_is_on_record(
    operation: Operation,
) -> None:
    program = Program(2)
    steps = '  - run: ["deploy"]\n    on: web1\n    retries: 2\n    retry_pause: 10s\n'
    before = operation.clock.elapsed
    came = await ran(operation, steps, program)
    assert came.ending is Ending.DONE, came.told()
    assert program.times == 3
    assert [result for _, result, _ in came.results("web1")] == [
        Result.FAILED,
        Result.FAILED,
        Result.DONE,
    ]
    assert intents(came) == ["web1"] * 3
    assert 30 <= operation.clock.elapsed - before < 60
    assert "attempt 1 of 3 failed: ended with 1: busy; again in 10s" in came.told()
    assert "attempt 2 of 3 failed: ended with 1: busy; again in 20s" in came.told()


async def test_after_the_last_attempt_it_has_failed(operation: Operation) -> None:
    program = Program(9)
    came = await ran(operation, ROLL.format(step=DEPLOY), program)
    assert program.times == 9
    assert came.end.report is not None
    assert came.end.report.failed == ("w1@web1", "w2@web1", "w3@web2")


async def test_without_the_key_nothing_is_tried_again(operation: Operation) -> None:
    program = Program(1)
    came = await ran(operation, '  - run: ["deploy"]\n    on: web1\n', program)
    assert (came.ending, program.times) == (Ending.STOPPED, 1)


async def test_a_command_of_which_nobody_knows_how_it_ended_is_not_tried_again(
    operation: Operation,
) -> None:
    program = Program(9, drops=True)
    steps = '  - run: ["deploy"]\n    on: web1\n    retries: 5\n'
    came = await ran(operation, steps, program)
    assert (came.ending, program.times) == (Ending.STOPPED, 1)
    ((_, result, says),) = came.results("web1")
    assert (result, says) == (Result.UNKNOWN, "web1: the connection was lost")


async def test_once_a_host_is_once_for_all_its_workers(operation: Operation) -> None:
    program = Program(0)
    step = 'run: ["deploy"]\n        once_per: host'
    came = await ran(operation, ROLL.format(step=step), program)
    assert came.ending is Ending.DONE, came.told()
    assert program.times == 2
    assert intents(came) == ["w1@web1", "w3@web2"]
    assert (came.results("w2@web1")[0][1:]) == (Result.SKIPPED, "was done on web1, once for all")
    plan = await operation.plan("again")
    does = [one.target for step in plan.steps for one in step.actions]
    assert does == ["w1@web1", "w3@web2"]


async def test_what_failed_once_a_host_failed_for_all_its_workers(operation: Operation) -> None:
    program = Program(1)
    step = 'run: ["deploy"]\n        once_per: host'
    came = await ran(operation, ROLL.format(step=step), program)
    assert program.times == 2
    assert came.end.report is not None
    assert came.end.report.failed == ("w1@web1", "w2@web1")
    assert came.end.report.done == ("w3@web2",)


async def test_a_service_that_dies_at_its_start_is_started_again(operation: Operation) -> None:
    worker = operation.fleet.worker("w1@web1")
    worker.faults.dies_at_start = True
    assert worker.service is not None
    service = worker.service

    async def well_again() -> None:
        while service.starts < 3:
            await operation.clock.sleep(0.5)
        worker.faults.dies_at_start = False

    operation.beside.append(asyncio.ensure_future(well_again()))
    step = "restart: worker\n        timeout: 20s\n        retries: 3\n        retry_pause: 5s"
    came = await ran(operation, ROLL.format(step=step), Program(0))
    assert came.ending is Ending.DONE, came.told()
    assert came.end.report is not None
    assert came.end.report.failed == ()
    assert service.starts >= 3
    assert await operation.broker.taken() == ()


async def test_a_check_is_looked_at_again(operation: Operation) -> None:
    operation.fleet.worker("w1@web1").faults.hangs = True

    async def well_again() -> None:
        await operation.clock.sleep(60)
        operation.fleet.worker("w1@web1").faults.hangs = False

    operation.beside.append(asyncio.ensure_future(well_again()))
    steps = "  - check: fleet.online == 3\n    retries: 6\n    retry_pause: 5s\n"
    came = await ran(operation, steps, Program(0))
    assert came.ending is Ending.DONE, came.told()
    assert "attempt 1 of 7 failed" in came.told()
