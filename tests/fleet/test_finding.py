"""Workers joined with processes: what proves that they are the same, and what does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from celery_ops.fleet.finding import Findings, join
from celery_ops.model import (
    CeleryProcess,
    Discovered,
    IdleService,
    Reading,
    Role,
    ServiceRef,
    Worker,
    WorkerState,
    WorkerStats,
)

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def worker(name: str, pid: int, age: float = 100.0) -> Worker:
    stats = WorkerStats(
        pid=pid,
        started_at=NOW - timedelta(seconds=age),
        pool="prefork",
        concurrency=1,
        prefetch=None,
        processed=0,
        pool_pids=(),
        autoscale=None,
        visibility_timeout=None,
    )
    return Worker(name, WorkerState.ONLINE, stats=Reading(stats, NOW), pids=(pid,))


def process(pid: int, node: str | None, host: str = "web1", age: float = 101.0) -> CeleryProcess:
    service = ServiceRef(host, "systemd", f"unit-{pid}.service")
    return CeleryProcess(pid, Role.WORKER, node, age, service)


def host(name: str, *processes: CeleryProcess, idle: tuple[IdleService, ...] = ()) -> Discovered:
    return Discovered(name, name, is_root=False, processes=processes, idle=idle)


def workers_of(found: Findings) -> dict[str, str]:
    return {one.worker: str(one.service) for one in found.matched}


def test_name_and_pid_together_are_the_proof() -> None:
    hosts = [host("web1", process(40, "w@web1")), host("web2", process(40, "w@web2", "web2"))]
    found = join([worker("w@web1", 40), worker("w@web2", 40)], hosts, NOW)
    assert workers_of(found) == {
        "w@web1": "systemd unit-40.service on web1",
        "w@web2": "systemd unit-40.service on web2",
    }
    assert found.unmatched == ()


def test_a_pid_alone_proves_nothing() -> None:
    found = join([worker("w@web9", 40)], [host("web1", process(40, "other@web1"))], NOW)
    assert found.matched == ()
    (lost,) = found.unmatched
    assert lost.says == "no process of it was found on web1"
    assert "web9" in lost.fix
    assert found.foreign == ("pid 40 on web1 is other@web1, which does not answer on this broker",)


def test_a_name_with_another_pid_is_another_life() -> None:
    found = join([worker("w@web1", 41)], [host("web1", process(40, "w@web1"))], NOW)
    assert "pid 40 on web1 bears its name, but it answers as 41" in found.unmatched[0].says


def test_without_a_name_pid_and_age_are_believed_if_only_one_has_both() -> None:
    nameless = process(40, None)
    same = [worker("w@x", 40)]
    assert workers_of(join(same, [host("web1", nameless)], NOW))
    assert not join(same, [host("web1", process(40, None, age=5.0))], NOW).matched
    assert not join(same, [host("web1", process(40, None, age=900.0))], NOW).matched
    two = join(same, [host("web1", nameless), host("web2", process(40, None, "web2"))], NOW)
    assert "nothing tells them apart" in two.unmatched[0].says


def test_a_process_that_may_not_be_celerys_is_believed_only_where_the_name_says() -> None:
    unknown = replace(process(40, None), role=None)
    assert workers_of(join([worker("w@web1", 40)], [host("web1", unknown)], NOW))
    (lost,) = join([worker("w@web3", 40)], [host("web1", unknown)], NOW).unmatched
    assert lost.says == "no process of it was found on web1"


def test_two_hosts_that_bear_one_name_are_told_apart_by_age() -> None:
    hosts = [
        host("web1", process(40, "w@x")),
        host("web2", process(40, "w@x", "web2", age=5000.0)),
    ]
    assert workers_of(join([worker("w@x", 40)], hosts, NOW)) == {
        "w@x": "systemd unit-40.service on web1"
    }


def test_in_a_container_the_pid_it_knows_itself_by_counts() -> None:
    inside = replace(
        process(4000, "w@c1"), inner_pid=7, service=None, says="it runs in the container c1"
    )
    found = join([worker("w@c1", 7)], [host("web1", inside)], NOW)
    assert found.unmatched[0].says == "pid 4000 on web1: it runs in the container c1"


def test_a_container_that_is_a_host_too_is_believed_before_the_machine_around_it() -> None:
    outside = replace(process(4000, "w@web1", "big"), inner_pid=40, service=None, says="inside")
    hosts = [host("big", outside), host("web1", process(40, "w@web1"))]
    assert workers_of(join([worker("w@web1", 40)], hosts, NOW)) == {
        "w@web1": "systemd unit-40.service on web1"
    }


def test_in_a_container_its_name_may_not_be_told_but_pid_and_age_are() -> None:
    inside = replace(process(4000, None), inner_pid=7, service=None, says="it is in c1")
    other = replace(process(4001, None, age=7000.0), inner_pid=7, service=None, says="it is in c2")
    found = join([worker("w@0123", 7)], [host("web1", inside, other)], NOW)
    assert found.unmatched[0].says == "pid 4000 on web1: it is in c1"


def test_a_worker_too_busy_to_answer_is_written_by_its_name_and_doubted() -> None:
    busy, bare = process(40, "w@web1"), replace(process(41, "v@web1"), service=None, says="by hand")
    found = join([], [host("web1", busy, bare)], NOW, bound=["w@web1", "v@web1"])
    assert workers_of(found) == {"w@web1": "systemd unit-40.service on web1"}
    assert "bears its name, but it does not answer" in found.doubts[0].says
    assert found.unmatched[0].says.endswith("does not answer; by hand")
    assert found.foreign == ()


def test_two_processes_under_one_name_are_nobodys() -> None:
    twice = replace(worker("w@web1", 40), pids=(40, 41))
    found = join([twice], [host("web1", process(40, "w@web1"))], NOW)
    assert "several processes answer to this name (pids 40, 41)" in found.unmatched[0].says


def test_a_service_with_two_workers_is_written_for_neither() -> None:
    shared = ServiceRef("web1", "systemd", "celery.service")
    processes = [replace(process(pid, f"w{pid}@web1"), service=shared) for pid in (40, 41)]
    workers = [worker("w40@web1", 40), worker("w41@web1", 41)]
    found = join(workers, [host("web1", *processes)], NOW)
    assert found.matched == ()
    assert {one.subject for one in found.unmatched} == {"w40@web1", "w41@web1"}


def test_a_service_with_a_shell_around_its_worker_is_written_and_doubted() -> None:
    wrapped = replace(process(40, "w@web1"), says="its service's own process is 39")
    found = join([worker("w@web1", 40)], [host("web1", wrapped)], NOW)
    assert workers_of(found) == {"w@web1": "systemd unit-40.service on web1"}
    assert found.doubts[0].says == "pid 40 on web1: its service's own process is 39"
    assert found.unmatched == ()


def test_beat_is_a_service_unless_it_is_another_applications() -> None:
    mine = replace(process(40, "w@web1"), app="shop")
    beat = replace(process(50, None), role=Role.BEAT, app="shop")
    other = replace(process(51, None), role=Role.BEAT, app="blog")
    by_hand = replace(process(52, None), role=Role.BEAT, app="shop", service=None, says="by hand")
    found = join([worker("w@web1", 40)], [host("web1", mine, beat, other, by_hand)], NOW)
    assert [str(one) for one in found.beats] == ["systemd unit-50.service on web1"]
    assert all(one.beat for one in found.beats)
    assert "beat of another application (blog)" in found.foreign[0]
    assert [one.subject for one in found.unmatched] == ["beat on web1"]


def test_a_beat_below_another_supervisord_is_only_maybe_ours() -> None:
    """Two deployments of one application on a machine, as two demos are."""

    def under(server: str, one: CeleryProcess) -> CeleryProcess:
        name = f"p{one.pid}"
        return replace(one, service=ServiceRef("web1", "supervisord", name, server=server))

    beat = replace(process(50, None), role=Role.BEAT)
    mine, other = replace(beat, pid=51), replace(beat, pid=52)
    processes = (under("a", process(40, "w@web1")), under("a", mine), under("b", other))
    found = join([worker("w@web1", 40)], [host("web1", *processes)], NOW)
    assert [one.name for one in found.beats] == ["p51"]
    assert [one.name for one in found.maybe] == ["p52"]
    assert found.doubts == ()


def test_several_beats_are_written_and_doubted() -> None:
    beats = (replace(process(pid, None), role=Role.BEAT) for pid in (50, 51))
    found = join([worker("w@web1", 40)], [host("web1", process(40, "w@web1"), *beats)], NOW)
    assert len(found.beats) == 2
    assert found.doubts[0].says.startswith("several run: systemd unit-50.service on web1, ")


def test_a_worker_that_is_a_scheduler_too_is_named() -> None:
    both = replace(process(40, "w@web1"), has_beat=True)
    assert join([worker("w@web1", 40)], [host("web1", both)], NOW).embedded == ("w@web1",)


def test_idle_services_are_none_for_workers_that_run() -> None:
    idle = (
        idle_service("old.service", "w@web1", "shop"),
        idle_service("new.service", "v@web1", "shop"),
        idle_service("also.service", "v@web1", "shop"),
    )
    mine = replace(process(40, "w@web1"), app="shop")
    found = join([worker("w@web1", 40)], [host("web1", mine, idle=idle)], NOW)
    assert [one.name for one in found.idle] == ["new.service"]


def test_idle_services_of_other_applications_are_only_maybe_ours() -> None:
    elsewhere = ServiceRef("web1", "supervisord", "c", "c@web1", server="unix:///other")
    idle = (
        idle_service("a.service", "a@web1", "blog"),
        idle_service("b.service", "b@web1", None),
        IdleService(elsewhere, "shop"),
    )
    mine = replace(process(40, "w@web1"), app="shop")
    found = join([worker("w@web1", 40)], [host("web1", mine, idle=idle)], NOW)
    assert found.idle == ()
    assert [one.name for one in found.maybe] == ["a.service", "b.service", "c"]


def idle_service(name: str, node: str, app: str | None) -> IdleService:
    return IdleService(ServiceRef("web1", "systemd", name, node), app)
