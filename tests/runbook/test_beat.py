"""`stop: beat` and `start: beat`: what is stopped is recorded, and just that is started again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from celery_ops.doctor import examine
from celery_ops.errors import CommandFailed
from celery_ops.model import ServiceState
from celery_ops.runbook.events import Ending, EventKind, Result, RunState
from celery_ops.runbook.inbox import Message, Word
from celery_ops.runbook.journal import has_ended, read
from tests.runbook.operation import Operation
from tests.runbook.test_resume import MortalJournal, died, killed
from tests.runbook.test_undo import aborts

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Clock
    from tests.standin.fleet import SimulatedService

SECOND = "supervisord second on web2"
BEAT, STANDBY = "supervisord beat on web1", "supervisord standby on web2"
AROUND = """
name: around
summary: Something without a scheduler.
risk: low
steps:
  - stop: beat
  - check: fleet.workers == 2
  - start: beat
"""
RESTART = """
name: restart
summary: Another life of the scheduler.
risk: low
steps:
  - restart: beat
"""
CHOSEN = """
name: restart
summary: Workers are restarted without a scheduler.
risk: low
params: {workers: {type: workers, default: "w1@*"}}
steps:
  - stop: beat
  - restart: ${{ params.workers }}
  - start: beat
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    made.write_runbook("around", AROUND)
    return made


@pytest.fixture
def beat(operation: Operation) -> SimulatedService:
    return operation.fleet.add_beat()


async def test_it_is_stopped_recorded_and_given_back(
    operation: Operation, beat: SimulatedService
) -> None:
    ran = await operation.run("stop-beat")
    assert ran.ending is Ending.DONE, ran.told()
    assert beat.state is ServiceState.STOPPED
    (record,) = await operation.broker.taken()
    assert (record.key, record.mend) == (f"service:{BEAT}", "celery-ops beat start")
    assert ran.end.report is not None
    assert [one.says for one in ran.end.report.left_drained] == [f"{BEAT} is stopped"]
    ran = await operation.run("start-beat")
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


async def test_only_what_was_running_is_stopped_and_started_again(
    operation: Operation, beat: SimulatedService
) -> None:
    standby = operation.fleet.add_beat("standby", host="web2")
    operation.fleet.stop_service(standby)
    plan = await operation.plan("stop-beat")
    assert [target.name for target in plan.targets] == [BEAT]
    await operation.execute(plan)
    await operation.run("start-beat")
    assert (beat.starts, standby.starts) == (2, 1)


async def test_without_anything_to_do_it_is_refused_with_the_reason(operation: Operation) -> None:
    plan = await operation.plan("stop-beat")
    assert any("no scheduler is configured" in one for one in plan.refusals)
    service = operation.fleet.add_beat()
    plan = await operation.plan("start-beat")
    assert any("no run has stopped a scheduler" in one for one in plan.refusals)
    operation.fleet.stop_service(service)
    plan = await operation.plan("stop-beat")
    assert any("no scheduler runs" in one for one in plan.refusals)


async def test_a_supervisor_that_does_not_answer_is_no_stopped_beat(
    operation: Operation, beat: SimulatedService
) -> None:
    operation.hosts.unreachable.add("web1")
    plan = await operation.plan("stop-beat")
    assert any(f"the supervisor of {BEAT} did not answer" in one for one in plan.refusals)
    assert beat.state is ServiceState.RUNNING


async def test_a_failure_in_between_starts_it_again(
    operation: Operation, beat: SimulatedService
) -> None:
    ran = await operation.run("around")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


async def test_one_that_does_not_start_again_needs_a_human(
    operation: Operation, beat: SimulatedService
) -> None:
    plan = await operation.plan("around")

    async def host_goes() -> None:
        while beat.state is not ServiceState.STOPPED:
            await operation.clock.sleep(0.05)
        operation.hosts.unreachable.add("web1")

    operation.beside.append(asyncio.ensure_future(host_goes()))
    ran = await operation.execute(plan)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert [one.mend for one in ran.end.report.owed] == ["celery-ops beat start"]


