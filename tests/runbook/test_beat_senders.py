"""Who sends: candidates that nobody configured, silence after a stop, and one sender after a start.

On the stand-in fleet. A message in a queue that nobody consumes is seen for sure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import SeenProcess, ServiceState
from celery_ops.runbook.events import Ending, Result
from celery_ops.runbook.journal import has_ended, read
from tests.rig.runbooks import CAREFUL
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.fleet import SimulatedService

BEAT, SECOND = "supervisord beat on web1", "supervisord second on web2"
REDBEAT = "redbeat.RedBeatScheduler"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    return made


@pytest.fixture
def beat(operation: Operation) -> SimulatedService:
    return operation.fleet.add_beat()


@pytest.fixture
def second(operation: Operation, beat: SimulatedService) -> SimulatedService:
    assert beat.state is ServiceState.RUNNING
    return operation.fleet.add_beat("second", host="web2")


def tick(operation: Operation, origin: str, *, again: bool = False) -> None:
    """A periodic task's message, which stays where it is seen."""
    message = operation.fleet.send("periodic", task="app.tick")
    message.origin, message.by_beat, message.redelivered = origin, True, again


# --- stop ---------------------------------------------------------------------------------------


async def test_a_process_that_nobody_configured_is_refused_by_name(
    operation: Operation, beat: SimulatedService
) -> None:
    operation.hosts.strays["web1"] = (SeenProcess((900, 1), is_beat=True),)
    plan = await operation.plan("stop-beat")
    (refusal,) = plan.refusals
    assert "beat on web1 (pid 900) schedules, and no service is configured for it" in refusal
    assert "celery-ops config init finds it" in refusal
    assert beat.state is ServiceState.RUNNING
    ran = await operation.run("stop-beat", other_beats="ignore")
    assert ran.ending is Ending.DONE, ran.told()
    assert "beat on web1 (pid 900) is known to go on" in ran.end.says


async def test_a_worker_that_schedules_too_is_refused_by_name(
    operation: Operation, beat: SimulatedService
) -> None:
    inside = SeenProcess((901, 1), has_beat=True, node="w9@web1")
    operation.hosts.strays["web1"] = (inside,)
    plan = await operation.plan("stop-beat")
    assert any("w9@web1 (pid 901) is a worker that schedules too" in one for one in plan.refusals)
    assert beat.state is ServiceState.RUNNING


async def test_what_it_may_be_told_is_said(operation: Operation, beat: SimulatedService) -> None:
    plan = await operation.plan("stop-beat", other_beats="whatever")
    assert plan.refusals == ("others is refuse or ignore, not 'whatever'",)
    assert beat.state is ServiceState.RUNNING


async def test_what_comes_after_the_stop_proves_that_somebody_goes_on(
    operation: Operation, beat: SimulatedService
) -> None:
    tick(operation, "gen7@web7")

    async def goes_on() -> None:
        while beat.state is not ServiceState.STOPPED:
            await operation.clock.sleep(0.05)
        await operation.clock.sleep(2.0)
        tick(operation, "gen8@web8")

    ran = await operation.run_while("stop-beat", goes_on)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "somebody goes on sending: app.tick came from gen8@web8" in ran.end.says
    assert beat.state is ServiceState.RUNNING, "it is given back"
    assert await operation.broker.taken() == ()


async def test_what_was_there_or_is_given_back_proves_nothing(
    operation: Operation, beat: SimulatedService
) -> None:
    tick(operation, "gen7@web7")

    async def given_back() -> None:
        while beat.state is not ServiceState.STOPPED:
            await operation.clock.sleep(0.05)
        await operation.clock.sleep(2.0)
        tick(operation, "gen7@web7", again=True)
        operation.fleet.send("periodic")

    ran = await operation.run_while("stop-beat", given_back)
    assert ran.ending is Ending.DONE, ran.told()
    assert "no process of one on web1" in ran.end.says
    assert "no message with a scheduler's mark was seen to come" in ran.end.says


async def test_it_is_watched_for_as_long_as_the_operator_says(
    operation: Operation, beat: SimulatedService
) -> None:
    began = operation.clock.elapsed
    ran = await operation.run("stop-beat", silence="90s")
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.clock.elapsed - began > 90.0
    assert beat.state is ServiceState.STOPPED


