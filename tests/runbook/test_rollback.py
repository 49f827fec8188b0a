"""A rollback of a fleet that is broken already: what does not answer, is away, or never ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import ServiceState
from celery_ops.runbook import inbox
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word
from tests.runbook.operation import Operation
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.journal import Event
    from tests.runbook.operation import Ran
    from tests.standin.fleet import SimulatedService, SimulatedWorker

BEAT = "supervisord beat on web1"
HOSTS = ("web1", "web2", "web3")
GIVEN = {"release": "v1", "watch": "20s", "batch": "2", "drain_timeout": "30s"}
both_strategies = pytest.mark.parametrize("strategy", ["drain-first", "rolling"])


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    """Six workers on three hosts, and beat on the first; v2, which is in use, is bad."""
    made = Operation(tmp_path)
    for host in HOSTS:
        for number in (1, 2):
            made.fleet.add_worker(f"w{number}@{host}", host=host, unit=f"w{number}")
    made.hosts.layout = StandinReleases(made.fleet, HOSTS, "v1", "v2")
    made.fleet.add_beat()
    return made


def beat_of(operation: Operation) -> SimulatedService:
    return next(one for ref, one in operation.fleet.services.items() if ref.beat)


def layout(operation: Operation) -> StandinReleases:
    assert operation.hosts.layout is not None
    return operation.hosts.layout


def broken(operation: Operation, *names: str) -> list[SimulatedWorker]:
    """These, or all, die at each start, and are started again by their supervisor each time."""
    workers = [one for one in operation.fleet.workers if not names or one.name in names]
    for worker in workers:
        worker.faults.crash_loops = True
        operation.fleet.kill(worker)
    return workers


async def rolled_back(operation: Operation, **params: str) -> Ran:
    """With tasks that come all the time."""

    async def load() -> None:
        while True:
            operation.fleet.send("default", 0.2)
            await operation.clock.sleep(1)

    return await operation.run_while("rollback", load, **{**GIVEN, **params})


async def releases(operation: Operation) -> dict[str, str | None]:
    snapshot = await operation.look()
    return {worker.name: worker.release for worker in snapshot.workers}


@both_strategies
async def test_all_is_switched_while_tasks_go_on(operation: Operation, strategy: str) -> None:
    ran = await rolled_back(operation, strategy=strategy)
    assert ran.ending is Ending.DONE, ran.told()
    assert set((await releases(operation)).values()) == {"v1"}
    assert operation.fleet.lost == set()
    assert (beat_of(operation).state, beat_of(operation).starts) == (ServiceState.RUNNING, 2)
    assert "each entry that came due meanwhile is sent once" in ran.told()


@both_strategies
async def test_workers_that_never_come_up_are_not_waited_for(
    operation: Operation, strategy: str
) -> None:
    broken(operation)
    await operation.clock.sleep(60)
    began = operation.clock.now()
    ran = await rolled_back(operation, strategy=strategy, drain_timeout="10h", allow_gap="default")
    assert ran.ending is Ending.DONE, ran.told()
    assert (operation.clock.now() - began).total_seconds() < 3600
    snapshot = await operation.look()
    assert {one.release for one in snapshot.workers} == {"v1"}
    assert {one.queues for one in snapshot.workers} == {("default",)}
    assert "not asked, and not waited for" in ran.told()
    assert snapshot.taken == ()


@both_strategies
async def test_workers_whose_supervisor_gave_up_are_started(
    operation: Operation, strategy: str
) -> None:
    for worker in operation.fleet.workers:
        assert worker.service is not None
        worker.service.restarts_itself = False
        operation.fleet.kill(worker)
        worker.service.state = ServiceState.FAILED
        worker.service.says = "failed: started too often"
    ran = await rolled_back(operation, strategy=strategy, allow_gap="default")
    assert ran.ending is Ending.DONE, ran.told()
    assert set((await releases(operation)).values()) == {"v1"}


@both_strategies
async def test_a_host_that_is_away_stands_in_the_way_until_it_is_said_otherwise(
    operation: Operation, strategy: str
) -> None:
    operation.hosts.unreachable.add("web3")
    for worker in operation.fleet.workers:
        worker.faults.hangs = worker.name.endswith("web3")
    await operation.clock.sleep(60)
    ran = await rolled_back(operation, strategy=strategy)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "-p offline=skip" in ran.end.says
    assert operation.broker.orders == []
    ran = await rolled_back(operation, strategy=strategy, offline="skip", allow_gap="default")
    assert ran.ending is Ending.DONE, ran.told()
    assert layout(operation).current == {"web1": "v1", "web2": "v1", "web3": "v2"}
    report = ran.end.report
    assert report is not None
    assert set(report.left_out) == {"w1@web3", "w2@web3"}
    assert {*report.done} == {BEAT, "w1@web1", "w2@web1", "w1@web2", "w2@web2"}


async def test_a_scheduler_on_a_host_that_is_away_is_named(operation: Operation) -> None:
    operation.fleet.add_beat("standby", host="web3")
    operation.hosts.unreachable.add("web3")
    for worker in operation.fleet.workers:
        worker.faults.hangs = worker.name.endswith("web3")
    await operation.clock.sleep(60)
    plan = await operation.plan("rollback", **GIVEN, offline="skip")
    assert any("it is not proved that it sends nothing" in one for one in plan.hazards)
    ran = await operation.execute(plan)
    assert beat_of(operation).starts == 2, ran.told()


@both_strategies
async def test_what_never_ends_is_cut_off_and_named(operation: Operation, strategy: str) -> None:
    stuck = operation.fleet.send("default", 7200.0, task="app.stuck")
    for worker in operation.fleet.workers:
        assert worker.service is not None
        worker.service.stop_grace = 300.0
    ran = await rolled_back(operation, strategy=strategy)
    assert ran.ending is Ending.DONE, ran.told()
    assert f"app.stuck [{stuck.id}]" in ran.end.says
    assert "did not stop cleanly" in ran.end.says
    assert set((await releases(operation)).values()) == {"v1"}
    assert operation.fleet.ledger.lost == {stuck.id}


async def test_one_host_without_that_release_stops_it_before_the_first_step(
    operation: Operation,
) -> None:
    layout(operation).known["web2"] = ("v2",)
    ran = await rolled_back(operation)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert ran.effects == []
    assert beat_of(operation).starts == 1


@both_strategies
async def test_an_abort_leaves_the_scheduler_stopped_and_says_so(
    operation: Operation, strategy: str
) -> None:
    path = operation.write_down(await operation.plan("rollback", **GIVEN, strategy=strategy))

    def abort(event: Event) -> None:
        if event.event is EventKind.RESULT and event.step == "2":
            inbox.send(path.with_suffix(".inbox"), Message(Word.ABORT, "ann@desk"))

    ran = await operation.take_up(path, then=abort)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.state is RunState.ABORTED
    assert ran.end.report is not None
    assert [(one.says, one.mend) for one in ran.end.report.owed] == [
        (f"{BEAT} is stopped", "celery-ops beat start")
    ]
    assert beat_of(operation).state is ServiceState.STOPPED
    snapshot = await operation.look()
    assert {one.queues for one in snapshot.workers} == {("default",)}
    again = await rolled_back(operation, strategy=strategy)
    assert again.ending is Ending.DONE, again.told()
    assert (beat_of(operation).state, beat_of(operation).starts) == (ServiceState.RUNNING, 2)
    assert await operation.broker.taken() == ()


@both_strategies
async def test_a_batch_that_fails_leaves_the_scheduler_to_a_human(
    operation: Operation, strategy: str
) -> None:
    layout(operation).crashing = {"v1"}
    ran = await rolled_back(operation, strategy=strategy)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.state is RunState.FAILED
    assert beat_of(operation).state is ServiceState.STOPPED
    assert ran.end.report is not None
    assert [one.mend for one in ran.end.report.owed] == [
        "celery-ops beat start",
        "celery-ops worker start w1@web1",
    ]
    assert "did not come back" in ran.end.says
    assert ran.end.report.failed == ("w1@web1",)
    others = [one for one in operation.fleet.workers if one.name != "w1@web1"]
    assert {tuple(one.consuming) for one in others} == {("default",)}
    assert layout(operation).current == {"web1": "v1", "web2": "v2", "web3": "v2"}


async def test_nothing_has_to_be_done_about_a_scheduler_that_was_stopped_before(
    operation: Operation,
) -> None:
    operation.fleet.stop_service(beat_of(operation))
    plan = await operation.plan("rollback", **GIVEN)
    assert any("no scheduler runs" in one for one in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is not Ending.REFUSED, ran.told()
    assert beat_of(operation).state is ServiceState.STOPPED
