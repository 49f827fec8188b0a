"""Runs that are aborted wherever something begins, in each of the three stages; with
`--every-death` at every line of their journal.

On the stand-in fleet, under a virtual clock. The third stage ends the process at once, as
`test_resume` kills it; here is only that it is asked to.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.executor import Executor
from celery_ops.runbook.inbox import Message, Word, clear
from celery_ops.runbook.journal import Journal
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import CASES, Came, Case, begin, came_of, killed, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.runbook.journal import Event

ABORT = Message(Word.ABORT, "ann@elsewhere")


@pytest.fixture
def every(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("every_death"))


class HeededJournal(Journal):
    """At the line of that number, something is said to the run."""

    line = 0
    say: Callable[[], None]

    def append(self, event: EventKind, **said: Any) -> Event:
        written = super().append(event, **said)
        if written.seq == self.line:
            self.say()
        return written


async def told_at(operation: Operation, path: Path, line: int, *messages: Message) -> Ran:
    """Execute a run to which these are said right after a line of its journal."""
    (planned, *_) = journal.read(path)
    assert planned.plan is not None
    held = HeededJournal(path, operation.clock)
    executor = Executor(
        journal=held,
        inbox=path.with_suffix(".inbox"),
        plan=planned.plan,
        broker=operation.broker,
        surveyor=operation.surveyor(),
        hosts=operation.hosts,
        clock=operation.clock,
        at_once=lambda: pytest.fail("nobody said it thrice"),
    )
    held.line = line

    def say() -> None:
        for message in messages:
            executor.brake.hear(message)

    held.say = say
    before = asyncio.all_tasks()
    try:
        ending = await executor.execute()
    finally:
        held.close()
    end_what_sleeps(operation, before)
    return Ran(ending, list(journal.read(path)))


def reported(ran: Ran) -> set[str]:
    """The commands that the report names."""
    report = ran.end.report
    assert report is not None
    return {one.mend for one in (*report.owed, *report.left_drained)}


def end_what_sleeps(operation: Operation, before: set[asyncio.Task[Any]]) -> None:
    """It would keep this clock busy, for ever beside that of the next fleet."""
    for task in asyncio.all_tasks() - before:
        if not operation.clock.drives(task):
            task.cancel()


async def undisturbed(directory: Path, case: Case, *, every: bool) -> tuple[list[int], Came]:
    """The lines at which such a run is to be aborted, and what it leaves if nobody does."""
    operation, path = await begin(directory / "undisturbed", case)
    before = asyncio.all_tasks()
    ran = await operation.take_up(path)
    came = await came_of(operation, ran)
    end_what_sleeps(operation, before)
    return lines_of(ran.events[1:-1], "after", every=every), came


def was_over(ran: Ran) -> bool:
    """It had failed by itself before it was aborted: only its end was still to come."""
    kinds = [event.event for event in ran.events]
    return kinds[-1] is EventKind.ENDED and EventKind.ABORTING not in kinds


async def owed(operation: Operation) -> set[str]:
    return {one.mend for one in await operation.broker.taken()}


def another(directory: Path, operation: Operation) -> Operation:
    """Another operator on the same fleet, whose runs have other ids."""
    bob = Operation(directory / "bob", operation.fleet, operation.broker, operator="bob@desk")
    bob.runs = 100
    return bob


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_the_first_abort_anywhere_gives_back_what_was_taken(
    tmp_path: Path, case: Case, every: bool
) -> None:
    lines, _ = await undisturbed(tmp_path, case, every=every)
    for line in lines:
        operation, path = await begin(tmp_path / f"at-{line}", case)
        already = await owed(operation)
        ran = await told_at(operation, path, line, ABORT)
        for one in operation.beside:
            one.cancel()
        at = f"aborted at line {line}\n{ran.told()}"
        left = await owed(operation)
        assert left <= already | reported(ran), at
        if ran.end.state is RunState.FAILED:
            assert was_over(ran), at
            continue
        assert ran.ending in {Ending.ABORTED, Ending.NEEDS_HUMAN}, at
        if case in (CASES["rolling-restart"], CASES["drain"], CASES["every-step"]):
            assert not left or "when all was done" in ran.end.says, at
        if ran.ending is Ending.ABORTED:
            assert ran.end.state is RunState.ABORTED, at
        assert ran.end.says.startswith("aborted by ann@elsewhere"), at


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_the_second_abort_anywhere_leaves_nothing_unsaid_and_can_be_gone_on_with(
    tmp_path: Path, case: Case, every: bool
) -> None:
    lines, expected = await undisturbed(tmp_path, case, every=every)
    for line in lines:
        operation, path = await begin(tmp_path / f"at-{line}", case)
        ran = await told_at(operation, path, line, ABORT, ABORT)
        at = f"aborted at line {line}\n{ran.told()}"
        plan = ran.events[0].plan
        assert plan is not None
        ours = {one.mend for one in await operation.broker.taken() if one.run == plan.run}
        assert reported(ran) == ours, at
        if ran.end.state is RunState.FAILED:
            assert was_over(ran), at
            assert await came_of(operation, ran) == expected, at
            continue
        wanted = Ending.NEEDS_HUMAN if ours else Ending.INTERRUPTED
        assert (ran.ending, ran.end.state) == (wanted, RunState.INTERRUPTED), at
        resumed = await operation.take_up(path)
        came = await came_of(operation, resumed)
        assert came == expected, f"{at}\n\nresumed:\n{resumed.told()}"


async def test_the_third_abort_ends_the_process(tmp_path: Path) -> None:
    operation, path = await begin(tmp_path, CASES["drain"])
    ended: list[int] = []
    (planned, *_) = journal.read(path)
    assert planned.plan is not None
    with_journal = Journal(path, operation.clock)
    executor = Executor(
        journal=with_journal,
        inbox=path.with_suffix(".inbox"),
        plan=planned.plan,
        broker=operation.broker,
        surveyor=operation.surveyor(),
        hosts=operation.hosts,
        clock=operation.clock,
        at_once=lambda: ended.append(executor.brake.stage),
    )
    for _ in range(4):
        executor.brake.hear(ABORT)
    assert ended == [3]
    with_journal.close()


async def test_a_run_that_waits_for_the_lease_is_aborted_at_once(tmp_path: Path) -> None:
    operation, path = await begin(tmp_path / "ann", CASES["drain"])
    bob = another(tmp_path, operation)
    plan = await bob.plan("drain-worker", workers="w2@web1", keep_available="1")
    waiting = bob.write_down(replace(plan, wait=3600.0))
    operation.fleet.send("default", 600.0)
    beside = asyncio.ensure_future(operation.take_up(path))
    while await operation.broker.holder() is None:
        await operation.clock.sleep(0.1)
    before = operation.clock.elapsed
    ran = await told_at(bob, waiting, 3, ABORT)
    assert [event.event for event in ran.events[1:]] == [
        EventKind.STARTED, EventKind.WAITING, EventKind.ABORTING, EventKind.ENDED
    ]  # fmt: skip
    assert ran.ending is Ending.ABORTED
    assert operation.clock.elapsed - before < 5
    await beside


async def test_a_run_that_waits_for_the_lease_says_for_whom_and_begins_once_it_is_free(
    tmp_path: Path,
) -> None:
    operation, path = await begin(tmp_path / "ann", CASES["drain"])
    bob = another(tmp_path, operation)
    plan = await bob.plan("drain-worker", workers="w2@web1", keep_available="1")
    waiting = bob.write_down(replace(plan, wait=3600.0))
    first = asyncio.ensure_future(operation.take_up(path))
    while await operation.broker.holder() is None:
        await operation.clock.sleep(0.1)
    second = asyncio.ensure_future(bob.take_up(waiting))
    ended = (await first).events[-1].at
    ran = await second
    assert ran.ending is Ending.DONE, ran.told()
    (leased,) = [event.at for event in ran.events if event.event is EventKind.LEASED]
    assert 0 <= (leased - ended).total_seconds() <= 1
    waited = [one.outcome for one in ran.events if one.event is EventKind.WAITING]
    told = [outcome.says for outcome in waited if outcome]
    assert told[0].startswith("ann@desk runs drain-worker")
    assert len(told) == len(set(told))


async def test_a_paused_run_whose_executor_died_goes_on_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    """Taking it up is the operator's word to go on, as `continue` is."""
    for line in range(3, 9):
        operation, path = await begin(tmp_path / f"dies-{line}", CASES["rolling-restart"])
        inbox = path.with_suffix(".inbox")
        inbox.write_bytes(b'{"word":"pause","who":"ann@desk"}\n')
        assert await killed(operation, path, line, "after")
        events = list(journal.read(path))
        if events[-1].event is EventKind.PAUSED:
            break
    assert journal.state_of(events, held=True) is RunState.PAUSED
    assert journal.state_of(events, held=False) is RunState.INTERRUPTED
    clear(inbox)  # as whoever takes it up does
    resumed = await operation.take_up(path)
    assert resumed.ending is Ending.DONE, resumed.told()
