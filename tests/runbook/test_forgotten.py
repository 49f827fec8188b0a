"""Records of what is taken that the broker forgets: by a fail-over, or a restart without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.runbook.events import Ending, EventKind
from celery_ops.runbook.executor import REMINDED_EVERY
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

SAYS = "the broker had forgotten what is taken (queues default): recorded once more"
WHILE_IT_DRAINS = 7
"""The line of the journal that tells what is waited for."""
W1 = {"workers": "w1@web1", "drain_timeout": "2h"}


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for number in (1, 2, 3):
        made.fleet.add_worker(f"w{number}@web1", queues=("default",))
    return made


async def told_twice(operation: Operation) -> None:
    """Long enough for two looks at the records."""
    await operation.clock.sleep(2 * REMINDED_EVERY + 1)


async def until_it_drains(operation: Operation) -> None:
    while operation.fleet.worker("w1@web1").consuming:
        await operation.clock.sleep(0.1)


def said(ran: Ran) -> list[tuple[str | None, str]]:
    return [
        (event.target, event.outcome.says)
        for event in ran.events
        if event.event is EventKind.PROGRESS and event.outcome and "forgotten" in event.outcome.says
    ]


async def test_what_is_taken_is_recorded_once_more_and_said(operation: Operation) -> None:
    async def forget() -> None:
        await until_it_drains(operation)
        (before,) = await operation.broker.taken()
        operation.broker.records.clear()
        await told_twice(operation)
        assert await operation.broker.taken() == (before,)

    operation.fleet.send("default", 60.0)
    path = operation.write_down(await operation.plan("rolling-restart", **W1))
    ran = await operation.run_and(path, forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert said(ran) == [("w1@web1", SAYS)], ran.told()
    assert await operation.broker.taken() == ()


async def test_a_lease_that_was_forgotten_too_comes_first(operation: Operation) -> None:
    async def forget() -> None:
        await until_it_drains(operation)
        operation.broker.records.clear()
        operation.broker.lease.forget()
        await told_twice(operation)
        assert len(await operation.broker.taken()) == 1
        assert await operation.broker.holder() is not None

    operation.fleet.send("default", 60.0)
    path = operation.write_down(await operation.plan("rolling-restart", **W1))
    ran = await operation.run_and(path, forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert said(ran) == [("w1@web1", SAYS)], ran.told()


async def test_what_stays_taken_at_the_end_is_told_though_it_was_just_forgotten(
    operation: Operation,
) -> None:
    async def forget() -> None:
        await until_it_drains(operation)
        while operation.broker.records:
            operation.broker.records.clear()
            await operation.clock.sleep(0.1)

    operation.fleet.send("default", 1.0)
    path = operation.write_down(await operation.plan("drain-worker", workers="w1@web1"))
    ran = await operation.run_and(path, forget)
    assert ran.ending is Ending.DONE, ran.told()
    report = ran.end.report
    assert report is not None
    assert [one.mend for one in report.left_drained] == ["celery-ops worker resume w1@web1"]
    assert [one.key for one in await operation.broker.taken()] == ["queues:w1@web1"]


async def test_a_run_that_was_taken_up_again_keeps_its_records_too(operation: Operation) -> None:
    operation.fleet.send("default", 60.0)
    path = operation.write_down(await operation.plan("rolling-restart", **W1))
    assert await killed(operation, path, WHILE_IT_DRAINS, "after")
    assert not operation.fleet.worker("w1@web1").consuming

    async def forget() -> None:
        await operation.clock.sleep(1)
        operation.broker.records.clear()
        await told_twice(operation)
        assert len(await operation.broker.taken()) == 1

    ran = await operation.run_and(path, forget)
    assert ran.ending is Ending.DONE, ran.told()
    assert said(ran) == [("w1@web1", SAYS)], ran.told()


async def test_a_broker_that_is_away_is_asked_again_later(operation: Operation) -> None:
    async def go_away() -> None:
        await until_it_drains(operation)
        operation.broker.is_down = True
        operation.broker.records.clear()
        await told_twice(operation)
        with pytest.raises(BrokerUnreachable):
            await operation.broker.taken()
        operation.broker.is_down = False
        await told_twice(operation)
        assert len(await operation.broker.taken()) == 1

    operation.fleet.send("default", 100.0)
    path = operation.write_down(await operation.plan("rolling-restart", **W1))
    ran = await operation.run_and(path, go_away)
    assert ran.ending is Ending.DONE, ran.told()
    assert said(ran) == [("w1@web1", SAYS)], ran.told()
