"""Runs whose executor died, taken up again where something is in the way, or is not known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.model import Holder
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, RunState
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import Killed, MortalJournal, died
from tests.standin.broker import StandinBroker
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.ports import Clock
    from celery_ops.runbook.journal import Event

DRAINED = ("w1@web1 is drained", "celery-ops worker resume w1@web1")


class DiesAfter(MortalJournal):
    """Its process dies right after the first line that is the one."""

    def __init__(self, path: Path, clock: Clock, is_it: Callable[[Event], bool]) -> None:
        super().__init__(path, clock, 0, "")
        self._is_it = is_it

    def append(self, event: EventKind, **said: Any) -> Event:
        written = super().append(event, **said)
        if self._is_it(written):
            self.dead.set()
            raise Killed
        return written


class AnotherBroker(StandinBroker):
    @property
    def identity(self) -> str:
        return "another"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for number in (1, 2, 3):
        made.fleet.add_worker(f"w{number}@web1")
    return made


async def dies_after(operation: Operation, path: Path, is_it: Callable[[Event], bool]) -> None:
    assert await died(operation, path, lambda path, clock: DiesAfter(path, clock, is_it))


async def drained_and_left(operation: Operation, wait: float = 0.0) -> Path:
    """A run that died when w1 was drained, and would have been restarted."""
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    path = operation.write_down(replace(plan, wait=wait))
    await dies_after(operation, path, lambda one: one.event is EventKind.RESULT)
    return path


def owed(ran: Ran) -> list[tuple[str, str]]:
    assert ran.end.report is not None
    return [(one.says, one.mend) for one in ran.end.report.owed]


async def goes_on_another_time(operation: Operation, path: Path) -> None:
    events = list(journal.read(path))
    assert journal.state_of(events, held=False) is RunState.INTERRUPTED
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert await operation.broker.taken() == ()
    assert all(one.consuming for one in operation.fleet.workers)


async def test_a_resume_on_another_broker_is_refused_and_says_what_is_left(
    operation: Operation,
) -> None:
    path = await drained_and_left(operation)
    theirs = operation.broker
    fleet = StandinFleet(operation.clock)
    operation.broker = AnotherBroker(fleet)
    ran = await operation.take_up(path)
    assert "this is another broker" in ran.end.says
    assert (ran.ending, owed(ran)) == (Ending.NEEDS_HUMAN, [DRAINED]), ran.told()
    assert not any(one.event is EventKind.LEASED for one in ran.events[-2:])
    operation.broker = theirs
    await goes_on_another_time(operation, path)


@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
async def test_a_run_that_finds_no_broker_can_be_taken_up_another_time(
    operation: Operation, *, undo: bool
) -> None:
    path = await drained_and_left(operation)
    operation.broker.is_down = True
    ran = await operation.take_up(path, undo=undo)
    assert (ran.ending, owed(ran)) == (Ending.NEEDS_HUMAN, [DRAINED]), ran.told()
    operation.broker.is_down = False
    await goes_on_another_time(operation, path)


async def test_a_resume_whose_broker_goes_while_it_waits_can_be_repeated(
    operation: Operation,
) -> None:
    path = await drained_and_left(operation, wait=600.0)
    operation.broker.lease.forget()
    bob = Holder("bob@desk", "20261120-030000-beef", "drain-worker", operation.clock.now())
    fence = await operation.broker.lease.acquire(bob)

    async def go_and_come_back() -> None:
        await operation.clock.sleep(5)
        operation.broker.is_down = True

    ran = await operation.run_and(path, go_and_come_back)
    assert (ran.ending, owed(ran)) == (Ending.NEEDS_HUMAN, [DRAINED]), ran.told()
    operation.broker.is_down = False
    await operation.broker.lease.release(fence)
    await goes_on_another_time(operation, path)


async def test_a_resume_that_is_aborted_while_it_waits_can_be_repeated(
    operation: Operation,
) -> None:
    path = await drained_and_left(operation, wait=600.0)
    operation.broker.lease.forget()
    bob = Holder("bob@desk", "20261120-030000-beef", "drain-worker", operation.clock.now())
    fence = await operation.broker.lease.acquire(bob)

    async def abort() -> None:
        await operation.clock.sleep(5)
        assert operation.executor is not None
        operation.executor.brake.pull("ann@desk")

    ran = await operation.run_and(path, abort)
    assert (ran.ending, owed(ran)) == (Ending.NEEDS_HUMAN, [DRAINED]), ran.told()
    await operation.broker.lease.release(fence)
    await goes_on_another_time(operation, path)


async def test_an_undo_that_finds_no_broker_leaves_an_ended_run_as_it_was(
    operation: Operation,
) -> None:
    path = operation.write_down(await operation.plan("drain-worker", workers="w1@web1"))
    assert (await operation.take_up(path)).end.state is RunState.SUCCEEDED
    operation.broker.is_down = True
    ran = await operation.take_up(path, undo=True)
    assert ran.end.state is RunState.SUCCEEDED, ran.told()
    assert owed(ran) == [DRAINED]
    operation.broker.is_down = False
    ran = await operation.take_up(path, undo=True)
    assert ran.end.state is RunState.UNDONE, ran.told()
    assert await operation.broker.taken() == ()


async def test_a_run_that_had_taken_nothing_yet_only_says_that_the_broker_is_away(
    operation: Operation,
) -> None:
    path = operation.write_down(await operation.plan("rolling-restart", workers="w1@web1"))
    await dies_after(operation, path, lambda one: one.event is EventKind.LEASED)
    operation.broker.is_down = True
    ran = await operation.take_up(path)
    assert (ran.ending, owed(ran)) == (Ending.UNREACHABLE, []), ran.told()
    operation.broker.is_down = False
    await goes_on_another_time(operation, path)
