"""Which service runs which worker."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from celery_ops.fleet.matching import match, node_name, pool_name, rivals
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


def named(host: str, pid: int, *arguments: str, read: int = 60, began: int = 0) -> Service:
    """A service whose process began `began` seconds after AT and was seen `read` seconds after."""
    status = ServiceStatus(
        ServiceState.RUNNING, pid, None, AT + timedelta(seconds=began), None, "",
        arguments=arguments,
    )  # fmt: skip
    return Service(ServiceRef(host, "systemd", "u"), Reading(status, AT + timedelta(seconds=read)))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("python", "celery", "-A", "app", "worker", "-n", "w1@prod"), "w1@prod"),
        (("celery", "worker", "--hostname=w1@prod", "-l", "info"), "w1@prod"),
        (("celery", "worker", "--hostname", "w1@prod"), "w1@prod"),
        (("celery", "worker", "-nw1@prod"), "w1@prod"),
        (("[celeryd: w1@web1:MainProcess] -active- (worker -n w1@%h)",), "w1@web1"),
        (("celery", "worker", "-n", "w1@%h"), None),
        (("celery", "worker", "-n", "w1"), None),
        (("celery", "worker", "-n"), None),
        (("celery", "worker"), None),
        ((), None),
    ],
)
def test_a_command_line_tells_a_node_name_only_if_it_is_whole(
    arguments: tuple[str, ...], name: str | None
) -> None:
    assert node_name(arguments) == name


@pytest.mark.parametrize(
    ("arguments", "pool"),
    [
        (("celery", "worker", "-P", "solo"), "solo"),
        (("celery", "worker", "-Psolo", "-l", "info"), "solo"),
        (("celery", "worker", "--pool", "solo"), "solo"),
        (("celery", "worker", "--pool=solo", "-n", "w1@prod"), "solo"),
        (("celery", "worker", "--pool=solo", "-P", "gevent"), "gevent"),
        (("[celeryd: w1@web1:MainProcess] -active- (worker -n w1@%h -P solo)",), "solo"),
        (("[celeryd: w1@web1:MainProcess] -active- (worker -n w1@%h)",), None),
        (("celery", "worker", "-P"), ""),
        (("celery", "worker", "-Q", "solo"), None),
        ((), None),
    ],
)
def test_a_command_line_tells_the_pool_that_it_names(
    arguments: tuple[str, ...], pool: str | None
) -> None:
    assert pool_name(arguments) == pool


WORKER = ("celery", "worker", "-n", "w1@prod")


def test_two_hosts_that_run_the_same_name_are_rivals() -> None:
    services = [named("web1", 7, *WORKER), named("web2", 7, *WORKER)]
    assert rivals(services) == {"w1@prod": tuple(services)}


@pytest.mark.parametrize(
    "second",
    [
        named("web2", 9, "celery", "worker", "-n", "w2@prod"),
        named("web2", 9, *WORKER, began=90, read=91),
        replace(named("web2", 9, *WORKER), error="not reachable"),
        replace(named("web2", 9, *WORKER), status=None),
        named("web1", 7, *WORKER),
    ],
    ids=["another-name", "handed-over", "not-reachable", "never-read", "the-same-process"],
)
def test_what_is_not_proved_to_run_side_by_side_is_no_rival(second: Service) -> None:
    assert rivals([named("web1", 7, *WORKER), second]) == {}


def contained(name: str, pid: int, *, worker: str | None = None, node: str | None) -> Service:
    status = ServiceStatus(ServiceState.RUNNING, pid, None, None, None, "", inner_pid=1, node=node)
    return Service(ServiceRef("web1", "docker", name, worker=worker), Reading(status, AT))


def test_in_containers_the_name_of_the_command_line_must_agree() -> None:
    one = contained("c1", 4000, worker="a@x", node="a@x")
    other = contained("c2", 4100, worker="b@x", node=None)
    assert match({"a@x": 1, "b@x": 1}, [one, other]) == {"a@x": one, "b@x": other}


def test_containers_whose_names_were_mixed_up_are_matched_to_whom_they_run() -> None:
    one = contained("c1", 4000, worker="b@x", node="a@x")
    other = contained("c2", 4100, worker="a@x", node="b@x")
    assert match({"a@x": 1, "b@x": 1}, [one, other]) == {"a@x": one, "b@x": other}


def test_a_container_that_runs_another_worker_is_not_the_configured_one() -> None:
    assert match({"a@x": 1}, [contained("c1", 4000, worker="a@x", node="z@x")]) == {}


def test_without_a_configured_worker_a_container_is_found_by_its_name() -> None:
    services = [contained("c1", 4000, node="a@x"), contained("c2", 4100, node="b@x")]
    found = match({"a@x": 1, "b@x": 1}, services)
    assert {name: service.ref.name for name, service in found.items()} == {"a@x": "c1", "b@x": "c2"}


def test_two_containers_with_one_name_are_rivals_although_both_are_pid_1() -> None:
    def named(name: str, pid: int) -> Service:
        one = contained(name, pid, node="a@x")
        assert one.status is not None
        status = replace(one.status.value, arguments=("celery", "worker", "-n", "a@x"))
        return replace(one, status=Reading(status, AT))

    assert set(rivals([named("c1", 4000), named("c2", 4100)])) == {"a@x"}
