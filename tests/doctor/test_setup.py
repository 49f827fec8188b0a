"""`config check`: what is right, what is wrong, and what is not claimed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from celery_ops.doctor import examine
from celery_ops.doctor.setup import Check, fleet_checks, host_checks
from celery_ops.errors import HostUnreachable
from celery_ops.model import (
    FleetSnapshot,
    Reading,
    Rights,
    ServiceState,
    ServiceStatus,
    Task,
    WorkerState,
)
from tests.doctor.test_rules import AT, REF, RUNNING, STATS, fleet, service, worker

MAY = {"web1": Rights("ops", {})}
STOPPED = ServiceStatus(ServiceState.STOPPED, None, None, None, True, "stopped cleanly")
GONE = ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, "systemd finds no unit 'x'")


def checks(snapshot: FleetSnapshot, **hosts: Any) -> list[Check]:
    diagnosed = replace(snapshot, problems=examine(snapshot))
    return list(fleet_checks(diagnosed, {**MAY, **hosts}))


def problems(snapshot: FleetSnapshot, **hosts: Any) -> list[str]:
    return [one.says for one in checks(snapshot, **hosts) if not one.ok]


def test_what_is_right_says_all_that_was_proved() -> None:
    task = Task("1", "a", "()", None, AT - timedelta(seconds=90), None, None)
    (one,) = checks(fleet(worker(active=Reading((task,), AT))))
    assert one == Check(
        "service",
        "systemd celery@a.service on web1",
        ok=True,
        says="is a@web1 (pid 7); a stop waits 10m, the longest task runs for 1m30s;"
        " may be started and stopped",
    )


def test_what_is_not_known_of_a_stop_is_not_made_up() -> None:
    unlimited = service(replace(RUNNING, stop_grace=None))
    (one,) = checks(fleet(worker(service=unlimited, active=Reading((), AT))))
    assert "a stop waits without a known limit, no task runs now" in one.says
    (one,) = checks(fleet(worker()))
    assert "a stop waits 10m;" in one.says


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (worker(service=None), "no service of this configuration runs it"),
        (worker(stats=Reading(replace(STATS, pid=8), AT)), "but a@web1 answers as pid 8"),
        (worker(service=service(GONE)), "systemd finds no unit 'x'"),
        (
            worker(service=service(replace(RUNNING, startable=False, says="masked"))),
            "masked: once stopped, it could not be started again",
        ),
        (worker(service=service(None)), "its supervisor did not answer"),
        (
            worker(service=service(ref=replace(REF, worker="b@web1"))),
            "it runs a@web1, not b@web1",
        ),
    ],
)
def test_a_worker_that_is_not_matched_is_a_problem(found: Any, says: str) -> None:
    assert any(says in one for one in problems(fleet(found)))


def test_a_service_that_tells_no_pid_is_not_taken_for_a_shell_around_its_worker() -> None:
    assert problems(fleet(worker(service=service(replace(RUNNING, pid=None))))) == []


def test_what_nobody_looked_at_is_not_called_allowed() -> None:
    own = replace(REF, supervisor="commands")
    (one,) = checks(fleet(worker(service=service(ref=own))))
    assert one.ok
    assert one.says.endswith("what its commands may do is not known before")


def test_a_service_whose_worker_does_not_answer_is_a_problem_unless_it_just_began() -> None:
    assert problems(fleet(services=(service(),))) == ["it runs (pid 7), but a@web1 does not answer"]
    young = service(replace(RUNNING, started_at=AT - timedelta(seconds=5)))
    assert problems(fleet(services=(young,))) == [
        "it has just been started, and its worker does not answer yet"
    ]
    nameless = service(ref=replace(REF, worker=None))
    assert "is no worker that answers on this broker" in problems(fleet(services=(nameless,)))[0]


def test_a_stopped_service_is_as_written_but_proves_nothing() -> None:
    (one,) = checks(fleet(services=(service(STOPPED),)))
    assert one.ok
    assert one.says.startswith("stopped cleanly (so a@web1 is not proven)")


def test_beat_needs_no_worker() -> None:
    beat = service(ref=replace(REF, worker=None, beat=True))
    (one,) = checks(fleet(services=(beat,)))
    assert (one.ok, one.says) == (True, "beat runs; may be started and stopped")


def test_what_sudo_refuses_is_a_problem() -> None:
    refused = Rights("ops", {REF: ("sudo does not allow it", "visudo")})
    assert problems(fleet(worker()), web1=refused) == ["sudo does not allow it"]


def test_of_a_host_that_cannot_be_reached_only_that_is_said() -> None:
    error = HostUnreachable("web1 is away.", fix="ssh web1")
    assert checks(fleet(worker()), web1=error) == []
    assert list(host_checks({"web1": error, "web2": Rights("ops", {})})) == [
        Check("host", "web1", ok=False, says="web1 is away.", fix="ssh web1"),
        Check("host", "web2", ok=True, says="commands run there as ops"),
    ]


def test_dangers_of_a_stop_are_problems_and_todays_troubles_are_not() -> None:
    risky = worker(service=service(replace(RUNNING, signals_children=True)))
    assert any("reaches the pool's children" in one for one in problems(fleet(risky)))
    assert problems(fleet(worker(WorkerState.STALLED))) == []


def test_other_peoples_workers_need_no_service() -> None:
    assert problems(fleet(worker(service=None, mine=False))) == []
