"""A broker that is down or full does not stop help: services are started without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.mortal import Death, When
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (Program("runs"), Program("idle", autostart=False))
START = ("worker", "start", "idle@rig", "--emergency")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


@pytest.fixture(autouse=True)
def well(fleet: Operations) -> Iterator[None]:
    """In the end the broker is there, and only one worker."""
    yield
    fleet.redis.config_set("maxmemory", "0")
    if fleet.pid("idle"):
        fleet.stop("idle")
    if not fleet.pid("runs"):  # Celery's workers may end where Redis is full
        fleet.start("runs")


def test_it_is_refused_while_the_broker_is_well(fleet: Operations, ann: Operator) -> None:
    for words in (START, ("worker", "restart", "runs@rig", "--emergency")):
        said = ann.do(*words, "--yes")
        assert said.code == 7, said.all
        assert "this is no emergency" in said.err
    assert fleet.pid("idle") == 0
    assert ann.journals() == []


@pytest.fixture
def down(fleet: Operations) -> Iterator[None]:
    if fleet.pid("runs"):  # a worker that has just begun to start dies of the signal of a stop
        wait_until(lambda: fleet.consumes_all("runs"), what="it is up")
    fleet.server.kill()
    yield
    fleet.server.start()


@pytest.mark.usefixtures("down")
def test_a_worker_is_started_while_the_broker_is_down(fleet: Operations, ann: Operator) -> None:
    assert ann.do(*START[:-1], "--yes").code == 69
    planned = ann.do(*START, "--plan")
    assert planned.code == 0, planned.all
    assert planned.out.startswith("EMERGENCY: ")
    assert "no drain, so running tasks may be LOST" in planned.out
    asked = ann.do(*START)
    assert asked.code == 8, asked.all
    started = ann.do(*START, "--yes")
    assert started.code == 0, started.all
    assert fleet.pid("idle") > 0
    assert "EMERGENCY, without the broker" in started.out
    assert "says its supervisor; not asked itself" in started.out
    assert ann.events()[0]["plan"]["emergency"]
    for words in (("worker", "drain", "runs@rig"), ("runbook", "restore-orphans")):
        refused = ann.do(*words, "--emergency", "--yes")
        assert refused.code == 7, refused.all
        assert "needs the broker" in refused.err


def test_while_the_broker_is_full_it_is_tried_and_what_came_of_it_is_told(
    fleet: Operations, ann: Operator
) -> None:
    """Celery itself ends at its start where it cannot write: that is not ours to hide.

    On a busy machine it gets there later than its supervisor's word is waited for.
    """
    fleet.redis.config_set("maxmemory", "1")
    assert ann.do(*START[:-1], "--yes").code in {4, 69}
    said = ann.do(*START, "--yes")
    assert "(OOM)" in said.out
    assert "supervisorctl" in said.out
    if said.code:
        assert said.code == 1, said.all
        assert "did not come back: it d" in said.out, "it does not start, or dies again and again"
        assert "start-worker -p workers=idle@rig --emergency" in said.out
    else:
        assert "says its supervisor; not asked itself" in said.out


AWAY = ("worker", "restart", "runs@rig", "--emergency", "--yes")


@pytest.fixture
def up_again(fleet: Operations) -> Iterator[None]:
    """At the end its worker runs, and nothing is owed."""
    yield
    if not fleet.pid("runs"):
        fleet.start("runs")
    wait_until(lambda: fleet.consumes_all("runs"), what="it consumes again")
    assert fleet.nothing_is_taken()


def interrupted(fleet: Operations, ann: Operator) -> str:
    """An emergency whose executor is killed when its worker is down; the id of the run."""
    death = Death("stop", When.AFTER)
    said = ann.do(*AWAY, **death.variables(ann.home / "mortal"))
    assert said.code == 4, said.all
    assert "runs@rig is left without its service" in said.err
    assert fleet.pid("runs") == 0
    return ann.journals()[-1].stem


@pytest.mark.usefixtures("up_again", "down")
def test_one_whose_executor_is_killed_goes_on_as_an_emergency(
    fleet: Operations, ann: Operator
) -> None:
    interrupted(fleet, ann)
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert fleet.pid("runs") > 0
    assert "says its supervisor; not asked itself" in resumed.out
    assert ann.events()[-1]["outcome"]["report"]["done"] == ["runs@rig"]


@pytest.mark.usefixtures("up_again", "down")
def test_one_whose_executor_is_killed_is_taken_back(fleet: Operations, ann: Operator) -> None:
    run = interrupted(fleet, ann)
    undone = ann.do("runs", "undo", run, "--yes")
    assert undone.code == 0, undone.all
    assert "runs@rig: start it again" in undone.err
    assert fleet.pid("runs") > 0
    assert ann.do("runs", "undo", run, "--yes").err.strip().endswith("nothing to take back.")


@pytest.mark.usefixtures("up_again")
@pytest.mark.parametrize("mend", ["resume", "undo"])
def test_one_whose_executor_is_killed_is_mended_once_the_broker_is_back(
    fleet: Operations, ann: Operator, bob: Operator, mend: str
) -> None:
    fleet.server.kill()
    try:
        run = interrupted(fleet, ann)
    finally:
        fleet.server.start()
    other = ann.do("worker", "start", "idle@rig", "--yes")
    assert "the broker knows" not in other.err, "the run can be gone on with, so it keeps it"
    said = ann.do("runs", mend, run, *(["--yes"] if mend == "undo" else []))
    assert said.code == 0, said.all
    assert fleet.pid("runs") > 0
    assert bob.status()["taken"] == []
    assert ann.do("runs", "undo", run, "--yes").err.strip().endswith("nothing to take back.")


@pytest.mark.usefixtures("up_again")
def test_what_one_has_left_stopped_is_seen_by_others_once_the_broker_is_back(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    fleet.server.kill()
    try:
        stopped = ann.do("worker", "stop", "runs@rig", "--emergency", "--yes")
        assert stopped.code == 0, stopped.all
    finally:
        fleet.server.start()
    run = ann.journals()[-1].stem
    assert bob.status()["taken"] == []
    told = ann.do("worker", "start", "runs@rig", "--yes", "--plan")
    assert "the broker knows" not in told.err, "a plan changes nothing"
    refused = ann.do("worker", "drain", "idle@rig", "--yes")
    assert f"runs@rig, stopped (supervisord runs on local) in an emergency ({run})" in refused.err
    (taken,) = bob.status()["taken"]
    assert (taken["worker"], taken["run"]) == ("runs@rig", run)
    owed = ann.do("runs", "undo", run, "--yes")
    assert owed.code == 2, owed.all
    assert f"celery-ops runs adopt {run}" in owed.err
    adopted = bob.do("runs", "adopt", run, "--yes")
    assert adopted.code == 0, adopted.all
