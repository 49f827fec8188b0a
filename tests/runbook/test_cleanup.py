"""What a run owes is given back at its end, however long the way is closed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.cleanup import PATIENCE
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GOES_ON = """
name: goes-on
summary: Restart workers, one of which may fail.
risk: low
steps:
  - roll: "w1@*,w4@*,w5@*"
    keep_available: 0
    batch: 1
    settle: 60s
    order: by_name
    max_failed: 1
    on_fail: stop
    steps:
      - restart: worker
        timeout: 30s
    verify: {that: [worker.online], hold: 0s, timeout: 50s}
"""
ABORT = Message(Word.ABORT, "ann@desk")
TRIES_AGAIN = "cannot be given back now"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    operation = Operation(tmp_path)
    for number in (1, 2, 3):
        operation.fleet.add_worker(f"w{number}@web1", queues=("default", "mail"))
    return operation


async def said(operation: Operation, words: str) -> None:
    """Wait until the newest journal says this."""
    while True:
        journals = sorted((operation.directory / "runs").glob("*.jsonl"))
        if journals and words in journals[-1].read_text():
            return
        await operation.clock.sleep(0.5)


def goes_away_while_it_stops(
    operation: Operation, *then: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """The host cannot be reached any more once a worker of it was told to stop."""

    async def meanwhile() -> None:
        await said(operation, "its supervisor says stopping")
        operation.hosts.unreachable.add("web1")
        for what in then:
            await what()

    return meanwhile


async def test_a_host_that_comes_back_in_time_gets_its_worker_started(
    operation: Operation,
) -> None:
    async def comes_back() -> None:
        await said(operation, TRIES_AGAIN)
        await operation.clock.sleep(100)
        operation.hosts.unreachable.clear()

    meanwhile = goes_away_while_it_stops(operation, comes_back)
    ran = await operation.run_while("rolling-restart", meanwhile, workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert await operation.broker.taken() == ()
    worker = operation.fleet.workers[-1]
    assert worker.consuming.keys() == {"default", "mail"}
    told = [
        one.outcome.says for one in ran.events if one.event is EventKind.PROGRESS and one.outcome
    ]
    assert next(says for says in told if TRIES_AGAIN in says).endswith(
        "web1: no route to host; tried again in 5s, and so on"
    )


async def test_a_host_that_does_not_come_back_is_owed_and_a_human_told_how_to_mend_it(
    operation: Operation,
) -> None:
    ended_after: list[float] = []

    async def look() -> None:
        await said(operation, TRIES_AGAIN)
        ended_after.append(operation.clock.monotonic())

    meanwhile = goes_away_while_it_stops(operation, look)
    ran = await operation.run_while("rolling-restart", meanwhile, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert operation.clock.monotonic() - ended_after[0] < PATIENCE + 15
    assert ran.end.report is not None
    assert "celery-ops worker start w1@web1" in [one.mend for one in ran.end.report.owed]
    *_, last = [says for step, _, says in ran.results("w1@web1") if step == "undo"]
    assert last == "still owed after 2m of trying: web1: no route to host"


async def test_a_broker_that_comes_back_in_time_is_told_to_give_the_queues_back(
    operation: Operation,
) -> None:
    for _ in range(3):
        operation.fleet.send("default", 7200.0)

    async def goes_away_for_a_while() -> None:
        await said(operation, "active")
        await operation.clock.sleep(9)
        operation.broker.is_down = True
        await said(operation, TRIES_AGAIN)
        await operation.clock.sleep(60)
        operation.broker.is_down = False

    ran = await operation.run_while(
        "rolling-restart", goes_away_for_a_while, workers="w1@web1", drain_timeout="10s"
    )
    assert ran.ending is Ending.STOPPED, ran.told()
    assert await operation.broker.taken() == ()
    assert operation.fleet.workers[0].consuming.keys() == {"default", "mail"}


async def test_a_worker_that_failed_is_started_at_the_end_of_a_run_that_came_through(
    operation: Operation,
) -> None:
    for name in ("w4@web2", "w5@web2"):
        operation.fleet.add_worker(name, host="web2")
    operation.write_runbook("goes-on", GOES_ON)

    async def comes_back() -> None:
        await operation.clock.sleep(200)
        operation.hosts.unreachable.clear()

    ran = await operation.run_while("goes-on", goes_away_while_it_stops(operation, comes_back))
    assert ran.ending is Ending.DONE, ran.told()
    assert await operation.broker.taken() == ()
    assert operation.fleet.worker("w1@web1").consuming.keys() == {"default", "mail"}
    assert ran.end.report is not None
    assert (ran.end.report.failed, ran.end.report.owed) == (("w1@web1",), ())


async def test_the_second_abort_ends_the_trying(operation: Operation) -> None:
    async def abort() -> None:
        await said(operation, TRIES_AGAIN)
        assert operation.executor is not None
        operation.executor.brake.hear(ABORT)
        await operation.clock.sleep(20)
        operation.executor.brake.hear(ABORT)

    meanwhile = goes_away_while_it_stops(operation, abort)
    ran = await operation.run_while("rolling-restart", meanwhile, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.state is RunState.INTERRUPTED
    assert not any("still owed after" in says for _, _, says in ran.results("w1@web1"))


async def test_a_worker_that_does_not_start_is_not_tried_again_and_again(
    operation: Operation,
) -> None:
    operation.fleet.workers[0].faults.dies_at_start = True
    ran = await operation.run("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert TRIES_AGAIN not in ran.told()


async def test_what_was_tried_in_vain_is_tried_anew_when_the_run_is_resumed(
    operation: Operation,
) -> None:
    path = operation.write_down(await operation.plan("rolling-restart", workers="w1@web1"))

    async def abort() -> None:
        await said(operation, TRIES_AGAIN)
        assert operation.executor is not None
        for _ in range(2):
            operation.executor.brake.hear(ABORT)

    broken_off = await operation.run_and(path, goes_away_while_it_stops(operation, abort))
    assert broken_off.end.state is RunState.INTERRUPTED, broken_off.told()
    operation.hosts.unreachable.clear()
    resumed = await operation.take_up(path)
    assert await operation.broker.taken() == (), resumed.told()


async def test_what_a_silent_host_does_is_not_said_to_be_known(operation: Operation) -> None:
    meanwhile = goes_away_while_it_stops(operation)
    ran = await operation.run_while("rolling-restart", meanwhile, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    owed = {one.mend.split()[2]: one.says for one in ran.end.report.owed}
    assert owed["start"].startswith("w1@web1 may be stopped: ")
    assert "web1" in owed["start"].removeprefix("w1@web1")


async def test_a_worker_whose_supervisor_said_so_last_is_stopped(operation: Operation) -> None:
    operation.fleet.workers[0].faults.dies_at_start = True
    ran = await operation.run("rolling-restart", workers="w1@web1")
    assert ran.end.report is not None
    assert "w1@web1 is stopped" in [one.says for one in ran.end.report.owed]


@pytest.mark.parametrize("runbook", ["drain-worker", "stop-worker"])
async def test_an_undo_tells_whom_it_gave_something_back(
    operation: Operation, runbook: str
) -> None:
    path = operation.write_down(await operation.plan(runbook, workers="w1@web1"))
    await operation.take_up(path)
    undone = await operation.take_up(path, undo=True)
    assert undone.end.says == "taken back: w1@web1", undone.told()
    assert undone.end.report is not None
    assert undone.end.report.returned == ("w1@web1",)
    assert (undone.end.report.done, undone.end.report.not_started) == ((), ())
    again = await operation.take_up(path, undo=True)
    assert again.end.says == "nothing was left to take back"
