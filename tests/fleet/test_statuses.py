"""Supervisors that answer, fail and hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import ServiceState

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


async def test_only_services_that_were_never_read_are_worth_a_wait(lab: Lab) -> None:
    lab.fleet.add_worker("a@web1")
    lab.hosts.seconds = 0.8
    begun = lab.clock.monotonic()
    first = await lab.surveyor.refresh(timeout=1.0)
    assert service(first, "a").status is not None
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
