"""Which schedulers are seen: by their services, their processes, and what they wait for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.doctor import examine
from celery_ops.fleet.beats import doubtful, senders, strays
from celery_ops.model import SeenProcess

if TYPE_CHECKING:
    from celery_ops.model import FleetSnapshot
    from tests.fleet.conftest import Lab

STRAY = SeenProcess((900, 1), is_beat=True)
INSIDE = SeenProcess((901, 1), has_beat=True, node="b@web1")
REDBEAT = "redbeat.RedBeatScheduler"


def _at(where: dict[str, int]) -> SeenProcess:
    return replace(STRAY, inner_pid=where.get("inner_pid"), supervisord=where.get("supervisord"))


def rules(snapshot: FleetSnapshot) -> list[str]:
    return [one.rule for one in examine(snapshot) if "beat" in one.rule]


async def test_a_configured_scheduler_is_seen_once_with_what_it_sends_as(lab: Lab) -> None:
    service = lab.fleet.add_beat()
    snapshot = await lab.surveyor.refresh()
    (beat,) = snapshot.beats
    assert (beat.running, beat.pid, beat.origin) == (True, service.pid, f"gen{service.pid}@web1")
    assert beat.service is not None
    assert rules(snapshot) == []


async def test_one_that_nobody_configured_is_a_second_sender(lab: Lab) -> None:
    lab.fleet.add_beat()
    lab.hosts.strays["web1"] = (STRAY,)
    snapshot = await lab.surveyor.refresh()
    assert [one.pid for one in strays(snapshot)] == [900]
    assert len(senders(snapshot)) == 2
    (finding,) = [one for one in examine(snapshot) if one.rule == "two-beats"]
    assert "beat on web1 (pid 900)" in finding.says


async def test_a_worker_that_schedules_too_is_one(lab: Lab) -> None:
    lab.fleet.add_worker("b@web1")
    lab.hosts.strays["web1"] = (INSIDE,)
    snapshot = await lab.surveyor.refresh()
    (beat,) = snapshot.beats
    assert (beat.worker, beat.origin) == ("b@web1", None)
    assert rules(snapshot) == ["beat-unconfigured"]


async def test_schedulers_that_wait_for_one_lock_are_one_sender(lab: Lab) -> None:
    for host in ("web1", "web2"):
        lab.hosts.schedulers[f"supervisord beat on {host}"] = REDBEAT
        lab.fleet.add_beat(host=host)
    snapshot = await lab.surveyor.refresh()
    ((one, other),) = senders(snapshot)
    assert one.waits_for_lock
    assert other.waits_for_lock
    assert rules(snapshot) == []


@pytest.mark.parametrize("scheduler", [None, "django_celery_beat.schedulers:DatabaseScheduler"])
async def test_the_lock_speaks_for_those_that_do_not_tell_their_scheduler(
    lab: Lab, scheduler: str | None
) -> None:
    lab.broker.beat_lock = 90.0
    for host in ("web1", "web2"):
        if scheduler is not None:
            lab.hosts.schedulers[f"supervisord beat on {host}"] = scheduler
        lab.fleet.add_beat(host=host)
    snapshot = await lab.surveyor.refresh()
    assert snapshot.beat_lock == 90.0
    assert len(senders(snapshot)) == (1 if scheduler is None else 2)


async def test_another_applications_scheduler_is_nobodys_business(lab: Lab) -> None:
    worker = lab.fleet.add_worker("b@web1")
    assert worker.pid is not None
    mine = SeenProcess((worker.pid, 1), node="b@web1", app="shop")
    other = replace(STRAY, app="blog")
    lab.hosts.strays["web1"] = (mine, other, replace(STRAY, line=(902, 1), app="shop"))
    snapshot = await lab.surveyor.refresh()
    assert [one.pid for one in snapshot.beats] == [902]


@pytest.mark.parametrize("where", [{"inner_pid": 7}, {"supervisord": 50}])
async def test_one_that_may_be_another_deployments_is_told_and_not_counted(
    lab: Lab, where: dict[str, int]
) -> None:
    lab.fleet.add_beat()
    lab.hosts.strays["web1"] = (_at(where),)
    snapshot = await lab.surveyor.refresh()
    assert [one.pid for one in doubtful(snapshot)] == [900]
    assert (len(senders(snapshot)), strays(snapshot)) == (1, ())
    assert rules(snapshot) == []


async def test_a_process_whose_service_was_stopped_is_not_remembered_as_a_stray(lab: Lab) -> None:
    service = lab.fleet.add_beat()
    await lab.surveyor.refresh()
    lab.fleet.stop_service(service)
    snapshot = await lab.watch(4.0)
    assert strays(snapshot) == ()
    assert [one.running for one in snapshot.beats] == [False]


async def test_one_that_was_restarted_just_now_is_no_second_one(lab: Lab) -> None:
    service = lab.fleet.add_beat()
    await lab.surveyor.refresh()
    lab.fleet.stop_service(service)
    await lab.clock.sleep(1.0)
    lab.fleet.start_service(service)
    await lab.surveyor.find_processes()
    snapshot = await lab.surveyor.refresh()
    assert len(senders(snapshot)) == 1
    assert strays(snapshot) == ()


async def test_a_host_that_does_not_answer_may_have_more(lab: Lab) -> None:
    lab.fleet.add_beat()
    await lab.surveyor.refresh()
    lab.hosts.unreachable.add("web1")
    await lab.surveyor.find_processes()
    snapshot = await lab.surveyor.refresh()
    assert snapshot.hosts[0].processes_unread is not None


async def test_a_lock_that_is_held_for_long_is_told(lab: Lab) -> None:
    lab.broker.beat_lock = 1500.0
    lab.fleet.add_beat()
    snapshot = await lab.surveyor.refresh()
    assert "redbeat-lock" in rules(snapshot)
