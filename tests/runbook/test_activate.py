"""Hosts are switched to another release, workers begin with it, and what did not do is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.runbook.events import Ending, EventKind
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Command, Completed

SWITCHES = """
name: switches
summary: Switches the release.
risk: low
params:
  release: {type: release}
  workers: {type: workers, default: "*"}
steps:
  - roll: ${{ params.workers }}
    order: by_name
    canary: 1
    batch: 1
    keep_available: 0
    settle: 0s
    on_fail: undo
    steps:
      - drain: worker
        timeout: 1m
      - activate: ${{ params.release }}
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.release == params.release]
      hold: 1s
      timeout: 30s
"""
ON_A_HOST = """
name: switches
summary: Switches the release of one host.
risk: low
params:
  release: {type: release, default: previous}
steps:
  - activate: ${{ params.release }}
    on: web1
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for name in ("w1@web1", "w2@web1", "w3@web2"):
        made.fleet.add_worker(name, host=name.partition("@")[2])
    made.hosts.layout = StandinReleases(made.fleet, ("web1", "web2"), "v1", "v2", "v3")
    made.write_runbook("switches", SWITCHES)
    return made


def layout(operation: Operation) -> StandinReleases:
    assert operation.hosts.layout is not None
    return operation.hosts.layout


async def test_workers_that_no_start_brings_to_another_release_are_refused_by_name(
    operation: Operation,
) -> None:
    layout(operation).unreached["w2@web1"] = "it is no container"
    plan = await operation.plan("switches", release="v1")
    assert plan.refusals == (
        "step 1.2: w2@web1 cannot be brought to another release: it is no container",
    )
    plan = await operation.plan("switches", release="v1", workers="!w2@web1")
    assert plan.refusals == ()


async def test_previous_becomes_a_name_when_the_plan_is_made(operation: Operation) -> None:
    plan = await operation.plan("switches", release="previous")
    assert plan.params["release"] == "v2"
    assert [(one.host, one.release, one.before) for one in plan.activations] == [
        ("web1", "v2", "v3"),
        ("web2", "v2", "v3"),
    ]
    does = [one.does for one in plan.steps[0].actions if one.step == "1.2"]
    assert does[0] == "make v2 the current release of web1 (v3 now)"
    assert plan.refusals == ()


async def test_each_worker_begins_with_it(operation: Operation) -> None:
    ran = await operation.run("switches", release="v1")
    assert ran.ending is Ending.DONE, ran.told()
    assert layout(operation).switched == [("web1", "v1"), ("web2", "v1")]
    snapshot = await operation.look()
    assert {worker.release for worker in snapshot.workers} == {"v1"}


async def test_where_processes_tell_nothing_their_beginning_does(operation: Operation) -> None:
    layout(operation).tells = False
    assert {one.release for one in (await operation.look()).workers} == {None}
    ran = await operation.run("switches", release="v1")
    assert ran.ending is Ending.DONE, ran.told()


async def test_a_host_without_that_release_stands_in_the_way_of_all(operation: Operation) -> None:
    layout(operation).known["web2"] = ("v2", "v3")
    ran = await operation.run("switches", release="v1")
    assert ran.ending is Ending.REFUSED
    assert "web2 has no release v1 (it has v2, v3)" in ran.told()
    assert layout(operation).switched == []
    assert operation.broker.orders == []


async def test_hosts_that_differ_have_no_previous_release(operation: Operation) -> None:
    layout(operation).current["web2"] = "v2"
    with pytest.raises(UsageError, match="v2 on web1, v1 on web2"):
        await operation.plan("switches", release="previous")


async def test_it_is_said_which_release_is_wanted(operation: Operation) -> None:
    with pytest.raises(UsageError, match="needs release"):
        await operation.plan("switches")
    operation.hosts.layout = None
    plan = await operation.plan("switches", release="v1")
    assert "not configured" in plan.refusals[0]
    with pytest.raises(UsageError, match="no name of a release"):
        await operation.plan("switches", release="../v1")


async def test_a_switch_by_somebody_else_is_noticed(operation: Operation) -> None:
    plan = await operation.plan("switches", release="v1")
    layout(operation).current["web1"] = "v2"
    ran = await operation.execute(plan)
    assert ran.ending is Ending.UNDONE, ran.told()
    assert layout(operation).current == {"web1": "v2", "web2": "v3"}


async def test_a_canary_that_does_not_come_up_is_put_back(operation: Operation) -> None:
    operation.write_runbook("switches", SWITCHES.replace("worker.online", "worker.processes == 9"))
    ran = await operation.run("switches", release="v1", workers="w1@web1")
    assert ran.ending is Ending.UNDONE, ran.told()
    assert layout(operation).switched == [("web1", "v1"), ("web1", "v3")]
    snapshot = await operation.look()
    assert {worker.release for worker in snapshot.workers} == {"v3"}
    assert {worker.queues for worker in snapshot.workers} == {("default",)}
    assert snapshot.taken == ()


class Deadly(StandinReleases):
    """No worker comes up with `v1`."""

    def obey(self, host: str, command: Command) -> Completed:
        done = super().obey(host, command)
        for worker in self._fleet.workers:
            worker.faults.dies_at_start = self.current[host] == "v1"
        return done


async def test_a_canary_that_dies_at_its_start_is_started_with_the_release_before(
    operation: Operation,
) -> None:
    operation.hosts.layout = Deadly(operation.fleet, ("web1", "web2"), "v1", "v2", "v3")
    ran = await operation.run("switches", release="v1", workers="w1@web1")
    assert ran.ending is Ending.UNDONE, ran.told()
    assert layout(operation).switched == [("web1", "v1"), ("web1", "v3")]
    snapshot = await operation.look()
    assert {worker.release for worker in snapshot.workers} == {"v3"}
    assert snapshot.taken == ()


async def test_a_host_keeps_what_another_worker_came_through_with(operation: Operation) -> None:
    (second,) = [one for one in operation.fleet.workers if one.name == "w2@web1"]
    second.pool = "solo"
    text = SWITCHES.replace("worker.online", "worker.pool == 'prefork'")
    operation.write_runbook("switches", text)
    ran = await operation.run("switches", release="v1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert "w1@web1 came through with it" in ran.told()
    assert layout(operation).current == {"web1": "v1", "web2": "v3"}


async def test_one_host_by_name(operation: Operation) -> None:
    operation.write_runbook("switches", ON_A_HOST)
    ran = await operation.run("switches")
    assert ran.ending is Ending.DONE, ran.told()
    assert layout(operation).switched == [("web1", "v2")]
    assert ran.end.says == "v2 is the current release of web1"
    undone = await operation.take_up(
        operation.directory / "runs" / "20261120-030000-0001.jsonl", undo=True
    )
    assert undone.ending is Ending.DONE, undone.told()
    assert layout(operation).current["web1"] == "v3"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whoever_dies_around_the_switch_is_gone_on_with(
    operation: Operation, when: str
) -> None:
    path = operation.write_down(await operation.plan("switches", release="v1"))
    line = next(
        event.seq
        for event in (await operation.run("switches", release="v3")).events
        if (event.event, event.step) == (EventKind.INTENT, "1.2")
    )
    assert await killed(operation, path, line + (when == "before"), when)
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert layout(operation).switched == [("web1", "v1"), ("web2", "v1")]
    assert {one.release for one in (await operation.look()).workers} == {"v1"}
