"""Runs without a broker: what is left of a runbook, and what is done then."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.emergency import NoBroker
from celery_ops.errors import LeaseHeld, PreconditionFailed
from celery_ops.model import Holder
from celery_ops.runbook.emergency import EmergencyLibrary, reduced
from celery_ops.runbook.events import Ending
from celery_ops.runbook.library import Library
from celery_ops.runbook.planner import Planner
from celery_ops.runbook.schema import Risk, WorkerStep, WorkerVerb
from tests.runbook.operation import Operation, Ran

if TYPE_CHECKING:
    from pathlib import Path

LEFT = {
    "rolling-restart": [WorkerVerb.RESTART],
    "stop-worker": [WorkerVerb.STOP],
    "start-worker": [WorkerVerb.START],
}


@pytest.mark.parametrize("name", LEFT)
def test_stops_and_starts_are_left_of_a_runbook(name: str) -> None:
    left = reduced(Library(None).get(name))
    verbs = [step.verb for step in left.steps if isinstance(step, WorkerStep)]
    assert verbs == LEFT[name]
    assert len(left.steps) == len(verbs)
    assert left.risk is Risk.HIGH, "so that the context's name is typed"
    assert left.name == name


@pytest.mark.parametrize("name", ["drain-worker", "resume-worker", "restore-orphans"])
def test_what_needs_the_broker_is_refused(name: str) -> None:
    with pytest.raises(PreconditionFailed, match=f"{name} needs the broker"):
        EmergencyLibrary(None).get(name)


class Emergency(Operation):
    """The same, while the broker is down; supervisors are all there is."""

    async def run_without_broker(self, name: str, **params: str) -> Ran:
        self.runs += 1
        planner = Planner(
            surveyor=self.surveyor(),
            hosts=self.hosts,
            library=EmergencyLibrary(None),
            where=self.where(),
            clock=self.clock,
            operator=self.operator,
        )
        plan = await planner.plan(name, params, run=f"20261120-030000-{self.runs:04x}")
        assert not plan.refusals
        return await self.execute(replace(plan, emergency="refused the connection"))


@pytest.fixture
def operation(tmp_path: Path) -> Emergency:
    """Three workers, one of them stopped, and a broker that does not answer."""
    operation = Emergency(tmp_path)
    for number in (1, 2, 3):
        operation.fleet.add_worker(f"w{number}@web1", queues=("default",))
    real = operation.broker
    real.is_down = True
    operation.broker = NoBroker(real, tmp_path / "lock", operation.clock)  # type: ignore[assignment]
    return operation


async def test_workers_are_restarted_by_their_supervisors_alone(operation: Emergency) -> None:
    pids = {one.name: one.pid for one in operation.fleet.workers}
    ran = await operation.run_without_broker("rolling-restart", workers="w1@web1,w3@web1")
    assert ran.ending is Ending.DONE, ran.told()
    renewed = {one.name for one in operation.fleet.workers if pids.get(one.name) != one.pid}
    assert renewed == {"w1@web1", "w3@web1"}
    assert any("not asked itself" in says for _, _, says in ran.results("w1@web1"))


async def test_a_stopped_worker_is_said_to_be_left_so_and_is_started(
    operation: Emergency,
) -> None:
    stopped = await operation.run_without_broker("stop-worker", workers="w2@web1")
    assert stopped.ending is Ending.DONE, stopped.told()
    assert stopped.end.report is not None
    assert [one.mend for one in stopped.end.report.left_drained] == [
        "celery-ops worker start w2@web1"
    ]
    started = await operation.run_without_broker("start-worker", workers="w2@web1")
    assert started.ending is Ending.DONE, started.told()


async def test_a_worker_that_does_not_start_is_told(operation: Emergency) -> None:
    operation.fleet.workers[0].faults.dies_at_start = True
    ran = await operation.run_without_broker("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.failed == ("w1@web1",)


def _holder(operation: Operation) -> Holder:
    return Holder("bob@desk", "x", "start-worker", operation.clock.now())


async def test_two_emergencies_on_one_machine_are_kept_apart(operation: Emergency) -> None:
    holder_of_lock = NoBroker(operation.broker, operation.directory / "lock", operation.clock)
    await holder_of_lock.lease.acquire(_holder(operation))
    ran = await operation.run_without_broker("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.LEASE_HELD, ran.told()
    with pytest.raises(LeaseHeld, match="bob@desk"):
        await operation.broker.lease.acquire(_holder(operation))