async def test_one_that_dies_soon_after_its_start_has_not_come_back(
    operation: Operation, beat: SimulatedService
) -> None:
    """systemd calls it active until then."""
    await operation.run("stop-beat")

    async def dies() -> None:
        while beat.starts < 2:
            await operation.clock.sleep(0.05)
        await operation.clock.sleep(2)
        beat.state = ServiceState.FAILED

    ran = await operation.run_while("start-beat", dies)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert f"{BEAT}: did not come back: it does not start" in ran.end.says
    assert [one.worker for one in await operation.broker.taken()] == [BEAT], "it is still owed"


async def test_one_that_is_started_again_and_again_is_given_up_soon(
    operation: Operation, beat: SimulatedService
) -> None:
    """supervisord calls it running each time that it lives for a second."""
    await operation.run("stop-beat")

    async def dies() -> None:
        while beat.starts < 2:
            await operation.clock.sleep(0.05)
        for _ in range(9):
            await operation.clock.sleep(2)
            beat.starts += 1
            beat.identity = f"beat#{beat.starts}"

    began = operation.clock.elapsed
    ran = await operation.run_while("start-beat", dies)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "did not come back: it dies again and again: 4 lives were seen" in ran.end.says
    assert operation.clock.elapsed - began < 15.0


async def test_what_another_run_has_stopped_is_left_stopped_where_one_is_named(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")
    second = operation.fleet.add_beat("second", host="web2")
    stopped = await operation.run("stop-beat")
    plan = stopped.events[0].plan
    assert plan is not None
    run = plan.run
    plan = await operation.plan("start-beat", run="20261120-nosuch")
    assert any("no run '20261120-nosuch' has stopped a scheduler" in one for one in plan.refusals)
    ran = await operation.run("start-beat", run=run)
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, second.state) == (ServiceState.STOPPED, ServiceState.RUNNING)
    (record,) = await operation.broker.taken()
    assert (record.worker, record.run != run) == (BEAT, True)
    plan = await operation.plan("start-beat")
    assert any(f"{SECOND} (pid {second.pid}) sends already" in one for one in plan.refusals)
    assert (await operation.run("start-beat", other_beats="ignore")).ending is Ending.DONE
    assert beat.state is ServiceState.RUNNING


async def test_somebody_else_may_start_it_and_the_record_goes_with_start_beat(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")
    assert [one.rule for one in examine(await operation.look())].count("owed") <= 1
    operation.fleet.start_service(beat)
    ran = await operation.run("start-beat")
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.results(BEAT)[0][1:] == (Result.SKIPPED, "runs already")
    assert beat.starts == 2
    assert await operation.broker.taken() == ()


async def test_workers_are_not_counted_with_it(
    operation: Operation, beat: SimulatedService
) -> None:
    operation.fleet.add_worker("w2@web1")
    ran = await operation.run("around")
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)
    assert [one.name for one in (await operation.look()).workers] == ["w1@web1", "w2@web1"]


async def test_an_abort_gives_it_back(operation: Operation, beat: SimulatedService) -> None:
    async def abort() -> None:
        while beat.state is not ServiceState.STOPPED:
            await operation.clock.sleep(0.05)
        assert operation.executor is not None
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    waits = "wait: for more\n    until: fleet.workers == 9\n    timeout: 5m"
    operation.write_runbook("around", AROUND.replace("check: fleet.workers == 2", waits))
    ran = await operation.run_while("around", abort)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)


async def test_the_command_that_goes_on_names_no_scheduler(operation: Operation) -> None:
    operation.fleet.add_worker("w2@web1")
    operation.fleet.add_beat()
    operation.write_runbook("restart", CHOSEN)
    plan = await operation.plan("restart")
    operation.hosts.refuses = CommandFailed("sudo: a password is required")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.again == "celery-ops runbook restart -p workers=w1@web1"


# --- runs undo ------------------------------------------------------------------------------------


async def journalled(operation: Operation, runbook: str) -> Path:
    """The journal of a run that came through."""
    path = operation.write_down(await operation.plan(runbook))
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    return path


