"""A rollback of containers: compose makes them anew of the image that is gone back to, under load.

Docker itself tells what they were made of, and somebody who knows nothing of celery_ops counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.container_fleet import IMAGE, PROJECT, RELEASED, container_fleet
from tests.rig.load import Load
from tests.rig.poller import Sampler

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.rig

ROLLBACK = (
    *("runbook", "rollback", "-p", "release=previous", "-p", "watch=5s", "-p", "silence=2s"),
    "--yes",
)
TASKS_BEFORE = 10


def test_containers_are_rolled_back_to_the_image_before_under_load(tmp_path: Path) -> None:
    with container_fleet(tmp_path / "fleet", RELEASED) as fleet:
        ann = fleet.operator(tmp_path, "ann")
        with Load(fleet.fleet, "common", "mail") as load, Sampler(fleet.poller) as sampler:
            wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="it is at work")
            before = ann.do("releases", "--json").json
            run = ann.do(*ROLLBACK, "--json")
        load.settle(logs=fleet.logged)
        assert run.code == 0, run.all
        [host] = before["hosts"] if isinstance(before, dict) else before
        assert (host["current"], host["known"]) == ("v2", ["v1", "v2"])
        assert (fleet.app / ".env").read_text() == "# what is in use\nTAG=v1\n"
        label = f"label=com.docker.compose.project={PROJECT}"
        shape = '{{.Label "com.docker.compose.service"}} {{.Image}} {{.State}}'
        told = fleet.daemon.do("ps", "--all", "--filter", label, "--format", shape).splitlines()
        assert sorted(told) == sorted(f"{one.name} {IMAGE}:v1 running" for one in RELEASED)
        assert load.sent > 50
        assert load.twice() == []
        assert set(fleet.fleet.starts()) == set(load.numbers)
        assert fleet.redis.hlen("unacked") == 0
        assert sampler.samples[-1] == fleet.consumers
        fleet.dismiss()
        assert fleet.leaks() == []
