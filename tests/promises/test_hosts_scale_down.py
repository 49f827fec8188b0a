"""Six workers of three hosts become two, under load, and stay so when the hosts boot again.

Tasks are sent all the while; somebody who knows nothing of celery_ops counts them, and the
consumers; each host's own systemd tells the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.host_fleet import host_fleet
from tests.rig.load import Load
from tests.rig.poller import Sampler

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet

pytestmark = pytest.mark.rig

DOWN = ("runbook", "scale-down", "-p", "batch=2", "-p", "hold=1s")
UP = ("runbook", "scale-up", "-p", "to=3", "--yes")
TASKS_BEFORE = 20
QUEUES = ("common", "mail")


def test_six_become_two_under_load_and_stay_two_when_the_hosts_boot_again(tmp_path: Path) -> None:
    with host_fleet(tmp_path / "fleet", unit={"Restart": "always"}) as fleet:
        ann = fleet.operator(tmp_path, "ann")
        with Load(fleet.fleet, *fleet.consumers) as load:
            wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
            refused = ann.do(*DOWN, "-p", "to=0", "-p", "workers=queue:mail", "--yes", "--json")
            with Sampler(fleet.poller) as sampler:
                run = ann.do(*DOWN, "-p", "to=2", "--yes", "--json")
        load.settle(logs=fleet.logged)
        assert refused.code == 7, refused.all
        assert "queue mail would keep 0 consumers" in refused.all
        assert not [one for one in refused.events if one["event"] == "intent"]
        assert run.code == 0, run.all
        assert load.sent > TASKS_BEFORE
        assert load.twice() == []
        assert set(fleet.fleet.starts()) == set(load.numbers)
        assert min(sampler.least(queue) for queue in QUEUES) >= 1
        _two_run(fleet)
        left = _enabled(fleet)
        for name in fleet.hosts:
            fleet.power_cycle(name)
        wait_until(lambda: fleet.poller.consumers()["common"] == 2, what="those that are left")
        assert _enabled(fleet) == left
        _two_run(fleet)
        up = ann.do(*UP)
        assert up.code == 0, up.all
        assert len(_enabled(fleet)) == 3
        assert fleet.redis.hlen("celery-ops:taken") == 3


def _two_run(fleet: HostFleet) -> None:
    """On two hosts, with all queues; the others are down, and each operator can see who did it."""
    states = {one: fleet.show(one, "ActiveState", "UnitFileState") for one in fleet.members}
    left = [one for one, told in states.items() if told["ActiveState"] == "active"]
    assert len({one.host for one in left}) == 2 == len(left)
    assert {queue for one in left for queue in one.queues} == set(QUEUES)
    for one, told in states.items():
        assert told["UnitFileState"] == ("enabled" if one in left else "disabled")
    assert fleet.redis.hlen("celery-ops:taken") == len(states) - len(left)


def _enabled(fleet: HostFleet) -> set[str]:
    return {
        one.node
        for one in fleet.members
        if fleet.show(one, "UnitFileState")["UnitFileState"] == "enabled"
    }