async def test_an_undo_starts_exactly_what_was_stopped(
    operation: Operation, beat: SimulatedService
) -> None:
    second = operation.fleet.add_beat("second", host="web2")
    standby = operation.fleet.add_beat("standby", host="web2")
    operation.fleet.stop_service(standby)
    path = await journalled(operation, "stop-beat")
    assert (beat.state, second.state) == (ServiceState.STOPPED, ServiceState.STOPPED)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert undone.end.state is RunState.UNDONE
    assert [one.starts for one in (beat, second, standby)] == [2, 2, 1]
    assert await operation.broker.taken() == ()


async def test_an_undo_leaves_what_somebody_else_started_since(
    operation: Operation, beat: SimulatedService
) -> None:
    path = await journalled(operation, "stop-beat")
    operation.fleet.start_service(beat)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("runbook", ["stop-beat", "restart"])
async def test_a_run_that_died_anywhere_is_undone_and_beat_runs(
    tmp_path: Path, runbook: str, when: str
) -> None:
    line = 2
    while True:
        operation = Operation(tmp_path / f"dies-{line}")
        operation.fleet.add_worker("w1@web1")
        beat, standby = operation.fleet.add_beat(), operation.fleet.add_beat("standby", host="web2")
        operation.fleet.stop_service(standby)
        operation.write_runbook("restart", RESTART)
        path = operation.write_down(await operation.plan(runbook))
        if not await killed(operation, path, line, when) or has_ended(list(read(path))):
            break
        undone = await operation.take_up(path, undo=True)
        assert undone.ending is Ending.DONE, f"{when} line {line}: {undone.told()}"
        assert beat.state is ServiceState.RUNNING, undone.told()
        assert (beat.starts <= 2, standby.starts) == (True, 1)
        assert await operation.broker.taken() == ()
        line += 1
    assert line > 5


async def test_an_undo_of_its_start_leaves_it_as_it_was_stopped_and_owed(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")
    path = await journalled(operation, "start-beat")
    undone = await operation.take_up(path, undo=True)
    assert (undone.ending, undone.end.state) == (Ending.DONE, RunState.UNDONE), undone.told()
    assert beat.state is ServiceState.STOPPED
    (record,) = await operation.broker.taken()
    assert (record.key, record.mend) == (f"service:{BEAT}", "celery-ops beat start")
    assert undone.end.report is not None
    assert [one.says for one in undone.end.report.left_drained] == [f"{BEAT} is stopped"]
    assert (await operation.run("start-beat")).ending is Ending.DONE
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 3)
    assert await operation.broker.taken() == ()


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("line", range(1, 6))
async def test_an_undo_of_its_start_that_died_is_gone_on_with(
    operation: Operation, beat: SimulatedService, line: int, when: str
) -> None:
    await operation.run("stop-beat")
    path = await journalled(operation, "start-beat")
    before = len(list(read(path)))

    def mortal(path: Path, clock: Clock) -> MortalJournal:
        return MortalJournal(path, clock, before + line, when)

    assert await died(operation, path, mortal, undo=True)
    if (line, when) != (5, "after"):
        undone = await operation.take_up(path, undo=True)
        assert undone.ending is Ending.DONE, undone.told()
    assert beat.state is ServiceState.STOPPED
    assert [one.key for one in await operation.broker.taken()] == [f"service:{BEAT}"]
    assert (await operation.run("start-beat")).ending is Ending.DONE


async def test_an_undo_leaves_one_running_that_the_run_itself_had_stopped(
    operation: Operation, beat: SimulatedService
) -> None:
    operation.fleet.add_worker("w2@web1")
    path = await journalled(operation, "around")
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert (beat.state, beat.starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


async def test_one_whose_start_is_aborted_is_stopped_and_owed_as_before(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")
    path = operation.write_down(await operation.plan("start-beat"))
    ran = await operation.take_up(path, then=aborts(operation, EventKind.RESULT, "2"))
    assert (ran.ending, ran.end.state) == (Ending.NEEDS_HUMAN, RunState.ABORTED), ran.told()
    assert beat.state is ServiceState.STOPPED
    assert ran.end.report is not None
    assert [(one.says, one.mend) for one in ran.end.report.owed] == [
        (f"{BEAT} is stopped", "celery-ops beat start")
    ]
    assert [one.key for one in await operation.broker.taken()] == [f"service:{BEAT}"]
