"""A broker that is down or full does not stop help: services are started without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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


def test_it_is_refused_while_the_broker_is_well(fleet: Operations, ann: Operator) -> None:
    for words in (START, ("worker", "restart", "runs@rig", "--emergency")):
        said = ann.do(*words, "--yes")
        assert said.code == 7, said.all
        assert "this is no emergency" in said.err
    assert fleet.pid("idle") == 0
    assert ann.journals() == []


@pytest.fixture
def down(fleet: Operations) -> Iterator[None]:
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
        assert "did not come back: it does not start" in said.out
        assert "start-worker -p workers=idle@rig --emergency" in said.out
    else:
        assert "says its supervisor; not asked itself" in said.out
