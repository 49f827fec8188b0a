"""The lease of a run: what others are told of it, and what happens when somebody breaks it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word
from celery_ops.runbook.notice import break_lease
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import Holder
    from celery_ops.runbook.journal import Event


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    operation = Operation(tmp_path / "ann")
    for number in (1, 2, 3):
        operation.fleet.add_worker(f"w{number}@web1", queues=("default", "mail"))
    for number in range(12):
        operation.fleet.send("default" if number % 2 else "mail", 20.0)
    return operation


async def held(operation: Operation) -> Holder | None:
    return await operation.broker.holder()


async def break_it(operation: Operation) -> bool:
    """What `runs break-lease` does, by another operator."""
    holder = await held(operation)
    assert holder is not None
    return await break_lease(operation.broker, holder, by="bob@desk", clock=operation.clock)


async def test_everybody_is_told_at_which_step_the_run_is(operation: Operation) -> None:
    told: list[str] = []

    async def listen() -> None:
        while True:
            holder = await held(operation)
            if holder is not None and (not told or told[-1] != holder.step):
                told.append(holder.step)
            await operation.clock.sleep(0.5)

    ran = await operation.run_while("rolling-restart", listen, workers="w1@web1", hold="12s")
    assert ran.ending is Ending.DONE, ran.told()
    assert told[0] == ""
    assert "2.1: drain w1@web1" in told
    assert told[-1] == "2 verify: w1@web1"


async def test_a_paused_run_says_so_to_everybody(operation: Operation) -> None:
    told: list[str] = []

    async def pause() -> None:
        while operation.executor is None:
            await operation.clock.sleep(0.1)
        operation.executor.brake.hear(Message(Word.PAUSE, "ann@desk"))
        await operation.clock.sleep(120)
        holder = await held(operation)
        assert holder is not None
        told.append(holder.step)
        operation.executor.brake.hear(Message(Word.CONTINUE, "ann@desk"))

    ran = await operation.run_while("rolling-restart", pause, workers="w1@web1", hold="1s")
    assert ran.ending is Ending.DONE, ran.told()
    assert told == ["1, paused"]


async def test_a_long_name_does_not_make_the_lease_long(tmp_path: Path) -> None:
    operation = Operation(tmp_path)
    name = "x" * 5_000 + "@web1"
    operation.fleet.add_worker(name, queues=("default",))
    operation.fleet.send("default", 60.0)
    told: list[str] = []

    async def listen() -> None:
        while True:
            holder = await held(operation)
            told.append(holder.step if holder is not None else "")
            await operation.clock.sleep(1)

    given = {"workers": "*", "allow_gap": "default"}
    ran = await operation.run_while("drain-worker", listen, **given)
    assert ran.ending is Ending.DONE, ran.told()
    longest = max(told, key=len)
    assert longest.startswith("2: drain xxx")
    assert len(longest) == 200


@pytest.fixture
def bob(operation: Operation, tmp_path: Path) -> Operation:
    return Operation(tmp_path / "bob", operation.fleet, operation.broker, operator="bob@desk")


async def test_whose_lease_was_broken_does_nothing_more_and_says_by_whom(
    operation: Operation, bob: Operation
) -> None:
    worker = operation.fleet.workers[0]
    orders: list[int] = []

    async def break_while_it_drains() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        orders.append(len(operation.broker.orders))
        assert await break_it(operation)

    ran = await operation.run_while("rolling-restart", break_while_it_drains, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.state is RunState.INTERRUPTED
    assert "broken by bob@desk at 2026-11-20 03:00" in ran.end.says
    assert ran.end.report is not None
    assert [one.mend for one in ran.end.report.owed] == ["celery-ops worker resume w1@web1"]
    lost = [one for one in ran.events if one.event is EventKind.LEASE_LOST]
    assert any(one.outcome and "bob@desk" in one.outcome.says for one in lost)
    assert len(operation.broker.orders) == orders[0], "nothing was sent afterwards"
    assert worker.service is not None
    assert worker.service.starts == 1
    (noted,) = await operation.broker.noted_runs()
    assert (noted.state, noted.broken_by) == ("interrupted", "bob@desk at 2026-11-20 03:00:00 UTC")
    mended = await bob.run("resume-worker", workers="w1@web1")
    assert mended.ending is Ending.DONE, mended.told()
    assert worker.consuming


async def test_a_run_that_ended_before_it_saw_that_its_lease_was_broken_still_tells_who_did(
    operation: Operation,
) -> None:
    plan = await operation.plan("rolling-restart", workers="w1@web1", hold="1s")
    path = operation.write_down(plan)

    broken: list[asyncio.Future[bool]] = []

    def break_after_the_proof(event: Event) -> None:
        if (event.event, event.step) == (EventKind.RESULT, "2 verify"):
            broken.append(asyncio.ensure_future(break_it(operation)))

    ran = await operation.take_up(path, then=break_after_the_proof)
    assert ran.ending is Ending.DONE, ran.told()
    assert await broken[0]
    (noted,) = await operation.broker.noted_runs()
    assert (noted.state, noted.broken_by[:8]) == ("succeeded", "bob@desk")


async def test_a_run_whose_lease_was_broken_can_be_gone_on_with(operation: Operation) -> None:
    worker = operation.fleet.workers[0]

    async def break_while_it_drains() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        assert await break_it(operation)

    plan = await operation.plan("rolling-restart", workers="w1@web1", hold="1s")
    path = operation.write_down(plan)
    broken = await operation.run_and(path, break_while_it_drains)
    assert broken.end.state is RunState.INTERRUPTED
    resumed = await operation.take_up(path)
    assert resumed.ending is Ending.DONE, resumed.told()
    assert await operation.broker.taken() == ()
    (noted,) = await operation.broker.noted_runs()
    assert (noted.state, noted.broken_by[:8]) == ("succeeded", "bob@desk")


async def test_a_lease_that_ran_out_after_it_was_broken_once_is_taken_again(
    operation: Operation,
) -> None:
    worker = operation.fleet.workers[0]
    plan = await operation.plan("rolling-restart", workers="w1@web1", hold="1s")
    path = operation.write_down(plan)

    async def break_while_it_drains() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        assert await break_it(operation)

    async def forget_while_it_drains() -> None:
        await operation.clock.sleep(1)
        operation.broker.lease.forget()

    await operation.run_and(path, break_while_it_drains)
    resumed = await operation.run_and(path, forget_while_it_drains)
    assert resumed.ending is Ending.DONE, resumed.told()
    assert EventKind.LEASE_LOST in [one.event for one in resumed.events if one.attempt == 2]


async def test_a_lease_that_is_nobodys_any_more_is_not_broken(operation: Operation) -> None:
    holder: list[Holder] = []

    async def look() -> None:
        while (found := await held(operation)) is None:
            await operation.clock.sleep(0.1)
        holder.append(found)

    ran = await operation.run_while("drain-worker", look, workers="w1@web1")
    assert ran.ending is Ending.DONE, ran.told()
    broker, clock = operation.broker, operation.clock
    assert not await break_lease(broker, holder[0], by="bob@desk", clock=clock)
    (noted,) = await operation.broker.noted_runs()
    assert noted.broken_by == ""
