"""Time that misbehaves: a wall clock that is set in the middle of a run, and a process that stood
still past its lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.fleet.clock import SteadyClock, SystemClock
from celery_ops.model import ClockMark, Holder
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind
from celery_ops.runbook.journal import has_ended
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import CASES, Case, begin, came_of, killed
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.journal import Event

HOUR = 3600.0


# --- a wall clock that is set -------------------------------------------------------------------


async def test_a_clock_that_is_set_does_not_change_the_time_that_is_counted_on() -> None:
    machine = VirtualClock()
    steady = SteadyClock(machine)
    began = steady.now()
    machine.jump_wall_clock(-HOUR)
    await machine.sleep(10)
    assert (steady.now() - began).total_seconds() == 10
    assert SteadyClock(machine).now() == machine.now()


def test_another_process_counts_on_from_the_same_moment_of_the_same_boot() -> None:
    machine = VirtualClock()
    mark = ClockMark(machine.now(), machine.monotonic(), machine.boot)
    machine.jump_wall_clock(HOUR)
    assert SteadyClock(machine, mark).now() == mark.at
    for other in (ClockMark(mark.at, mark.monotonic, "another"), ClockMark(mark.at, 5.0, "")):
        assert SteadyClock(machine, other).now() == machine.now()


def test_two_clocks_of_this_machine_agree_from_a_mark_on() -> None:
    first = SystemClock()
    mark = ClockMark(first.now(), first.monotonic(), first.boot)
    assert abs((SystemClock(mark).now() - first.now()).total_seconds()) < 60
    assert first.now().tzinfo is not None


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_wall_clock_that_is_set_at_every_line_changes_nothing(
    tmp_path: Path, case: Case, jump: float
) -> None:
    undisturbed, path = await begin(tmp_path / "undisturbed", case)
    expected = await came_of(undisturbed, await undisturbed.take_up(path))
    operation, path = await begin(tmp_path / "set", case)
    ran = await operation.take_up(path, then=lambda _: operation.clock.jump_wall_clock(jump))
    assert await came_of(operation, ran) == expected, ran.told()
    times = [event.at for event in ran.events]
    assert times == sorted(times)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_wall_clock_that_is_set_before_a_run_is_resumed_changes_nothing(
    tmp_path: Path, jump: float
) -> None:
    case = CASES["drain"]
    undisturbed, path = await begin(tmp_path / "undisturbed", case)
    expected = await came_of(undisturbed, await undisturbed.take_up(path))
    line = 2
    while True:
        operation, path = await begin(tmp_path / f"dies-{line}", case)
        died = await killed(operation, path, line, "after")
        if not died or has_ended(list(journal.read(path))):
            break
        operation.clock.jump_wall_clock(jump)
        ran = await operation.take_up(path)
        assert await came_of(operation, ran) == expected, f"died at {line}\n{ran.told()}"
        line += 1
    assert line > 5


# --- a process that stood still past its lease ---------------------------------------------------

BOB = Holder("bob@console", "20261120-040000-beef", "stop-worker", VirtualClock().now())


def effects(operation: Operation) -> tuple[object, ...]:
    """Everything that was ordered, recorded, and given to hosts that is no question."""
    commands = [
        command.argv
        for host in ("web1",)
        for command in operation.hosts.shell(host).ran
        if command.argv[:2] != ("standin", "status")
    ]
    return (len(operation.broker.orders), commands, sorted(operation.broker.records))


async def stood_still(directory: Path, case: Case, line: int, *, stolen: bool) -> tuple[Ran, Any]:
    """Execute a run that stands still for a minute at that line, and what it had done by then."""
    operation, path = await begin(directory, case)
    before: list[tuple[object, ...]] = []

    def stand_still(event: Event) -> None:
        if event.seq == line:
            operation.clock.suspend(60)
            if stolen:
                operation.broker.lease.steal(BOB)
            before.append(effects(operation))

    ran = await operation.take_up(path, then=stand_still)
    await operation.clock.sleep(5)
    return ran, (operation, before[0] if before else None)


@pytest.mark.parametrize(("name", "every"), [("rolling-restart", 4), ("stop", 1)])
async def test_who_stood_still_past_a_lease_that_was_taken_does_nothing_more(
    tmp_path: Path, name: str, every: int
) -> None:
    line = 3
    while True:
        ran, (operation, before) = await stood_still(
            tmp_path / f"{line}", CASES[name], line, stolen=True
        )
        if before is None or ran.events[-1].seq == line:
            break
        assert effects(operation) == before, f"at {line}\n{ran.told()}"
        assert operation.broker.lease.held_by in {BOB, None}
        assert ran.ending is not Ending.DONE or not _had_more_to_do(ran, line), ran.told()
        assert (ran.ending is Ending.NEEDS_HUMAN) == bool(_owed(ran)), ran.told()
        assert {one.mend for one in _owed(ran)} <= {
            one.mend for one in operation.broker.records.values()
        }
        line += every
    assert line > 12


def _had_more_to_do(ran: Ran, line: int) -> bool:
    return any(event.event is EventKind.INTENT for event in ran.events[line:])


def _owed(ran: Ran) -> tuple[Any, ...]:
    return ran.end.report.owed if ran.end.report is not None else ()


async def test_who_stood_still_past_a_lease_that_nobody_took_goes_on(tmp_path: Path) -> None:
    case = CASES["rolling-restart"]
    undisturbed, path = await begin(tmp_path / "undisturbed", case)
    expected = await came_of(undisturbed, await undisturbed.take_up(path))
    line = 3
    while True:
        ran, (operation, before) = await stood_still(tmp_path / f"{line}", case, line, stolen=False)
        if before is None or ran.events[-1].seq == line:
            break
        assert await came_of(operation, ran) == expected, f"at {line}\n{ran.told()}"
        line += 3
    assert line > 12