async def test_where_processes_were_not_seen_the_plan_says_so(
    operation: Operation, beat: SimulatedService
) -> None:
    operation.hosts.blind.add("web1")
    plan = await operation.plan("stop-beat")
    assert any("a scheduler may go on unseen on web1" in one for one in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert "no processes could be seen" in ran.end.says
    assert beat.state is ServiceState.STOPPED


# --- start --------------------------------------------------------------------------------------


async def test_of_two_senders_one_is_started_again(
    operation: Operation, beat: SimulatedService, second: SimulatedService
) -> None:
    ran = await operation.run("stop-beat")
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, second.state) == (ServiceState.STOPPED, ServiceState.STOPPED)
    plan = await operation.plan("start-beat")
    assert any(f"{BEAT} is started, and {SECOND} only if" in one for one in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, second.state) == (ServiceState.RUNNING, ServiceState.STOPPED)
    assert f"{BEAT} runs; {SECOND} stays stopped" in ran.end.says
    assert ran.results(SECOND)[-1][1] is Result.SKIPPED
    assert await operation.broker.taken() == ()


async def test_one_that_waits_for_the_lock_is_started_with_its_leader(
    operation: Operation, beat: SimulatedService, second: SimulatedService
) -> None:
    operation.hosts.schedulers |= {BEAT: REDBEAT, SECOND: REDBEAT}
    await operation.run("stop-beat")
    ran = await operation.run("start-beat")
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, second.state) == (ServiceState.RUNNING, ServiceState.RUNNING)
    assert await operation.broker.taken() == ()


async def test_all_are_started_where_the_operator_says_so(
    operation: Operation, beat: SimulatedService, second: SimulatedService
) -> None:
    await operation.run("stop-beat")
    ran = await operation.run("start-beat", other_beats="ignore")
    assert ran.ending is Ending.DONE, ran.told()
    assert (beat.state, second.state) == (ServiceState.RUNNING, ServiceState.RUNNING)


async def test_its_first_message_is_told(operation: Operation, beat: SimulatedService) -> None:
    await operation.run("stop-beat")

    async def sends() -> None:
        while beat.starts < 2:
            await operation.clock.sleep(0.05)
        await operation.clock.sleep(1.0)
        tick(operation, f"gen{beat.pid}@web1")

    ran = await operation.run_while("start-beat", sends)
    assert ran.ending is Ending.DONE, ran.told()
    assert f"app.tick came from gen{beat.pid}@web1" in ran.end.says


async def test_a_message_of_somebody_else_after_the_start_is_a_second_sender(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")

    async def both_send() -> None:
        while beat.starts < 2:
            await operation.clock.sleep(0.05)
        tick(operation, f"gen{beat.pid}@web1")
        tick(operation, "gen9@elsewhere")

    ran = await operation.run_while("start-beat", both_send)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "two schedulers send" in ran.end.says


async def test_a_process_that_appears_meanwhile_is_a_second_sender(
    operation: Operation, beat: SimulatedService
) -> None:
    await operation.run("stop-beat")

    async def appears() -> None:
        while beat.starts < 2:
            await operation.clock.sleep(0.05)
        operation.hosts.strays["web1"] = (SeenProcess((900, 1), is_beat=True),)

    ran = await operation.run_while("start-beat", appears)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert f"two schedulers send: {BEAT}" in ran.end.says
    assert "beat on web1 (pid 900)" in ran.end.says


# --- elsewhere ----------------------------------------------------------------------------------


async def test_a_runbook_can_refuse_two_senders(
    operation: Operation, second: SimulatedService
) -> None:
    operation.write_runbook("careful", CAREFUL)
    plan = await operation.plan("careful")
    assert plan.refusals == ("two send (fleet.senders is 2)",)
    operation.fleet.stop_service(second)
    assert (await operation.plan("careful")).refusals == ()
    operation.hosts.strays["web1"] = (SeenProcess((900, 1), is_beat=True),)
    assert (await operation.plan("careful")).refusals == ("two send (fleet.senders is 2)",)


@pytest.mark.parametrize("line", range(5, 9))
async def test_a_start_that_died_goes_on_and_one_sends(tmp_path: Path, line: int) -> None:
    operation = Operation(tmp_path)
    beat, second = operation.fleet.add_beat(), operation.fleet.add_beat("second", host="web2")
    await operation.run("stop-beat")
    path = operation.write_down(await operation.plan("start-beat"))
    assert await killed(operation, path, line, "after")
    assert not has_ended(list(read(path)))
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert f"{BEAT} runs; {SECOND} stays stopped" in ran.end.says
    assert (beat.state, second.state) == (ServiceState.RUNNING, ServiceState.STOPPED)
    assert (beat.starts, second.starts) == (2, 1)
    assert await operation.broker.taken() == ()
