"""A backlog that does not come all at once: what is composed of pausing and of moving messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

COUNT, PER_SECOND = 60, 10
RAMP = {"queue": "mail", "rate": f"{PER_SECOND}/s"}
PAUSED_BY = "20261120-030000-0000"


def fleet(directory: Path) -> Operation:
    made = Operation(directory)
    for name in ("w1@web1", "w2@web1"):
        made.fleet.add_worker(name, queues=("default", "mail"), concurrency=50)
    return made


async def with_backlog(directory: Path) -> Operation:
    """`mail` is paused, and messages wait in it."""
    made = fleet(directory)
    assert (await made.run("pause-queue", queue="mail")).ending is Ending.DONE
    for _ in range(COUNT):
        made.fleet.send("mail", 0.0)
    return made


def is_as_before(operation: Operation) -> bool:
    operation.fleet.settle()
    ended = sum(operation.fleet.ledger.ended.values()), len(operation.fleet.ledger.ended)
    consumed = all({"default", "mail"} == set(one.consuming) for one in operation.fleet.workers)
    return ended == (COUNT, COUNT) and consumed


async def test_a_backlog_is_let_in_at_its_rate(tmp_path: Path) -> None:
    operation = await with_backlog(tmp_path)
    plan = await operation.plan("ramp-queue", **RAMP)
    assert plan.refusals == ()
    assert [(one.step, one.messages) for one in plan.moves] == [("2", COUNT), ("4", COUNT)]
    assert plan.moves[1].queue == plan.moves[0].parked
    began = operation.clock.elapsed
    ran = await operation.run("ramp-queue", **RAMP)
    assert ran.ending is Ending.DONE, ran.told()
    assert is_as_before(operation)
    assert operation.clock.elapsed - began >= COUNT / PER_SECOND - 1


async def test_killed_anywhere_and_gone_on_with_all_of_it_has_run_once(tmp_path: Path) -> None:
    for when in ("before", "after"):
        for line in range(2, 100):
            operation = await with_backlog(tmp_path / f"{when}-{line}")
            path = operation.write_down(await operation.plan("ramp-queue", **RAMP))
            if not await killed(operation, path, line, when):
                assert line > 8
                break
            ran = await operation.take_up(path)
            assert ran.ending is Ending.DONE, f"{when} line {line}: {ran.told()}"
            assert is_as_before(operation), f"{when} line {line}"


async def test_a_queue_that_is_not_paused_has_no_backlog_to_be_let_in(tmp_path: Path) -> None:
    operation = fleet(tmp_path)
    ran = await operation.run("ramp-queue", **RAMP)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "mail is not paused" in ran.end.says


@pytest.mark.parametrize("waiting", [0, 10])
async def test_what_waits_goes_elsewhere_before_a_queue_is_drained(
    tmp_path: Path, waiting: int
) -> None:
    busy = Operation(tmp_path)
    busy.fleet.add_worker("w1@web1", queues=("mail",), concurrency=1)
    for _ in range(waiting):
        busy.fleet.send("mail", 20.0)
    ran = await busy.run("drain-queue", queue="mail", to="aside")
    assert ran.ending is Ending.DONE, ran.told()
    aside = len(busy.fleet.queues.get("aside", ()))
    assert aside + len(busy.fleet.ledger.ended) == waiting
    assert bool(aside) is bool(waiting)
