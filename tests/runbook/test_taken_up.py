"""Runs whose executor died, taken up again where something is in the way, or is not known."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.model import Holder
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, Result, RunState
from celery_ops.runbook.inbox import Message, Word, following, send
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import Killed, MortalJournal, died, killed
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


COMMAND_AFTER_DRAIN = """
name: deploys
summary: Something is done to a worker that is drained.
risk: low
steps:
  - roll: w1@web1
    keep_available: 0
    settle: 0s
    on_fail: stop
    steps:
      - drain: worker
        timeout: 60s
      - run: [deploy]
        undo: [deploy]
      - restart: worker
    verify: {that: [worker.online], hold: 0s, timeout: 50s}
"""


async def test_what_a_worker_is_owed_is_owed_to_the_life_that_it_was_taken_from(
    operation: Operation,
) -> None:
    """It was restarted by somebody else between the plan and its drain."""
    operation.write_runbook("deploys", COMMAND_AFTER_DRAIN)
    plan = await operation.plan("deploys")
    worker = operation.fleet.worker("w1@web1")
    operation.fleet.kill(worker)
    assert worker.service is not None
    operation.fleet.start_service(worker.service)
    await operation.clock.sleep(10)
    operation.fleet.settle()
    path = operation.write_down(plan)
    worker.faults.ignores_add = True
    await dies_after(operation, path, lambda one: one.intent == "deploy")
    ran = await operation.take_up(path, undo=True)
    assert (ran.ending, owed(ran)) == (Ending.NEEDS_HUMAN, [DRAINED]), ran.told()
    worker.faults.ignores_add = False
    ran = await operation.take_up(path, undo=True)
    assert (ran.ending, owed(ran)) == (Ending.DONE, []), ran.told()
    assert worker.consuming


async def test_what_was_recorded_and_not_begun_is_cleared_by_a_resume_that_is_refused(
    operation: Operation,
) -> None:
    refuses = f"{COMMAND_AFTER_DRAIN}preflight:\n  - check: fleet.silent == 0\n"
    operation.write_runbook("deploys", refuses)
    path = operation.write_down(await operation.plan("deploys"))
    begun = [EventKind.PLANNED, EventKind.STARTED, EventKind.LEASED, EventKind.BATCH]
    assert await killed(operation, path, len(begun) + 1, "before")
    assert [one.event for one in journal.read(path)] == begun
    assert [one.key for one in await operation.broker.taken()] == ["queues:w1@web1"]
    operation.fleet.worker("w3@web1").faults.hangs = True
    await operation.clock.sleep(30)
    ran = await operation.take_up(path)
    assert (ran.ending, owed(ran)) == (Ending.STOPPED, []), ran.told()
    assert await operation.broker.taken() == ()


LIMIT = """
name: limit
summary: Limit.
risk: low
steps:
  - control: rate_limit
    on: "*"
    args: {task_name: app.work, rate_limit: 10/m}
    timeout: 5s
