"""Rollbacks on machines where all is broken already: three systemd hosts, six workers, and beat."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.celeries import redbeat
from tests.rig.load import Load
from tests.rig.mortal import Death, When
from tests.rig.released import NEW, OLD, RELEASES, current, released_fleet, ticks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet
    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

STUCK = 999
LOCK_SECONDS = "app.conf.update(beat_max_loop_interval=1, redbeat_lock_timeout=5)"
REDBEAT = """\
[Service]
Environment=RIG_PROGRAM=beat PYTHONPATH=/opt/celery:/opt/redbeat HOME=/home/celery
ExecStart=
ExecStart=/bin/sh -c 'exec python3 -m celery -A rigapp beat -S redbeat.RedBeatScheduler --pidfile='
"""
WAITING = range(20)
ENOUGH = 10
SOME_DEATHS = (
    Death("stop", When.AFTER),  # the scheduler's
    Death("activate", When.BEFORE),
    Death("stop", When.DURING),
    Death("start", When.AFTER),
)
EVERY_DEATH = (
    Death("stop", When.AFTER),  # the scheduler's
    Death("drain", When.AFTER),
    Death("activate", When.BEFORE),
    Death("stop", When.DURING),
    Death("start", When.DURING),
    Death("stop", When.BEFORE),  # the next worker's
    Death("start", When.AFTER),
    Death("start", When.DURING),  # the scheduler's
)
COMMON = ("-p", "watch=5s", "-p", "batch=5", "--yes", "--json")


def test_a_fleet_that_dies_again_and_again_is_rolled_back(tmp_path: Path) -> None:
    with released_fleet(tmp_path / "fleet") as fleet:
        ann = fleet.operator(tmp_path, "ann")
        _all_die_again_and_again(ann, fleet)
        _aborted_when_beat_was_stopped(fleet.operator(tmp_path, "ben"), fleet)
        fleet.dismiss()
        assert fleet.leaks() == []


def rolled_back(ann: Operator, *options: str) -> Said:
    return ann.do("runbook", "rollback", *options, *COMMON)


def _broken(fleet: HostFleet, *, broken: bool) -> None:
    """The new release dies at its start, or does not."""
    code = f"{RELEASES}/{NEW}/rigapp.py"
    for host in fleet.hosts.values():
        if broken:
            host.run("sh", "-c", f"echo 'raise SystemExit(3)' >> {code}")
        else:
            host.run("sed", "-i", "/raise SystemExit/d", code)


def _all_die_again_and_again(ann: Operator, fleet: HostFleet) -> None:
    """Messages wait; nobody answers, and systemd restarts what dies, or has given up."""
    _broken(fleet, broken=True)
    for one in fleet.members:
        fleet.hosts[one.host].run("systemctl", "restart", "--no-block", one.service.name)
    wait_until(lambda: not fleet.poller.consumers(), what="nobody consumes", timeout=60)
    for number in WAITING:
        fleet.fleet.send(number, queue="common")
    _refused_where_one_host_lacks_the_release(ann, fleet)
    run = rolled_back(ann, "-p", "release=previous")
    assert run.code == 0, run.all
    assert current(fleet) == dict.fromkeys(fleet.hosts, OLD)
    assert fleet.poller.consumers() == fleet.consumers
    wait_until(lambda: set(fleet.fleet.ends()) >= set(WAITING), what="what waited has run")
    assert set(fleet.fleet.starts().values()) == {1}
    assert fleet.nothing_is_taken()


def _refused_where_one_host_lacks_the_release(ann: Operator, fleet: HostFleet) -> None:
    kept, away = f"{RELEASES}/{OLD}", "/srv/app/elsewhere"
    fleet.hosts["web2"].run("mv", kept, away)
    refused = rolled_back(ann, "-p", f"release={OLD}")
    assert refused.code == 7, refused.all
    assert "web2" in refused.err
    assert fleet.show_unit(fleet.beats[0], "ActiveState") == {"ActiveState": "active"}
    assert current(fleet) == dict.fromkeys(fleet.hosts, NEW)
    fleet.hosts["web2"].run("mv", away, kept)


def _aborted_when_beat_was_stopped(ben: Operator, fleet: HostFleet) -> None:
    _broken(fleet, broken=False)
    fleet.fleet.send(STUCK, 600.0, queue="mail")
    wait_until(lambda: STUCK in fleet.fleet.starts(), what="a task that does not end")
    going = ben.start("runbook", "rollback", "-p", f"release={NEW}", *COMMON)
    ben.until(lambda one: one["event"] == "result" and one["step"] == "2", "beat is stopped")
    going.interrupt()
    run = going.wait()
    assert run.code == 4, run.all
    (owed,) = run.events[-1]["outcome"]["report"]["owed"]
    assert owed["mend"] == "celery-ops beat start"
    assert current(fleet) == dict.fromkeys(fleet.hosts, OLD)
    assert fleet.poller.consumers() == fleet.consumers
    told = len(ticks(fleet))
    assert fleet.show_unit(fleet.beats[0], "ActiveState") == {"ActiveState": "inactive"}
    assert len(ticks(fleet)) <= told + 1


def _two_of_redbeat(fleet: HostFleet, packages: str) -> None:
    """In place of the scheduler with a file: one has the lock, on another host one waits for it."""
    for name in ("web1", "web2"):
        host = fleet.hosts[name]
        shutil.copytree(packages, host.root / "opt/redbeat")
        drop_in = host.root / "etc/systemd/system/celery-beat.service.d/redbeat.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(REDBEAT)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", "celery-beat")
    wait_until(lambda: _lock(fleet), what="one of them has the lock")


def _lock(fleet: HostFleet) -> bool:
    with fleet.server.client() as broker:
        return bool(broker.exists("redbeat::lock"))


def _one_sends_and_the_other_stands_by(ann: Operator, fleet: HostFleet) -> None:
    for beat in fleet.beats[:2]:
        assert fleet.show_unit(beat, "ActiveState") == {"ActiveState": "active"}
    seen = ann.do("beat", "--json").json
    ours = [one for one in seen["beats"] if one["running"]]
    assert [one["waits_for_lock"] for one in ours] == [True, True], seen
    assert seen["senders"] == 1, seen


def _nothing_was_sent_between(fleet: HostFleet, run: Said, until: float) -> None:
    """Stopped is whoever had the lock and who waited for it; of those started one sends."""
    stopped, started = (
        max(datetime.fromisoformat(one["at"]).timestamp() for one in run.events
            if one["event"] == event and one.get("step") == step)
        for event, step in (("result", "2"), ("intent", "8"))
    )  # fmt: skip
    told = ticks(fleet)
    before = {one.origin for one in told if one.at < stopped}
    after = {one.origin for one in told if started < one.at < until}
    assert len(after) == 1, after
    assert not before & after
    # One that was sent before waits until a worker consumes again, and then it runs.
    assert {one.origin for one in told} == before | after


def test_a_task_that_never_ends_and_a_host_that_is_away_do_not_keep_the_others(
    tmp_path: Path,
) -> None:
    quick: dict[str, Any] = {
        "unit": {"TimeoutStopSec": "5"},
        "old": LOCK_SECONDS,
        "new": LOCK_SECONDS,
    }
    with released_fleet(tmp_path / "fleet", **quick) as fleet:
        ann = fleet.operator(tmp_path, "ann")
        _two_of_redbeat(fleet, redbeat(tmp_path / "packages"))
        never = range(STUCK, STUCK + 6)
        for number in never:
            fleet.fleet.send(number, 600.0, queue="mail")
        # More than one worker can run: so not only that one runs some which is cut off soon.
        wait_until(lambda: len(fleet.fleet.starts().keys() & set(never)) > 2, what="they begin")
        fleet.hosts["web3"].run("ip", "link", "set", "eth0", "down")
        options = ("-p", f"release={OLD}", "-p", "drain_timeout=5s")
        run = rolled_back(ann, *options)
        assert run.code == 7, run.all
        assert "-p offline=skip" in run.all
        _one_sends_and_the_other_stands_by(ann, fleet)
        run = rolled_back(ann, *options, "-p", "offline=skip")
        until = time.time()
        print(ann.do("runs", "show").out)
        assert run.code == 0, run.all
        outcome = run.events[-1]["outcome"]
        assert set(outcome["report"]["left_out"]) == {"w1@web3", "w2@web3"}
        assert "rig.work" in outcome["says"]
        assert current(fleet) == {"web1": OLD, "web2": OLD, "web3": NEW}
        assert fleet.nothing_is_taken()
        _one_sends_and_the_other_stands_by(ann, fleet)
        _nothing_was_sent_between(fleet, run, until)


def test_an_executor_that_dies_in_each_of_its_verbs_is_gone_on_with(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """With `--every-death` twice as often."""
    deaths = EVERY_DEATH if pytestconfig.getoption("--every-death") else SOME_DEATHS
    with released_fleet(tmp_path / "fleet", "web1") as fleet:
        ann = fleet.operator(tmp_path, "ann")
        with Load(fleet.fleet, *fleet.consumers) as load:
            wait_until(lambda: load.sent > ENOUGH, what="some tasks")
            for number, death in enumerate(deaths):
                command = ("runs", "resume") if number else ("runbook", "rollback", *COMMON[:-1])
                died = ann.do(*command, **death.variables(ann.home / f"mortal-{number}"))
                assert died.code in (4, 9), f"{death}: {died.all}"
                assert "goes on with it" in died.err, f"{death}: {died.all}"
            run = ann.do("runs", "resume")
            assert run.code == 0, run.all
        load.settle(logs=fleet.logged)
        assert load.twice() == []
        assert set(fleet.fleet.starts()) == set(load.numbers)
        assert len({one.origin for one in ticks(fleet)}) == 2, "one before, and one after"
        assert max(Counter(one.id for one in ticks(fleet)).values()) == 1
        assert current(fleet) == {"web1": OLD}
        assert fleet.poller.consumers() == fleet.consumers
        assert fleet.nothing_is_taken()
