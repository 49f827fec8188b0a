"""`scale-down` and `scale-up`: who is chosen, what remains, and what a boot brings back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.model import ServiceState
from celery_ops.runbook.choosing import least_missed
from celery_ops.runbook.events import Ending
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runbook.operation import Ran

ALL = tuple(f"w{one}@web{host}" for host in (1, 2, 3) for one in (1, 2))


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    """Three hosts with two workers each; the first of each host consumes `mail` as well."""
    made = Operation(tmp_path)
    for name in ALL:
        queues = ("common", "mail") if name.startswith("w1") else ("common",)
        unit = name.partition("@")[0]
        made.fleet.add_worker(name, queues=queues, host=name.partition("@")[2], unit=unit)
    return made


def states(operation: Operation) -> dict[str, tuple[ServiceState, str | None]]:
    return {
        str(ref.worker): (service.state, service.at_boot)
        for ref, service in operation.fleet.services.items()
    }


def is_down(operation: Operation) -> list[str]:
    return [name for name, told in states(operation).items() if told[0] is ServiceState.STOPPED]


async def scale_down(operation: Operation, to: int, **params: str) -> Ran:
    return await operation.run("scale-down", to=str(to), **{"hold": "1s", **params})


async def test_six_workers_become_two_on_two_hosts_and_every_queue_is_consumed(
    operation: Operation,
) -> None:
    ran = await scale_down(operation, 2, batch="1")
    assert ran.ending is Ending.DONE, ran.told()
    assert is_down(operation) == ["w1@web1", "w2@web1", "w2@web2", "w2@web3"]
    for state, at_boot in states(operation).values():
        assert (at_boot == "enabled") == (state is ServiceState.RUNNING)
    taken = {one.worker: one for one in operation.broker.records.values()}
    assert sorted(taken) == is_down(operation)
    for name, record in taken.items():
        assert (record.kind, record.at_boot) == ("service", "enabled")
        assert record.mend == f"celery-ops worker start {name}"
    again = await operation.plan("scale-down", to="2")
    assert again.refusals == ("there is nothing to do: 2 of these workers run, and 2 are to",)


async def test_the_plan_counts_what_went_before_and_refuses_the_last_consumer_of_a_queue(
    operation: Operation,
) -> None:
    operation.fleet.add_worker("solo@web3", queues=("rare",), host="web3")
    plan = await operation.plan("scale-down", to="1", batch="1")
    least = {
        one.queue: one.during for step in plan.steps for b in step.batches for one in b.capacity
    }
    assert least["common"] == 0 or least["rare"] == 0
    assert len(plan.refusals) == 1
    assert "would keep 0 consumers, and must keep 1 of" in plan.refusals[0]
    assert (await operation.plan("scale-down", to="2", batch="1")).refusals == ()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED
    assert is_down(operation) == []


async def test_a_queue_with_nobody_left_is_refused(operation: Operation) -> None:
    (says,) = (await operation.plan("scale-down", to="0", workers="queue:mail", batch="1")).refusals
    assert "queue mail would keep 0 consumers, and must keep 1 of 3" in says
    plan = await operation.plan("scale-down", to="0", workers="w2@*")
    assert plan.refusals == ()


async def test_a_share_of_the_consumers_can_be_kept(operation: Operation) -> None:
    plan = await operation.plan("scale-down", to="2", keep_available="50%")
    assert any("must keep 3 of 6" in one for one in plan.refusals)


async def test_who_is_missed_least_goes_first(operation: Operation) -> None:
    snapshot = await operation.look()
    names = [worker.name for worker in least_missed(snapshot.workers, snapshot)]
    assert names[:4] == ["w2@web1", "w2@web2", "w2@web3", "w1@web1"]
    operation.fleet.send("mail", 60.0)
    await operation.clock.sleep(1)
    busy = next(one.name for one in operation.fleet.workers if one.active)
    snapshot = await operation.look()
    firsts = [one for one in snapshot.workers if one.name.startswith("w1")]
    assert least_missed(firsts, snapshot)[-1].name == busy


async def test_scale_up_starts_first_what_was_scaled_down_and_enables_it_again(
    operation: Operation,
) -> None:
    await scale_down(operation, 2)
    off = operation.fleet.add_worker("aside@web1", queues=("common",), host="web1", up=False)
    assert off.service is not None
    off.service.at_boot = ""
    ran = await operation.run("scale-up", to="6")
    assert ran.ending is Ending.DONE, ran.told()
    assert is_down(operation) == ["aside@web1"]
    assert all(
        told[1] == "enabled" for name, told in states(operation).items() if "aside" not in name
    )
    assert not operation.broker.records
    ran = await operation.run("scale-up")
    assert ran.ending is Ending.DONE, ran.told()
    assert states(operation)["aside@web1"] == (ServiceState.RUNNING, "")


async def test_scale_up_says_how_many_there_can_be(operation: Operation) -> None:
    plan = await operation.plan("scale-up", to="9")
    assert any("9 of these workers are to run: 6 do" in one for one in plan.refusals)


async def test_worker_start_enables_again_what_was_enabled(operation: Operation) -> None:
    await scale_down(operation, 5)
    (down,) = is_down(operation)
    plan = await operation.plan("start-worker", workers=down)
    ((action,),) = [step.actions for step in plan.steps]
    assert "standin enable" in action.does
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert states(operation)[down] == (ServiceState.RUNNING, "enabled")
    assert not operation.broker.records


async def test_what_was_not_started_at_boot_is_not_enabled(operation: Operation) -> None:
    for service in operation.fleet.services.values():
        service.at_boot = ""
    await scale_down(operation, 5)
    (down,) = is_down(operation)
    await operation.run("start-worker", workers=down)
    assert states(operation)[down] == (ServiceState.RUNNING, "")


async def test_what_comes_back_all_the_same_is_told(operation: Operation) -> None:
    for service in operation.fleet.services.values():
        service.at_boot, service.comes_back = "", "supervisord starts it again"
    plan = await operation.plan("scale-down", to="5")
    assert any("does not stay stopped for ever: supervisord" in one for one in plan.hazards)


async def test_a_refused_command_leaves_all_as_it_was(operation: Operation) -> None:
    operation.hosts.refuses = CommandFailed("sudo was refused")
    ran = await scale_down(operation, 2)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert is_down(operation) == []
    assert not operation.broker.records


async def test_those_that_came_through_stay_stopped_when_a_later_one_fails(
    operation: Operation,
) -> None:
    operation.fleet.worker("w2@web2").faults.stop_does_nothing = True
    ran = await scale_down(operation, 2, batch="1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert is_down(operation) == ["w2@web1"]
    assert states(operation)["w2@web2"] == (ServiceState.RUNNING, "enabled")
    assert list(operation.broker.records) == ["service:w2@web1"]
    assert ran.end.report is not None
    assert ran.end.report.again.endswith("scale-down -p to=2 -p hold=1s -p batch=1")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_executor_that_dies_is_resumed(operation: Operation, when: str) -> None:
    for line in range(4, 100, 5):
        for service in operation.fleet.services.values():
            operation.fleet.start_service(service)
            service.at_boot = "enabled"
        await operation.clock.sleep(10)
        operation.broker.records.clear()
        path = operation.write_down(await operation.plan("scale-down", to="4", hold="0s"))
        if not await killed(operation, path, line, when):
            return
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, ran.told()
        assert len(is_down(operation)) == 2
        for state, at_boot in states(operation).values():
            assert (at_boot == "enabled") == (state is ServiceState.RUNNING)