"""


async def answered_one_by_one(operation: Operation, path: Path, *, times: int) -> list[str | None]:
    """Take it up and answer what is asked, each answer given so many times; who it was about."""
    inbox = path.with_suffix(".inbox")
    about: list[str | None] = []
    seq = 0

    async def answer() -> None:
        nonlocal seq
        with following(inbox):
            while True:
                asked = journal.open_question(list(journal.read(path)))
                if asked is not None and asked.seq > seq:
                    seq = asked.seq
                    about.append(asked.target)
                    said = Message(Word.ANSWER, "ann@desk", asked.step, "done")
                    for _ in range(times):
                        send(inbox, said)
                await operation.clock.sleep(0.1)

    await asyncio.wait_for(operation.run_and(path, answer), 20)
    return about


async def begun_with(operation: Operation, targets: int) -> Path:
    """A control command that nobody knows of whether so many of the workers got it."""
    operation.write_runbook("limit", LIMIT)
    path = operation.write_down(await operation.plan("limit"))
    last = f"w{targets}@web1"

    def is_it(one: Event) -> bool:
        return one.event is EventKind.INTENT and one.target == last

    await dies_after(operation, path, is_it)
    return path


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_every_worker_is_asked_about_by_itself(operation: Operation, times: int) -> None:
    """Also if an answer is given twice: the second is none to the next question."""
    path = await begun_with(operation, 3)
    about = await answered_one_by_one(operation, path, times=times)
    assert about == ["w1@web1", "w2@web1", "w3@web1"]
    last = list(journal.read(path))[-1]
    assert last.outcome is not None
    assert last.outcome.ending is Ending.DONE


async def test_a_question_is_open_while_other_workers_are_told(operation: Operation) -> None:
    path = await begun_with(operation, 1)
    assert await answered_one_by_one(operation, path, times=1) == ["w1@web1"]
    kinds = [one.event for one in journal.read(path)]
    asked, answered = kinds.index(EventKind.ASKED), kinds.index(EventKind.ANSWERED)
    assert EventKind.INTENT in kinds[asked:answered]


WHEN = """
name: when
summary: Steps that are done if something holds.
risk: low
steps:
  - run: [migrate]
    on: db1
    when: fleet.silent == 0
  - restart: w1@web1
    when: fleet.online == fleet.workers
    timeout: 60s
  - check: fleet.workers == 3
"""
WHEN_IDLE = """
name: when
summary: Something that waits for its worker to be idle.
risk: low
steps:
  - roll: w1@web1
    keep_available: 0
    settle: 0s
    on_fail: stop
    steps:
      - run: [deploy]
        when: worker.active == 0
      - drain: worker
        timeout: 10s
        on_timeout: defer
      - restart: worker
    verify: {that: [worker.online], hold: 0s, timeout: 50s}
"""


async def when(operation: Operation, runbook: str = WHEN) -> Path:
    operation.write_runbook("when", runbook)
    return operation.write_down(await operation.plan("when"))


def ran_on(operation: Operation, host: str) -> list[str]:
    return [str(one) for one in operation.hosts.shell(host).ran if one.argv[0] != "standin"]


async def test_a_command_that_was_begun_is_asked_about_whatever_its_condition_says_now(
    operation: Operation,
) -> None:
    path = await when(operation)
    await dies_after(operation, path, lambda one: one.event is EventKind.INTENT)
    operation.fleet.worker("w3@web1").faults.hangs = True
    await operation.clock.sleep(30)
    ran = await operation.take_up(path)
    assert ran.ending is Ending.UNCONFIRMED, ran.told()
    assert "migrate was begun on db1" in ran.end.says


async def test_a_restart_is_gone_on_with_although_its_own_stop_makes_its_condition_fail(
    operation: Operation,
) -> None:
    path = await when(operation)
    await dies_after(operation, path, lambda one: (one.step, one.event) == ("2", EventKind.RESULT))
    assert not operation.fleet.worker("w1@web1").pid
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert await operation.broker.taken() == ()
    assert operation.fleet.worker("w1@web1").consuming


async def test_a_step_that_was_left_out_stays_so(operation: Operation) -> None:
    operation.fleet.worker("w3@web1").faults.hangs = True
    await operation.clock.sleep(30)
    path = await when(operation)
    await dies_after(operation, path, lambda one: one.step == "3")
    operation.fleet.worker("w3@web1").faults.hangs = False
    await operation.clock.sleep(30)
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran_on(operation, "db1") == []
    skipped = [one for one in ran.events if one.outcome and one.outcome.result is Result.SKIPPED]
    assert [one.step for one in skipped] == ["1", "2"]


async def test_a_command_of_a_second_turn_is_not_taken_for_the_first_that_was_left_out(
    operation: Operation,
) -> None:
    for _ in range(2):
        operation.fleet.send("default", 14.0)
    path = await when(operation, WHEN_IDLE)
    await dies_after(operation, path, lambda one: one.intent == "deploy")
    ran = await operation.take_up(path)
    assert ran.ending is Ending.UNCONFIRMED, ran.told()
    assert "deploy was begun on w1@web1" in ran.end.says
