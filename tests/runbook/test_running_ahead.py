"""What a deploy's plan says of producers and schedulers that are ahead of the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.runbook.operation import Operation
from tests.runbook.test_activate import SWITCHES
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.plan import Plan

WITH_BEAT = SWITCHES.replace(
    "steps:\n  - roll", "steps:\n  - stop: beat\n    timeout: 1m\n  - roll", 1
)


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for name in ("w1@web1", "w2@web2"):
        worker = made.fleet.add_worker(name, host=name.partition("@")[2])
        worker.registered = ("app.work",)
    made.hosts.layout = StandinReleases(made.fleet, ("web1", "web2", "web3"), "v1", "v2", "v3")
    made.write_runbook("switches", SWITCHES)
    return made


def busy(operation: Operation, task: str, origin: str | None) -> None:
    """Both workers hold all they take, and three messages of that task wait."""
    for _ in range(30):
        operation.fleet.send("default", 600.0)
    for _ in range(3):
        operation.fleet.send("default", task=task).origin = origin


def ahead(plan: Plan) -> list[str]:
    return [one for one in plan.hazards if one.startswith(("producers run", "beat "))]


async def test_waiting_tasks_that_workers_do_not_know_are_named_with_their_senders(
    operation: Operation,
) -> None:
    busy(operation, "app.new", "gen7@shop3")
    (says,) = ahead(await operation.plan("switches", release="v3"))
    assert says == (
        "producers run ahead: 3 messages of app.new, sent by gen7@shop3, wait in default, and"
        " w1@web1, w2@web2 do not know that task: such messages are discarded (celery-ops task hold"
        " keeps them)"
    )


async def test_only_workers_of_which_it_is_known_are_named(operation: Operation) -> None:
    busy(operation, "app.new", None)
    operation.fleet.worker("w2@web2").registered = ("app.work", "app.new")
    (says,) = ahead(await operation.plan("switches", release="v3"))
    assert "3 messages of app.new wait in default, and w1@web1 does not know that task" in says


@pytest.mark.parametrize("task", ["app.work", "celery.chord_unlock"])
async def test_what_they_know_is_not_told(operation: Operation, task: str) -> None:
    busy(operation, task, "gen7@shop3")
    assert ahead(await operation.plan("switches", release="v3")) == []


async def test_where_a_look_marks_messages_nothing_is_looked_at(operation: Operation) -> None:
    busy(operation, "app.new", "gen7@shop3")
    operation.broker.marks = True
    assert ahead(await operation.plan("switches", release="v3")) == []


@pytest.mark.parametrize("is_restarted", [True, False], ids=["runs it", "would begin with it"])
async def test_a_scheduler_of_a_later_release_is_ahead(
    operation: Operation, is_restarted: bool
) -> None:
    layout = StandinReleases(operation.fleet, ("web1", "web2", "web3"), "v1", "v2")
    operation.hosts.layout = layout
    if not is_restarted:
        operation.fleet.add_beat(host="web3")
        await operation.clock.sleep(5)
    layout.known["web3"] = ("v1", "v2", "v3")
    layout.obey("web3", layout.activate("v3", expect=None))
    if is_restarted:
        await operation.clock.sleep(5)
        operation.fleet.add_beat(host="web3")
    says, stays = ahead(await operation.plan("switches", release="v1"))
    does = "runs" if is_restarted else "would begin anew with"
    assert says == (
        f"beat runs ahead: beat on web3 {does} v3, and w1@web1, w2@web2 run v2: what only the later"
        " release knows is discarded there"
    )
    assert "is not switched" in stays


async def test_a_scheduler_that_goes_on_with_what_it_runs_is_told(operation: Operation) -> None:
    operation.fleet.add_beat(host="web1")
    (says,) = ahead(await operation.plan("switches", release="v2"))
    assert says == (
        "beat beat on web1 is not restarted: it goes on with v3, and would begin anew with v2 as"
        " soon as its host is switched; afterwards: celery-ops beat stop, and start"
    )


async def test_one_on_a_host_without_workers_is_not_switched(operation: Operation) -> None:
    operation.fleet.add_beat(host="web3")
    (says,) = ahead(await operation.plan("switches", release="v3"))
    assert says == "beat beat on web3 is not switched: its host is none of the workers'"


async def test_a_runbook_that_is_about_beat_says_nothing_of_it(operation: Operation) -> None:
    operation.fleet.add_beat(host="web1")
    operation.write_runbook("switches", WITH_BEAT)
    busy(operation, "app.new", "gen7@shop3")
    assert ahead(await operation.plan("switches", release="v2")) == []
