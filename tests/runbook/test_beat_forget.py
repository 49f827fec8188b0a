"""`forget: NAMES`: a scheduler that stays stopped is owed no start any more. On a stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import ServiceState
from celery_ops.runbook.events import Ending
from celery_ops.runbook.journal import has_ended, read
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

BEAT, SECOND = "supervisord beat on web1", "supervisord second on web2"


@pytest.fixture
async def operation(tmp_path: Path) -> Operation:
    """Two schedulers were stopped by one run."""
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1")
    made.fleet.add_beat()
    made.fleet.add_beat("second", host="web2")
    ran = await made.run("stop-beat")
    assert ran.ending is Ending.DONE, ran.told()
    return made


async def owed(operation: Operation) -> list[str]:
    return sorted(one.worker for one in await operation.broker.taken())


@pytest.mark.parametrize("name", ["second", SECOND, "*on web2", "none,second"])
async def test_only_the_one_that_is_named_is_owed_no_more(operation: Operation, name: str) -> None:
    plan = await operation.plan("forget-beat", beats=name)
    (step,) = (one for one in plan.steps if one.targets)
    assert step.targets == (SECOND,)
    assert step.actions[0].does.startswith("forget that it was stopped by 2026")
    assert plan.hazards == ()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == f"{SECOND} stays stopped, and is owed no more"
    assert await owed(operation) == [BEAT]
    ran = await operation.run("start-beat")
    assert ran.ending is Ending.DONE, ran.told()
    states = {str(ref): one.state for ref, one in operation.fleet.services.items() if ref.beat}
    assert states == {BEAT: ServiceState.RUNNING, SECOND: ServiceState.STOPPED}


async def test_where_nobody_sends_any_more_that_is_said(operation: Operation) -> None:
    plan = await operation.plan("forget-beat", beats="*")
    (hazard,) = plan.hazards
    assert hazard.startswith("no scheduler runs, and none is owed its start any more")


async def test_what_is_not_owed_is_refused_with_what_is(operation: Operation) -> None:
    plan = await operation.plan("forget-beat", beats="third")
    assert plan.refusals == (
        f"no configured scheduler 'third' is owed its start; owed are: {BEAT}, {SECOND}",
    )


async def test_what_is_not_seen_to_be_stopped_is_refused(operation: Operation) -> None:
    refs = {str(ref): ref for ref in operation.fleet.services}
    operation.fleet.start_service(operation.fleet.services[refs[SECOND]])
    plan = await operation.plan("forget-beat", beats="second")
    assert any("is running, not stopped" in one for one in plan.refusals), plan.refusals
    operation.hosts.unreachable.add("web2")
    plan = await operation.plan("forget-beat", beats="second")
    assert any(f"the supervisor of {SECOND} did not answer" in one for one in plan.refusals)
    assert await owed(operation) == [BEAT, SECOND]


async def test_one_that_runs_by_the_time_it_is_its_turn_keeps_its_record(
    operation: Operation,
) -> None:
    refs = {str(ref): ref for ref in operation.fleet.services}
    plan = await operation.plan("forget-beat", beats="second")
    operation.fleet.start_service(operation.fleet.services[refs[SECOND]])
    ran = await operation.execute(plan)
    assert ran.ending is not Ending.DONE
    assert f"{SECOND} is running, not stopped" in ran.told()
    assert SECOND in await owed(operation)


@pytest.mark.parametrize("line", range(4, 7))
async def test_one_that_died_goes_on(operation: Operation, line: int) -> None:
    path = operation.write_down(await operation.plan("forget-beat", beats="second"))
    assert await killed(operation, path, line, "after")
    assert not has_ended(list(read(path)))
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert await owed(operation) == [BEAT]
