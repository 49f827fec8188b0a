"""Which service runs which worker."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_ops.fleet.matching import match
from celery_ops.model import Reading, Service, ServiceRef, ServiceState, ServiceStatus

AT = datetime(2026, 11, 20, tzinfo=UTC)


def running(
    name: str, pid: int | None, *, host: str = "web1", worker: str | None = None
) -> Service:
    status = ServiceStatus(ServiceState.RUNNING, pid, None, None, None, "")
    return Service(ServiceRef(host, "systemd", name, worker=worker), Reading(status, AT))


def test_a_service_without_a_configured_worker_is_found_by_pid() -> None:
    service = running("u", 7)
    assert match({"a@x": 7, "b@x": 8}, [service]) == {"a@x": service}


def test_equal_pids_on_two_hosts_are_told_apart_by_name() -> None:
    one = running("u", 7, host="web1", worker="a@web1")
    other = running("u", 7, host="web2", worker="a@web2")
    assert match({"a@web1": 7, "a@web2": 7}, [one, other]) == {"a@web1": one, "a@web2": other}


def test_equal_pids_on_two_hosts_are_told_apart_by_host() -> None:
    one, other = running("u", 7, host="web1"), running("u", 7, host="web2")
    found = match({"a@web1.example": 7, "b@web2.example": 7}, [one, other])
    assert found == {"a@web1.example": one, "b@web2.example": other}


def test_equal_pids_that_cannot_be_told_apart_are_not_matched() -> None:
    assert match({"a@x": 7, "b@y": 7}, [running("u", 7)]) == {}


def test_one_of_two_services_with_the_same_pid_is_not_guessed() -> None:
    services = [running("u", 7, host="web1"), running("u", 7, host="web2")]
    assert match({"a@x": 7}, services) == {}


def test_a_service_whose_pid_is_another_worker_is_matched_to_that_worker() -> None:
    service = running("u", 7, worker="a@web1")
    assert match({"a@web1": 9, "b@web1": 7}, [service]) == {"b@web1": service}


def test_a_wrapped_process_is_matched_by_its_configured_name() -> None:
    service = running("u", 7, worker="a@web1")
    assert match({"a@web1": 8}, [service]) == {"a@web1": service}


def test_the_configured_name_is_believed_while_no_pid_is_known() -> None:
    service = running("u", None, worker="a@web1")
    assert match({"a@web1": None}, [service]) == {"a@web1": service}


def test_a_beat_is_nobodys_service() -> None:
    beat = Service(ServiceRef("web1", "systemd", "beat", beat=True), None)
    assert match({"a@web1": None}, [beat]) == {}
