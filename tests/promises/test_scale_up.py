"""Under supervisord workers are scaled down and up again, and pools grow as each worker allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

TASKS, AT_WORK = 16, 3


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(
        tmp_path_factory.mktemp("fleet"),
        Program("auto", pool="prefork", queues=("common",), arguments=("--autoscale", "3,1")),
        Program("one", pool="prefork", queues=("common",)),
        Program("two", queues=("common", "mail")),
    ) as made:
        yield made


def test_down_and_up_again_under_load(fleet: Operations, ann: Operator) -> None:
    plan = ann.do("runbook", "scale-down", "-p", "to=1", "--plan")
    assert "supervisord starts it again when it is restarted itself" in plan.all
    for number in range(TASKS):
        fleet.fleet.send(number, 1.0, queue="mail" if number % 4 == 0 else "common")
    wait_until(lambda: len(fleet.fleet.starts()) >= AT_WORK, what="all of them are at work")
    down = ann.do("runbook", "scale-down", "-p", "to=1", "-p", "hold=1s", "--yes")
    assert down.code == 0, down.all
    assert fleet.poller.consumers() == {"common": 1, "mail": 1}
    assert fleet.redis.hlen("celery-ops:taken") == 2
    up = ann.do("runbook", "scale-up", "--yes")
    assert up.code == 0, up.all
    assert fleet.poller.consumers() == {"common": 3, "mail": 1}
    wait_until(lambda: len(fleet.fleet.ends()) >= TASKS, what="all tasks end")
    assert fleet.fleet.starts() == fleet.fleet.ends() == dict.fromkeys(range(TASKS), 1)
    assert not fleet.redis.exists("celery-ops:taken")


def test_pools_grow_as_each_worker_allows(ann: Operator) -> None:
    said = ann.do("runbook", "scale-up", "-p", "processes=2", "-p", "workers=!two@*", "--yes")
    assert said.code == 0, said.all
    assert "let it scale itself to at most 5 processes instead of 3" in said.all
    assert "its pool has 3 processes" in said.all
    assert "its pool has at most 5 processes" in said.all
    refused = ann.do("runbook", "scale-up", "-p", "processes=2", "--yes")
    assert refused.code == 7, refused.all
    assert "two@rig does not tell how many processes its pool has" in refused.all
