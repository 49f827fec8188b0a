"""Under supervisord workers are restarted, scaled down and up again under load, whether their stop
signals the pool's children or not; and pools grow as each worker allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.down_and_up import down_and_up_again
from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

NODES = ("auto@rig", "one@rig", "two@rig")
TASKS_BEFORE = 4
EVERY = 0.6
"""Seconds between two tasks: a pool has one process, and in between a single worker is left."""
RESTART = ("runbook", "rolling-restart", "-p", "hold=1s", "-p", "keep_available=1")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(
        tmp_path_factory.mktemp("fleet"),
        Program("auto", pool="prefork", queues=("common",), arguments=("--autoscale", "3,1")),
        Program("one", pool="prefork", queues=("common",), stop_as_group=True),
        Program("two", queues=("common", "mail")),
    ) as made:
        yield made


def test_restarted_and_down_and_up_again_under_load(fleet: Operations, ann: Operator) -> None:
    plan = ann.do("runbook", "scale-down", "-p", "to=1", "--plan")
    assert "supervisord starts it again when it is restarted itself" in plan.all
    restart = ann.do(*RESTART, "-p", "allow_gap=mail", "--plan")
    danger = "a stop signals the pool's children too: the proven drain before it"
    assert [node for node in NODES if f"{node}: {danger}" in restart.all] == ["one@rig"]
    before = {name: fleet.pid(name) for name in fleet.programs}
    with Load(fleet.fleet, *("common", "mail"), every=EVERY) as load:
        wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
        run = ann.do(*RESTART, "-p", "allow_gap=mail", "--yes")
        assert run.code == 0, run.all
        assert all(fleet.pid(name) not in {0, pid} for name, pid in before.items())
        down_and_up_again(ann, fleet.poller, goes=["auto@rig", "one@rig"], runs=fleet.running)
    load.settle()
    assert load.twice() == []
    assert set(fleet.fleet.starts()) == set(load.numbers)
    assert fleet.nothing_is_taken()


def test_pools_grow_as_each_worker_allows(ann: Operator) -> None:
    said = ann.do("runbook", "scale-up", "-p", "processes=2", "-p", "workers=!two@*", "--yes")
    assert said.code == 0, said.all
    assert "let it scale itself to at most 5 processes instead of 3" in said.all
    assert "its pool has 3 processes" in said.all
    assert "its pool has at most 5 processes" in said.all
    refused = ann.do("runbook", "scale-up", "-p", "processes=2", "--yes")
    assert refused.code == 7, refused.all
    assert "two@rig does not tell how many processes its pool has" in refused.all
