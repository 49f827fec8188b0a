"""Supervisors that answer, fail and hang."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import Host, ServiceState

if TYPE_CHECKING:
    from celery_ops.model import FleetSnapshot, Service
    from tests.fleet.conftest import Lab


def service(snapshot: FleetSnapshot, name: str) -> Service:
    return next(one for one in snapshot.services if one.ref.name == name)


async def test_services_of_one_supervisor_are_asked_with_one_command(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web1")
    lab.fleet.add_worker("c@web2", host="web2")
    await lab.surveyor.refresh()
    assert len(lab.hosts.shell("web1").ran) == 1
    assert len(lab.hosts.shell("web2").ran) == 1


async def test_routine_refreshes_poll_supervisors_every_two_seconds(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.watch(5.0, 0.5)
    assert len(lab.hosts.shell("web1").ran) == 3


async def test_named_services_are_read_now(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    assert worker.service is not None
    lab.fleet.stop_service(worker.service)
    snapshot = await lab.surveyor.refresh(services=(worker.service.ref,))
    status = service(snapshot, "a").status
    assert status is not None
    assert status.value.state is ServiceState.STOPPING


async def test_an_unreachable_host_marks_its_services_and_itself(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web2", host="web2")
    lab.hosts.unreachable.add("web2")
    snapshot = await lab.surveyor.refresh()
    assert service(snapshot, "a").error is None
    assert service(snapshot, "b").error == "web2: no route to host"
    assert {host.name: host.error for host in snapshot.hosts} == {
        "web1": None,
        "web2": "web2: no route to host",
    }
    lab.hosts.unreachable.clear()
    await lab.clock.sleep(3.0)
    healed = await lab.surveyor.refresh()
    assert service(healed, "b").error is None
    assert all(host.error is None for host in healed.hosts)


async def test_a_hanging_host_does_not_hold_up_the_broker(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.fleet.add_worker("b@web2", host="web2")
    lab.hosts.hanging.add("web2")
    before = lab.clock.monotonic()
    first = await lab.surveyor.refresh(timeout=1.0)
    assert lab.clock.monotonic() - before <= 1.01
    assert service(first, "b").error == "web2 has not answered within 1.0 s"
    before = lab.clock.monotonic()
    await lab.surveyor.refresh(timeout=1.0)
    assert lab.clock.monotonic() - before < 0.1
    late = await lab.watch(12.0)
    assert "did not answer within 10 s" in str(service(late, "b").error)
    await lab.surveyor.close()


async def test_a_slow_supervisors_answer_is_picked_up_when_it_comes(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.hosts.seconds = 3.0
    first = await lab.surveyor.refresh(timeout=1.0)
    assert service(first, "a").status is None
    await lab.watch(1.5)
    assert len(lab.hosts.shell("web1").ran) == 1
    late = await lab.watch(2.5)
    assert service(late, "a").status is not None
    await lab.surveyor.close()


async def test_only_what_was_never_read_is_worth_a_wait(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.hosts.seconds = 0.4
    begun = lab.clock.monotonic()
    first = await lab.surveyor.refresh(timeout=1.0)
    assert service(first, "a").status is not None
    assert first.hosts[0].facts is not None
    assert lab.clock.monotonic() - begun == pytest.approx(0.8)
    await lab.clock.sleep(3.0)
    begun = lab.clock.monotonic()
    await lab.surveyor.refresh(timeout=1.0)
    assert lab.clock.monotonic() - begun == pytest.approx(0.2)
    await lab.surveyor.close()


async def test_a_command_line_is_read_once_an_incarnation(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    first = worker.pid
    await lab.watch(10.0)
    lab.fleet.kill(worker)
    snapshot = await lab.watch(10.0)
    assert lab.hosts.arguments_read == [first, worker.pid]
    status = service(snapshot, "a").status
    assert status is not None
    assert status.value.arguments == ("celery", "-A", "app", "worker", "-n", "a@web1")


async def test_a_service_that_its_supervisor_does_not_know_says_so(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    assert lab.surveyor
    lab.fleet.services.clear()
    snapshot = await lab.surveyor.refresh()
    assert service(snapshot, "a").error == "its supervisor did not mention it"


def machine(snapshot: FleetSnapshot, name: str) -> Host:
    return next(one for one in snapshot.hosts if one.name == name)


async def test_a_host_tells_how_it_is_doing_beside_its_services(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    snapshot = await lab.surveyor.refresh()
    web1 = machine(snapshot, "web1")
    assert web1.reached_at is not None
    assert web1.facts is not None
    assert (web1.facts.value.cpus, web1.facts.value.load) == (4, (0.5, 0.25, 0.125))
    usage = service(snapshot, "a").usage
    assert usage is not None
    assert (usage.value.processes, usage.value.memory) == (3, 90_000_000)


async def test_a_hosts_facts_are_read_every_five_seconds_and_in_nobodys_way(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    lab.hosts.seconds = 0.15
    begun = lab.clock.monotonic()
    await lab.watch(11.0, 1.0)
    assert lab.hosts.facts_read == ["web1"] * 3
    waited = lab.clock.monotonic() - begun - 11.0
    assert waited < 6 * 0.15 + 0.2
    await lab.surveyor.close()


async def test_cores_need_two_readings_of_the_same_life(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    first = service(await lab.surveyor.refresh(), "a").usage
    assert first is not None
    assert first.value.cores is None
    later = service(await lab.watch(7.0), "a").usage
    assert later is not None
    assert later.value.cores == pytest.approx(0.25)
    lab.fleet.kill(worker)
    assert service(await lab.watch(2.5), "a").usage is None
    anew = service(await lab.watch(4.0), "a").usage
    assert anew is not None
    assert (anew.value.pid, anew.value.cores) == (worker.pid, None)


async def test_a_host_without_services_is_read_too_and_this_machine_is_not(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.machines = (Host("local", "local"), Host("web1", "10.0.0.1"), Host("db1", "10.0.0.9"))
    snapshot = await lab.surveyor.refresh()
    assert [one.name for one in snapshot.hosts] == ["web1", "db1"]
    assert all(one.facts is not None for one in snapshot.hosts)


@pytest.mark.parametrize("has_services", [True, False])
async def test_this_machine_is_read_where_it_has_services_or_is_the_only_one(
    lab: Lab, *, has_services: bool
) -> None:
    if has_services:
        lab.fleet.add_worker("a@web1", host="local")
    lab.machines = (Host("local", "local"),)
    if has_services:
        lab.machines += (Host("web2", "10.0.0.2"),)
    snapshot = await lab.surveyor.refresh()
    assert machine(snapshot, "local").facts is not None


async def test_a_host_that_hangs_says_since_when_it_was_asked_in_vain(lab: Lab) -> None:
    lab.machines = (Host("web1", "10.0.0.1"), Host("db1", "10.0.0.9"))
    lab.fleet.add_worker("a@web1")
    first = machine(await lab.watch(2.0), "db1")
    assert first.reached_at is not None
    lab.hosts.hanging.add("db1")
    frozen = await lab.watch(8.0)
    silent = machine(frozen, "db1")
    assert silent.error is None
    assert silent.silent_since is not None
    assert silent.reached_at is not None
    assert silent.reached_at < silent.silent_since < frozen.at - timedelta(seconds=3)
    lost = machine(await lab.watch(6.0), "db1")
    assert lost.error == "db1 did not answer within 10 s"
    assert lost.since == silent.silent_since
    assert machine(await lab.watch(12.0), "db1").since == silent.silent_since
    assert machine(await lab.surveyor.refresh(), "web1").error is None
    lab.hosts.hanging.clear()
    healed = machine(await lab.watch(18.0), "db1")
    assert (healed.error, healed.since, healed.silent_since) == (None, None, None)
    await lab.surveyor.close()


async def test_a_host_that_was_never_reached_delays_no_refresh_but_the_first(lab: Lab) -> None:
    lab.machines = (Host("db1", "10.0.0.9"),)
    lab.fleet.add_worker("a@web1")
    lab.hosts.hanging.add("db1")
    begun = lab.clock.monotonic()
    await lab.surveyor.refresh(timeout=1.0)
    assert lab.clock.monotonic() - begun == pytest.approx(1.0, abs=0.02)
    waited = 0.0
    for _ in range(40):
        begun = lab.clock.monotonic()
        await lab.surveyor.refresh(timeout=1.0)
        waited = max(waited, lab.clock.monotonic() - begun)
        await lab.clock.sleep(0.5)
    assert waited <= 0.21
    await lab.surveyor.close()


async def test_hosts_are_waited_for_longer_than_the_round_where_that_is_asked_for(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.hosts.seconds = 2.0
    snapshot = await lab.surveyor.refresh(timeout=1.0, patience=5.0)
    assert machine(snapshot, "web1").facts is not None


async def test_a_host_that_does_not_tell_its_facts_is_reached_all_the_same(lab: Lab) -> None:
    lab.machines = (Host("db1", "10.0.0.9"),)
    lab.hosts.refusing.add("db1")
    db1 = machine(await lab.surveyor.refresh(), "db1")
    assert (db1.error, db1.facts, db1.unread) == (None, None, "db1: sh: not found")
    assert db1.reached_at is not None


async def test_the_facts_of_a_lost_host_stay_and_age(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    before = machine(await lab.surveyor.refresh(), "web1").facts
    assert before is not None
    lab.hosts.unreachable.add("web1")
    lost = machine(await lab.watch(20.0), "web1")
    assert lost.error == "web1: no route to host"
    assert lost.facts == before
    assert lab.hosts.facts_read.count("web1") == 1


async def test_restarts_by_the_supervisor_are_remembered(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1", supervisor="systemd")
    assert worker.service is not None
    worker.service.restarts = 4
    assert _restarts(await lab.surveyor.refresh()) == 0
    worker.service.restarts = 7
    assert _restarts(await lab.watch(3.0)) == 3
    worker.service.restarts = 0
    assert _restarts(await lab.watch(3.0)) == 0
    worker.service.restarts = 2
    assert _restarts(await lab.watch(3.0)) == 2
    assert _restarts(await lab.watch(301.0, 10.0)) == 0


async def test_new_lives_count_where_the_supervisor_does_not(lab: Lab) -> None:
    worker = lab.fleet.add_worker("a@web1")
    await lab.surveyor.refresh()
    for _ in range(3):
        lab.fleet.kill(worker)
        snapshot = await lab.watch(6.0)
    restarted = service(snapshot, "a").restarted
    assert restarted is not None
    assert (restarted.count, restarted.by_supervisor) == (3, False)


def _restarts(snapshot: FleetSnapshot) -> int | None:
    restarted = service(snapshot, "a").restarted
    return None if restarted is None else restarted.count
