"""While a run goes on: others give back what it took, a worker dies, its disk is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending
from celery_ops.runbook.inbox import Inbox, Message, Word
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for number in (1, 2):
        made.fleet.add_worker(f"w{number}@web1", queues=("default",))
    return made


async def test_a_drain_that_somebody_else_undid_is_not_waited_for(operation: Operation) -> None:
    worker = operation.fleet.worker("w1@web1")
    consuming = dict(worker.consuming)
    operation.fleet.send("default", 3600.0)

    async def give_back() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        await operation.clock.sleep(5)
        worker.consuming.update(consuming)

    began = operation.clock.monotonic()
    ran = await operation.run_while("rolling-restart", give_back, workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "consumes default again, which somebody else gave back" in ran.end.says
    assert operation.clock.monotonic() - began < 60
    assert await operation.broker.taken() == ()


async def test_what_a_dead_incarnation_was_owed_is_cleared_by_a_resume(
    operation: Operation,
) -> None:
    ran = await operation.run("drain-worker", workers="w1@web1")
    assert ran.ending is Ending.DONE, ran.told()
    operation.fleet.kill(operation.fleet.worker("w1@web1"))
    await operation.clock.sleep(10)
    assert len(await operation.broker.taken()) == 1
    ran = await operation.run("resume-worker", workers="w1@web1")
    assert ran.ending is Ending.DONE, ran.told()
    assert await operation.broker.taken() == ()


async def test_a_run_ends_before_the_next_batch_when_its_disk_is_full(
    operation: Operation,
) -> None:
    worker = operation.fleet.worker("w1@web1")
    operation.fleet.send("default", 20.0)
    pid = worker.pid

    async def fill() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        assert operation.executor is not None
        operation.executor._journal.is_cramped = True

    ran = await operation.run_while("rolling-restart", fill, workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "the disk is full" in ran.end.says
    assert set(worker.consuming) == {"default"}
    assert worker.pid == pid
    assert await operation.broker.taken() == ()


async def test_an_undo_does_not_forget_which_workers_came_through(operation: Operation) -> None:
    second = operation.fleet.worker("w2@web1")

    async def abort_twice() -> None:
        while second.consuming:
            await operation.clock.sleep(0.1)
        assert operation.executor is not None
        for _ in range(2):
            operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    ran = await operation.run_while("rolling-restart", abort_twice, hold="1s")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    (path,) = (operation.directory / "runs").glob("*.jsonl")
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert undone.end.report is not None
    assert undone.end.report.done == ("w1@web1",)
    assert undone.end.report.returned == ("w2@web1",)


def test_an_inbox_that_was_deleted_says_nothing_and_nobody_answers(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "run.inbox")
    (tmp_path / "run.inbox").unlink()
    assert inbox.new() == ()
    assert not inbox.has_follower()
