"""What the rules about hosts and their services find, and when they keep silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from celery_ops.model import (
    Disk,
    Hazard,
    Host,
    HostFacts,
    Level,
    Reading,
    Restarts,
    Retry,
    Service,
    ServiceRef,
    ServiceState,
    WorkerState,
)
from tests.doctor.test_rules import AT, RECORD, REF, RUNNING, fleet, found, service, worker

GIGA = 1024**3
MINUTE_AGO = AT - timedelta(seconds=61)


def host(facts: HostFacts | None = None, **parts: Any) -> Host:
    reading = None if facts is None else Reading(facts, AT)
    return Host("web1", "10.0.0.1", facts=reading, **parts)


def disk(fullness: float, *, size: int = 100 * GIGA, mount: str = "/") -> Disk:
    used = round(size * fullness)
    return Disk(mount, size, used, size - used)


@pytest.mark.parametrize(
    ("forbids", "level"), [(True, Level.ERROR), (False, Level.WARNING)], ids=["forbids", "warns"]
)
def test_a_service_whose_stop_would_do_harm_is_found(*, forbids: bool, level: Level) -> None:
    several = service(replace(RUNNING, hazards=(Hazard("it has two", "Part them.", forbids),)))
    (finding,) = found(fleet(services=(several,)), "restart-is-not-safe")
    assert (finding.says, finding.fix, finding.level) == ("it has two", "Part them.", level)


def test_an_unreachable_host_is_found() -> None:
    lost = host(error="no route to host", since=AT)
    (finding,) = found(fleet(hosts=(lost,)), "host-unreachable")
    assert finding.says == "not reachable since 03:00:00 UTC: no route to host"


def test_a_host_that_does_not_answer_yet_is_found() -> None:
    (finding,) = found(fleet(hosts=(host(silent_since=AT),)), "host-unreachable")
    assert finding.says == "has not answered since 03:00:00 UTC"


def test_a_host_that_nobody_asked_is_not_called_unreachable() -> None:
    assert found(fleet(hosts=(host(),)), "host-unreachable") == ()


@pytest.mark.parametrize(
    ("full", "level"),
    [
        (disk(0.89), None),
        (disk(0.90), Level.WARNING),
        (disk(0.96), Level.WARNING),
        (disk(0.97), Level.ERROR),
        (disk(0.93, size=GIGA), Level.ERROR),
        (disk(0.10, size=64 * 1024**2), None),
        (Disk("/", 0, 0, 0), Level.ERROR),
    ],
    ids=["roomy", "full", "fuller", "too-full", "few-bytes-left", "small", "none-at-all"],
)
def test_a_disk_is_found_when_it_is_nearly_full(full: Disk, level: Level | None) -> None:
    snapshot = fleet(hosts=(host(HostFacts(disks=(full,))),))
    assert [one.level for one in found(snapshot, "disk-nearly-full")] == ([level] if level else [])


def test_the_full_disks_of_a_host_are_one_finding_with_the_worst_first() -> None:
    disks = (disk(0.92, mount="/srv"), disk(0.5, mount="/home"), disk(0.98, mount="/var; rm x"))
    (finding,) = found(fleet(hosts=(host(HostFacts(disks=disks)),)), "disk-nearly-full")
    assert finding.says == (
        "/var; rm x is 98% full, 2.0G of 100G left; /srv is 92% full, 8.0G of 100G left"
    )
    assert "du -xhd1 '/var; rm x'" in finding.fix


def test_a_disk_of_a_while_ago_says_when() -> None:
    facts = Reading(HostFacts(disks=(disk(0.95),)), MINUTE_AGO)
    (finding,) = found(fleet(hosts=(replace(host(), facts=facts),)), "disk-nearly-full")
    assert finding.says.endswith("left, as read at 02:58:59 UTC")


@pytest.mark.parametrize(
    ("available", "level"),
    [(2 * GIGA, None), (GIGA, Level.WARNING), (GIGA // 4, Level.ERROR), (None, None)],
    ids=["enough", "little", "hardly-any", "unknown"],
)
def test_memory_is_found_when_little_is_left(available: int | None, level: Level | None) -> None:
    facts = HostFacts(memory=10 * GIGA, memory_available=available)
    findings = found(fleet(hosts=(host(facts),)), "memory-nearly-full")
    assert [one.level for one in findings] == ([level] if level else [])


def looping(count: int, *, by_supervisor: bool = True) -> Service:
    restarted = Restarts(count, AT - timedelta(minutes=2), by_supervisor)
    return replace(service(), restarted=restarted)


def test_restarts_within_some_minutes_are_a_loop() -> None:
    (finding,) = found(fleet(services=(looping(4),)), "restart-loop")
    assert finding.level is Level.ERROR
    assert finding.says == "its supervisor restarted it 4 times within 2m"
    assert "journalctl -u celery@a.service" in finding.fix
    assert finding.worker == "a@web1"


def test_two_restarts_are_no_loop() -> None:
    assert found(fleet(services=(looping(2),)), "restart-loop") == ()


def test_new_lives_that_somebody_may_have_wanted_are_a_warning_only() -> None:
    (finding,) = found(fleet(services=(looping(4, by_supervisor=False),)), "restart-loop")
    assert finding.level is Level.WARNING
    assert finding.says == "it was started anew 4 times within 2m"


@pytest.mark.parametrize(
    ("retry", "restarts", "level"),
    [
        (Retry.AGAIN, None, Level.WARNING),
        (Retry.AGAIN, 3, Level.ERROR),
        (Retry.GAVE_UP, None, Level.ERROR),
    ],
)
def test_what_its_supervisor_does_about_an_end_is_told(
    retry: Retry, restarts: int | None, level: Level
) -> None:
    status = replace(
        RUNNING, state=ServiceState.STARTING, retry=retry, restarts=restarts, says="it ended",
        started_at=None,
    )  # fmt: skip
    (finding,) = found(fleet(services=(service(status),)), "restart-loop")
    assert (finding.says, finding.level) == ("it ended", level)


def test_one_look_at_a_young_life_that_was_restarted_often_warns() -> None:
    young = replace(RUNNING, restarts=57, started_at=AT - timedelta(seconds=4))
    (finding,) = found(fleet(services=(service(young),)), "restart-loop")
    assert finding.says == "its supervisor restarted it 57 times so far; the last time 4s ago"


def test_a_service_that_was_restarted_often_long_ago_is_well() -> None:
    old = replace(RUNNING, restarts=57)
    assert found(fleet(services=(service(old),)), "restart-loop") == ()


def test_nothing_is_claimed_of_a_service_that_cannot_be_asked_now() -> None:
    status = replace(RUNNING, state=ServiceState.FAILED, retry=Retry.GAVE_UP)
    unknown = replace(service(status), error="web1: no route to host")
    snapshot = fleet(services=(unknown,))
    assert found(snapshot, "restart-loop") + found(snapshot, "service-not-running") == ()


FAILED = replace(RUNNING, state=ServiceState.FAILED, pid=None, says="ended with exit code 1")
BEAT = ServiceRef("web1", "systemd", "celery-beat.service", beat=True)


def test_a_failed_service_without_a_worker_is_found() -> None:
    (finding,) = found(fleet(services=(service(FAILED),)), "service-not-running")
    assert finding.level is Level.ERROR
    assert finding.says == "ended with exit code 1: its worker does not run"


def test_a_stopped_beat_is_found() -> None:
    stopped = replace(FAILED, state=ServiceState.STOPPED, says="stopped cleanly")
    (finding,) = found(fleet(services=(service(stopped, BEAT),)), "service-not-running")
    assert finding.level is Level.WARNING
    assert finding.says == "stopped cleanly: beat does not run"


def test_a_failed_service_whose_worker_is_shown_is_told_with_the_worker() -> None:
    stopped = worker(WorkerState.STOPPED, service=service(FAILED))
    assert found(fleet(stopped), "service-not-running") == ()
    assert len(found(fleet(stopped), "worker-stopped")) == 1


def test_a_service_that_a_run_stopped_is_owed_and_not_wrong() -> None:
    record = replace(RECORD, kind="service", service=REF)
    snapshot = fleet(services=(service(FAILED),), taken=(record,))
    assert found(snapshot, "service-not-running") == ()


OTHER = service(replace(RUNNING, pid=9), replace(REF, host="web2"))


def test_two_running_services_for_one_worker_are_found() -> None:
    snapshot = fleet(worker(), services=(service(), OTHER))
    (finding,) = found(snapshot, "two-services-one-worker")
    assert "systemd celery@a.service on web1 (pid 7)" in finding.says
    assert "systemd celery@a.service on web2 (pid 9)" in finding.says


@pytest.mark.parametrize(
    "second",
    [
        replace(OTHER, error="not reachable"),
        service(replace(RUNNING, state=ServiceState.STOPPED), OTHER.ref),
        service(None, OTHER.ref),
    ],
    ids=["not-reachable", "stopped", "never-read"],
)
def test_a_second_service_that_is_not_known_to_run_is_no_trouble(second: Service) -> None:
    snapshot = fleet(worker(), services=(service(), second))
    assert found(snapshot, "two-services-one-worker") == ()


def test_a_second_service_that_proves_to_run_another_worker_is_a_mismatch_only() -> None:
    other = replace(worker(service=OTHER), name="b@web2")
    snapshot = fleet(worker(), other, services=(service(), OTHER))
    assert found(snapshot, "two-services-one-worker") == ()


def test_a_conflict_that_is_proved_is_told_once() -> None:
    snapshot = fleet(worker(WorkerState.CONFLICT), services=(service(), OTHER))
    assert found(snapshot, "two-services-one-worker") == ()
    assert len(found(snapshot, "worker-conflict")) == 1
