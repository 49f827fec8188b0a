"""Runs without a broker: what is left of a runbook, and what is done then."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.emergency import LockFile, NoBroker, hand_over
from celery_ops.errors import BrokerUnreachable, LeaseHeld, PreconditionFailed
from celery_ops.model import Holder, ServiceState
from celery_ops.runbook.emergency import EmergencyLibrary, reduced
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.journal import has_ended, read
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import loads
from celery_ops.runbook.planning import Planner
from celery_ops.runbook.schema import Constant, Risk, WorkerStep, WorkerVerb
from tests.runbook.operation import J, Operation, Ran
from tests.runbook.test_resume import came_of, killed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.ports import Clock, Lease
    from celery_ops.runbook.executor import Executor
    from celery_ops.runbook.plan import Plan

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


TWO_KINDS = """
name: nightly
summary: Other workers in each step.
risk: low
params:
  fresh: {type: workers, default: "w3@*"}
steps:
  - roll: ${{ params.fresh }}
    steps:
      - restart: worker
    verify: {that: worker.online, timeout: 1m}
  - stop: w1@web1
"""


def test_each_step_keeps_its_own_workers() -> None:
    left = reduced(loads(TWO_KINDS, "nightly.yaml"))
    of = [(step.verb, step.target) for step in left.steps if isinstance(step, WorkerStep)]
    assert [verb for verb, _ in of] == [WorkerVerb.RESTART, WorkerVerb.STOP]
    assert str(of[0][1]) == "${{ params.fresh }}"
    assert of[1][1] == Constant("w1@web1")
    assert [(one.name, one.default) for one in left.params] == [("fresh", None)], "to be said"


def test_what_is_done_only_on_a_condition_is_refused() -> None:
    conditional = TWO_KINDS + "    when: fleet.workers == 3\n"
    with pytest.raises(PreconditionFailed, match="`when` of step 2 cannot be told"):
        reduced(loads(conditional, "nightly.yaml"))


class Emergency(Operation):
    """The same, while the broker is down; supervisors are all there is."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for number in (1, 2, 3):
            self.fleet.add_worker(f"w{number}@web1", queues=("default",))
        self.away = self.broker
        self.away.is_down = True
        self.lock = directory / "emergency.lock"
        self.held: Lease | None = None
        self.new_process()

    def new_process(self) -> NoBroker:
        """Of one that is gone, nothing is left but what is on disk."""
        if isinstance(self.held, LockFile):
            self.held.close()
        made = NoBroker(self.away, self.lock, self.clock)
        self.held = made.lease
        self.broker = made  # type: ignore[assignment]  # it stands in for a stand-in
        return made

    def begin(
        self, path: Path, opened: Callable[[Path, Clock], J], *, undo: bool = False
    ) -> tuple[Executor, J]:
        self.new_process()
        return super().begin(path, opened, undo=undo)

    async def run_without_broker(self, name: str, **params: str) -> Ran:
        return await self.execute(await self.plan_without_broker(name, **params))

    async def plan_without_broker(self, name: str, **params: str) -> Plan:
        self.runs += 1
        planner = Planner(
            surveyor=self.surveyor(),
            hosts=self.hosts,
            library=EmergencyLibrary(self.user_runbooks),
            where=self.where(),
            clock=self.clock,
            operator=self.operator,
            backups=self.directory / "backups",
        )
        plan = await planner.plan(name, params, run=f"20261120-030000-{self.runs:04x}")
        assert not plan.refusals
        return replace(plan, emergency="refused the connection")


@pytest.fixture
def operation(tmp_path: Path) -> Emergency:
    """Three workers, and a broker that does not answer."""
    return Emergency(tmp_path)


async def test_workers_are_restarted_by_their_supervisors_alone(operation: Emergency) -> None:
    pids = {one.name: one.pid for one in operation.fleet.workers}
    ran = await operation.run_without_broker("rolling-restart", workers="w1@web1,w3@web1")
    assert ran.ending is Ending.DONE, ran.told()
    renewed = {one.name for one in operation.fleet.workers if pids.get(one.name) != one.pid}
    assert renewed == {"w1@web1", "w3@web1"}
    assert any("not asked itself" in says for _, _, says in ran.results("w1@web1"))


