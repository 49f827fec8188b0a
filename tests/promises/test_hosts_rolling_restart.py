"""The main job on machines: six workers of three hosts are restarted over SSH, under load.

Tasks that are acknowledged before and after their run are sent all the while; somebody who knows
nothing of celery_ops counts them, and the consumers; each host's own systemd tells the rest.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.promises.down_and_up import down_and_up_again
from tests.rig import wait_until
from tests.rig.host_fleet import HOSTS, HostFleet, host_fleet, members
from tests.rig.load import Load
from tests.rig.poller import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Said

pytestmark = pytest.mark.rig

GOES = [one.node for one in members(*HOSTS) if one.instance == "w2"]
"""None of these is needed for `mail`."""
NODES = sorted(one.node for one in members(*HOSTS))
RESTART = (
    "runbook",
    "rolling-restart",
    "-p",
    "hold=1s",
    "-p",
    "batch=3",
    "-p",
    "keep_available=30%",
)
GUARD = {"common": 2, "mail": 1}
"""What `keep_available` leaves of six and of three."""
TASKS_BEFORE = 20


@dataclass(frozen=True)
class Restarted:
    """What was said and seen before and during a rolling restart of everything."""

    fleet: HostFleet
    before: dict[str, str]
    plan: Said
    run: Said
    load: Load
    sampler: Sampler


@contextlib.contextmanager
def restarted(folder: Path, *, kill_mode: str, down: bool = False) -> Iterator[Restarted]:
    """A fleet with that KillMode, after its rolling restart by the real command.

    With `down` half of it was stopped and started afterwards.
    """
    with host_fleet(folder / "fleet", unit={"KillMode": kill_mode}) as fleet:
        ann = fleet.operator(folder, "ann")
        before = fleet.incarnations()
        with Load(fleet.fleet, *fleet.consumers) as load:
            wait_until(lambda: len(fleet.fleet.ends()) > TASKS_BEFORE, what="the fleet is at work")
            plan = ann.do(*RESTART, "--plan")
            with Sampler(fleet.poller) as sampler:
                run = ann.do(*RESTART, "--yes", "--json")
            if down:
                down_and_up_again(ann, fleet.poller, goes=GOES, runs=fleet.running)
        load.settle(logs=fleet.logged)
        yield Restarted(fleet, before, plan, run, load, sampler)
        fleet.dismiss()
        assert fleet.leaks() == []


def test_six_workers_are_restarted_over_ssh_under_load_and_no_task_is_lost(tmp_path: Path) -> None:
    with restarted(tmp_path, kill_mode="mixed") as seen:
        assert seen.plan.code == 0, seen.plan.all
        assert "signals the pool's children" not in seen.plan.out
        _all_is_well(seen)


def test_where_a_stop_signals_the_children_the_plan_says_so_and_the_drain_keeps_the_tasks(
    tmp_path: Path,
) -> None:
    with restarted(tmp_path, kill_mode="control-group", down=True) as seen:
        assert seen.plan.code == 0, seen.plan.all
        danger = "a stop signals the pool's children too: the proven drain before it"
        assert f"all {len(NODES)} workers: {danger}" in seen.plan.out
        _all_is_well(seen)


def _all_is_well(seen: Restarted) -> None:
    assert seen.run.code == 0, seen.run.all
    _no_task_was_lost(seen)
    _the_guard_was_kept(seen)
    _all_live_anew(seen)


def _no_task_was_lost(seen: Restarted) -> None:
    """All have ended, or `settle` had not returned."""
    assert seen.load.sent > 100
    assert seen.load.twice() == []
    assert set(seen.fleet.fleet.starts()) == set(seen.load.numbers)
    assert seen.fleet.redis.hlen("unacked") == 0


def _the_guard_was_kept(seen: Restarted) -> None:
    samples, events = seen.sampler.samples, seen.run.events
    first, last = (datetime.fromisoformat(events[at]["at"]) for at in (0, -1))
    assert len(samples) > 3 * (last - first).total_seconds(), "five a second are meant"
    assert samples[0] == samples[-1] == seen.fleet.consumers
    for queue, least in GUARD.items():
        assert least <= seen.sampler.least(queue) < seen.fleet.consumers[queue], (
            "the restart was seen, too"
        )


def _all_live_anew(seen: Restarted) -> None:
    after = seen.fleet.incarnations()
    assert all(after[node] and after[node] != seen.before[node] for node in NODES)
    assert sorted(seen.run.events[-1]["outcome"]["report"]["done"]) == NODES
    for one in seen.fleet.members:
        told = seen.fleet.show(one, "ActiveState", "NRestarts", "Result")
        assert told == {"ActiveState": "active", "NRestarts": "0", "Result": "success"}
    assert seen.fleet.nothing_is_taken()
    assert not seen.fleet.redis.exists("celery-ops:lease")