async def test_the_workers_of_one_step_are_not_those_of_another(operation: Emergency) -> None:
    operation.write_runbook("nightly", TWO_KINDS)
    ran = await operation.run_without_broker("nightly", fresh="w3@web1")
    assert ran.ending is Ending.DONE, ran.told()
    services = [one.service for one in operation.fleet.workers]
    assert [one.starts for one in services if one] == [1, 1, 2]
    assert [one.state is ServiceState.STOPPED for one in services if one] == [True, False, False]


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
    holder_of_lock = NoBroker(operation.away, operation.lock, operation.clock)
    await holder_of_lock.lease.acquire(_holder(operation))
    ran = await operation.run_without_broker("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.LEASE_HELD, ran.told()
    with pytest.raises(LeaseHeld, match="bob@desk"):
        await operation.broker.lease.acquire(_holder(operation))


# --- an executor that dies ------------------------------------------------------------------------

STOP, TWO = {"workers": "w2@web1"}, {"workers": "w1@web1,w3@web1"}
DEATHS = {
    "restart": ("rolling-restart", TWO),
    "stop": ("stop-worker", STOP),
    "start": ("start-worker", STOP),
}


async def begun(directory: Path, case: str) -> tuple[Emergency, Path]:
    """A run that is planned; the worker that is to be started was stopped by an earlier one."""
    operation = Emergency(directory)
    if case == "start":
        await operation.run_without_broker("stop-worker", **STOP)
    runbook, params = DEATHS[case]
    return operation, operation.write_down(await operation.plan_without_broker(runbook, **params))


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("case", DEATHS)
async def test_one_that_dies_anywhere_ends_as_if_it_had_not(
    tmp_path: Path, case: str, when: str
) -> None:
    undisturbed, path = await begun(tmp_path / "undisturbed", case)
    ran = await undisturbed.take_up(path)
    expected = await came_of(undisturbed, ran)
    line = 2
    while True:
        operation, path = await begun(tmp_path / f"dies-{line}", case)
        if not await killed(operation, path, line, when) or has_ended(list(read(path))):
            break
        resumed = await operation.take_up(path)
        came = await came_of(operation, resumed)
        assert came == expected, f"died {when} line {line}: {came}\n{resumed.told()}"
        assert resumed.end.report is not None
        assert ran.end.report is not None
        assert resumed.end.report.left_drained == ran.end.report.left_drained
        line += 1
    assert line >= len(ran.events)


async def dies_in_its_stop(operation: Emergency) -> Path:
    """Its stop was sent, and its result is not written."""
    plan = await operation.plan_without_broker("rolling-restart", **STOP)
    path = operation.write_down(plan)
    assert await killed(operation, path, 5, "before")
    assert [event.event for event in read(path)][-1] is EventKind.INTENT
    (record,) = await operation.new_process().taken()
    assert (record.key, record.run) == ("service:w2@web1", plan.run)
    return path


async def test_one_that_died_is_undone_by_what_it_has_written_down(operation: Emergency) -> None:
    path = await dies_in_its_stop(operation)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert undone.end.state is RunState.UNDONE
    service = operation.fleet.worker("w2@web1").service
    assert service is not None
    assert (service.state, service.starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


async def test_one_that_died_and_cannot_give_back_says_what_it_owes(operation: Emergency) -> None:
    path = await dies_in_its_stop(operation)
    operation.hosts.unreachable.add("web1")
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.NEEDS_HUMAN, undone.told()
    assert undone.end.report is not None
    assert [one.mend for one in undone.end.report.owed] == ["celery-ops worker start w2@web1"]


async def test_what_is_left_of_one_is_handed_over_once_the_broker_is_back(
    operation: Emergency,
) -> None:
    stopped = await operation.run_without_broker("stop-worker", **STOP)
    assert stopped.ending is Ending.DONE, stopped.told()
    by, broker = _holder(operation), operation.away
    with pytest.raises(BrokerUnreachable):
        await hand_over(broker, operation.lock, by, is_over=lambda _: True)
    broker.is_down = False
    assert await hand_over(broker, operation.lock, by, is_over=lambda _: False) == ()
    (record,) = await hand_over(broker, operation.lock, by, is_over=lambda _: True)
    assert record.key == "service:w2@web1"
    assert await broker.taken() == (record,)
    assert await operation.new_process().taken() == ()
    assert await broker.holder() is None
    bob = Operation(operation.directory / "bob", operation.fleet, broker, operator="bob@desk")
    started = await bob.run("start-worker", **STOP)
    assert started.ending is Ending.DONE, started.told()
    assert await broker.taken() == ()
