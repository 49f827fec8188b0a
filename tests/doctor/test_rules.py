"""Each rule: what it finds, and when it keeps silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.doctor import RULES, examine
from celery_ops.model import (
    ConsumedQueue,
    FleetSnapshot,
    HeldMessage,
    Holder,
    Host,
    Incarnation,
    Level,
    Parked,
    Queue,
    Reading,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
    TakenRecord,
    Task,
    Unproven,
    Worker,
    WorkerState,
    WorkerStats,
)

if TYPE_CHECKING:
    from celery_ops.model import Finding

AT = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
REF = ServiceRef("web1", "systemd", "celery@a.service", worker="a@web1")
RUNNING = ServiceStatus(
    ServiceState.RUNNING, 7, "id", AT - timedelta(hours=1), None, "running", stop_grace=600.0
)
STATS = WorkerStats(7, AT - timedelta(hours=1), "prefork", 2, 8, 0, (), None, None)
RECORD = TakenRecord(
    "queues",
    "a@web1",
    Incarnation("a@web1", 7, AT - timedelta(hours=1)),
    (ConsumedQueue("mail", "{}"),),
    None,
    "run-1",
    "ann@laptop",
    AT,
)


def service(status: ServiceStatus | None = RUNNING, ref: ServiceRef = REF) -> Service:
    return Service(ref, None if status is None else Reading(status, AT))


def worker(state: WorkerState = WorkerState.ONLINE, **parts: Any) -> Worker:
    usual: dict[str, Any] = {
        "stats": Reading(STATS, AT),
        "service": service(),
        "says": "says why",
    }
    return Worker("a@web1", state, **{**usual, **parts})


def fleet(*workers: Worker, **parts: Any) -> FleetSnapshot:
    usual: dict[str, Any] = {
        "queues": (),
        "services": tuple(one.service for one in workers if one.service is not None),
    }
    return FleetSnapshot("c", "redis://b", AT, True, workers, **{**usual, **parts})


def found(snapshot: FleetSnapshot, rule: str) -> tuple[Finding, ...]:
    return tuple(one for one in examine(snapshot) if one.rule == rule)


def test_a_healthy_fleet_has_no_finding() -> None:
    healthy = fleet(worker(), queues=(Queue("mail", 3, 0, 1),))
    assert examine(healthy) == ()


def test_every_rule_names_its_source() -> None:
    assert all(rule.source for rule in RULES.values())


def test_a_queue_with_messages_and_no_consumer_is_an_error() -> None:
    (finding,) = found(fleet(queues=(Queue("mail", 12, 0, 0),)), "queue-without-consumer")
    assert finding.level is Level.ERROR
    assert finding.subject == "mail"
    assert finding.says == "12 messages, no consumer"


def test_parked_messages_are_told_of_and_are_no_queue_without_a_consumer() -> None:
    queue = Queue(str(Parked("mail", "20261126-031200-abcd", "2")), 12, 0, 0)
    assert found(fleet(queues=(queue,)), "queue-without-consumer") == ()
    (finding,) = found(fleet(queues=(queue,)), "parked-messages")
    assert (finding.subject, finding.level) == ("mail", Level.INFO)
    assert finding.says == "12 messages parked by the run 20261126-031200-abcd"
    assert finding.fix == (
        "celery-ops queue unpark celery-ops.parked.mail.20261126-031200-abcd-2 gives them back"
    )
    empty = Queue(queue.name, 0, 0, 0)
    assert found(fleet(queues=(empty,)), "parked-messages") == ()


@pytest.mark.parametrize(
    "queue",
    [Queue("mail", 12, 0, None), Queue("mail", 0, 0, 0), Queue("mail", None, None, 0)],
    ids=["consumers-unknown", "empty", "size-unknown"],
)
def test_a_queue_is_not_called_without_consumer_while_something_is_unknown(queue: Queue) -> None:
    assert found(fleet(queues=(queue,)), "queue-without-consumer") == ()


def test_a_queue_whose_consumer_is_silent_is_not_called_without_consumer() -> None:
    consuming = Reading((ConsumedQueue("mail", "{}"),), AT)
    silent = worker(WorkerState.SILENT, consuming=consuming)
    snapshot = fleet(silent, queues=(Queue("mail", 12, 0, 0),))
    (finding,) = found(snapshot, "queue-without-consumer")
    assert finding.level is Level.WARNING
    assert finding.says == "12 messages; who consumed it does not answer: a@web1"


@pytest.mark.parametrize(
    ("state", "rule", "level"),
    [
        (WorkerState.SILENT, "worker-silent", Level.ERROR),
        (WorkerState.STALLED, "worker-stalled", Level.ERROR),
        (WorkerState.CONFLICT, "worker-conflict", Level.ERROR),
        (WorkerState.UNREADABLE, "worker-unreadable", Level.WARNING),
        (WorkerState.STOPPED, "worker-stopped", Level.WARNING),
    ],
)
def test_a_worker_in_a_bad_state_is_found(state: WorkerState, rule: str, level: Level) -> None:
    (finding,) = found(fleet(worker(state)), rule)
    assert (finding.level, finding.subject, finding.says) == (level, "a@web1", "says why")
    assert finding.fix


@pytest.mark.parametrize("state", [WorkerState.SILENT, WorkerState.STOPPED, WorkerState.STALLED])
def test_workers_out_of_scope_are_not_our_problem(state: WorkerState) -> None:
    assert examine(fleet(worker(state, mine=False))) == ()


def test_a_worker_that_has_just_been_started_is_not_an_error() -> None:
    young = replace(RUNNING, started_at=AT - timedelta(seconds=3))
    snapshot = fleet(worker(WorkerState.SILENT, service=service(young)))
    assert [one.level for one in found(snapshot, "worker-silent")] == [Level.INFO]


def test_a_solo_worker_that_runs_a_task_is_to_be_waited_for() -> None:
    busy = worker(WorkerState.SILENT, service=service(), busy_solo=True)
    (finding,) = found(fleet(busy), "worker-silent")
    assert finding.level is Level.WARNING
    assert "Wait until its task has ended" in finding.fix


def test_a_silent_worker_whose_host_cannot_be_asked_is_not_to_be_restarted() -> None:
    lost = replace(service(), error="no route to host")
    (finding,) = found(fleet(worker(WorkerState.SILENT, service=lost)), "worker-silent")
    assert "restart" not in finding.fix
    assert "Find out why web1 cannot be asked" in finding.fix


def test_a_failed_service_is_worse_than_a_stopped_one() -> None:
    failed = replace(RUNNING, state=ServiceState.FAILED)
    snapshot = fleet(worker(WorkerState.STOPPED, service=service(failed)))
    assert found(snapshot, "worker-stopped")[0].level is Level.ERROR


def test_queues_taken_by_a_run_that_is_over_are_owed() -> None:
    snapshot = fleet(worker(WorkerState.DRAINED, taken=RECORD), taken=(RECORD,))
    (finding,) = found(snapshot, "left-drained")
    assert "left without its queues (mail) by run run-1 of ann@laptop" in finding.says
    assert finding.fix == "celery-ops runs adopt run-1"


def test_what_a_run_meant_to_leave_so_is_no_error_and_is_not_to_be_adopted() -> None:
    record = replace(RECORD, meant=True)
    snapshot = fleet(worker(WorkerState.DRAINED, taken=record), taken=(record,))
    (finding,) = found(snapshot, "left-drained")
    assert finding.level is Level.INFO
    assert "by run run-1 of ann@laptop, as it was meant to be" in finding.says
    assert finding.fix == record.mend


def test_queues_taken_by_a_run_that_goes_on_are_not_left() -> None:
    holder = Holder("ann@laptop", "run-1", "rolling-restart", AT)
    snapshot = fleet(worker(WorkerState.DRAINED, taken=RECORD), taken=(RECORD,), holder=holder)
    assert found(snapshot, "left-drained") == ()


def test_a_new_incarnation_is_owed_nothing() -> None:
    assert found(fleet(worker(), taken=(RECORD,)), "left-drained") == ()


def test_a_stopped_service_is_owed_until_its_worker_answers() -> None:
    record = replace(RECORD, kind="service", service=REF, queues=())
    stopped = worker(WorkerState.STOPPED, taken=record)
    assert len(found(fleet(stopped, taken=(record,)), "left-drained")) == 1
    assert found(fleet(stopped, taken=(record,)), "worker-stopped") == ()
    assert found(fleet(worker(), taken=(record,)), "left-drained") == ()


def test_a_worker_that_somebody_else_drained_is_found() -> None:
    (finding,) = found(fleet(worker(WorkerState.DRAINED)), "left-drained")
    assert finding.level is Level.WARNING


def test_an_unsupervised_worker_among_supervised_ones_is_a_gap() -> None:
    other = replace(worker(service=None), name="b@web1")
    both = found(fleet(worker(), other), "worker-unsupervised")
    alone = found(fleet(other, replace(other, name="c@web1")), "worker-unsupervised")
    assert [(one.level, one.subject) for one in both] == [(Level.WARNING, "b@web1")]
    assert [(one.level, one.subject) for one in alone] == [(Level.INFO, "all workers")]


def test_a_service_that_runs_another_worker_than_configured_is_found() -> None:
    ref = replace(REF, worker="other@web1")
    (finding,) = found(fleet(worker(service=service(ref=ref))), "service-mismatch")
    assert "is configured for other@web1, but its process 7 is a@web1" in finding.says


def test_a_process_around_the_worker_is_found() -> None:
    wrapped = replace(RUNNING, pid=6)
    (finding,) = found(fleet(worker(service=service(wrapped))), "service-mismatch")
    assert "its process is 6, but a@web1 answers as pid 7" in finding.says


def test_stats_from_before_a_restart_are_not_a_mismatch() -> None:
    restarted = replace(RUNNING, pid=8, started_at=AT + timedelta(seconds=1))
    assert found(fleet(worker(service=service(restarted))), "service-mismatch") == ()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (replace(RUNNING, signals_children=True), "reaches the pool's children"),
        (replace(RUNNING, stop_signal="SIGQUIT"), "stopped with SIGQUIT"),
        (replace(RUNNING, reaches_worker=False), "PID 1 of its container is a shell"),
        (replace(RUNNING, stop_grace=10.0), "a task has been running for 1m30s; a stop waits 10s"),
    ],
    ids=["children", "signal", "shell", "grace"],
)
def test_a_stop_that_would_lose_tasks_is_named(status: ServiceStatus, says: str) -> None:
    task = Task("1", "app.slow", "()", "mail", AT - timedelta(seconds=90), None, True)
    busy = worker(service=service(status), active=Reading((task,), AT))
    (finding,) = found(fleet(busy), "stop-loses-tasks")
    assert says in finding.says
    assert finding.level is Level.ERROR


def test_the_pid_that_counts_is_the_one_in_the_container() -> None:
    first = Reading(replace(STATS, pid=1), AT)
    inside = replace(RUNNING, pid=4000, inner_pid=1)
    other = replace(RUNNING, pid=4000, inner_pid=7)
    mine, others = (worker(service=service(one), stats=first) for one in (inside, other))
    assert found(fleet(mine), "service-mismatch") == ()
    assert len(found(fleet(others), "service-mismatch")) == 1


def test_a_pool_without_children_cannot_lose_tasks_that_way() -> None:
    threads = Reading(replace(STATS, pool="threads"), AT)
    status = replace(RUNNING, signals_children=True)
    snapshot = fleet(worker(service=service(status), stats=threads))
    assert found(snapshot, "stop-loses-tasks") == ()


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("celery", "worker", "--purge"), 1),
        (("celery", "worker", "--discard"), 1),
        (("sh", "-c", "exec celery worker --purge -l info"), 1),
        (("celery", "worker", "-n", "purge@h"), 0),
        (None, 0),
    ],
)
def test_a_worker_that_purges_at_its_start_is_found(
    arguments: tuple[str, ...] | None, count: int
) -> None:
    snapshot = fleet(worker(service=service(replace(RUNNING, arguments=arguments))))
    assert len(found(snapshot, "purges-on-start")) == count


def test_a_lost_broker_comes_first() -> None:
    snapshot = fleet(
        worker(WorkerState.SILENT),
        queues=(Queue("mail", 1, 0, 0),),
        broker_error="refused",
        broker_lost_at=AT,
    )
    assert examine(snapshot)[0].rule == "broker-unreachable"


def test_the_worst_comes_first() -> None:
    snapshot = fleet(
        worker(service=None),
        bound_but_silent=("x@y",),
        queues=(Queue("mail", 1, 0, 0),),
        hosts=(Host("web1", "web1", "gone", AT),),
    )
    levels = [one.level for one in examine(snapshot)]
    assert levels == sorted(levels, key=[Level.ERROR, Level.WARNING, Level.INFO].index)


def test_names_that_only_the_dead_left_are_one_finding() -> None:
    (finding,) = found(fleet(bound_but_silent=("a@x", "b@x", "c@x", "d@x")), "bound-but-silent")
    assert finding.says == "4 names are bound but did not answer: a@x, b@x, c@x and 1 more"


def test_a_hostile_name_is_cut_and_stays_text() -> None:
    name = "[bold]" + "x" * 10_000
    (finding,) = found(fleet(queues=(Queue(name, 1, 0, 0),)), "queue-without-consumer")
    assert finding.subject.startswith("[bold]x")
    assert len(finding.subject) <= 80


def held(queue: str | None = "mail", ago: float = 60.0) -> HeldMessage:
    return HeldMessage("tag", "id-1", "app.send", queue, AT - timedelta(seconds=ago))


def test_orphans_are_told_by_queue_since_when_and_with_the_command_that_mends_it() -> None:
    snapshot = fleet(worker(), orphans=(held(ago=60), held(ago=90), held("my queue", 200_000)))
    mail, mine = found(snapshot, "orphaned-messages")
    assert mail.level is Level.ERROR
    assert mail.subject == "mail"
    assert mail.says == (
        "2 messages lie where a dead worker left them, since 02:58:30 UTC: nobody holds and nobody "
        "will run them before Redis' visibility timeout (1h unless the workers set another)"
    )
    assert mail.fix == "celery-ops runbook restore-orphans -p queue=mail"
    assert mine.says.startswith(
        "1 message lies where a dead worker left it, since 2026-11-17 19:26"
    )
    assert mine.fix == "celery-ops runbook restore-orphans -p queue='my queue'"


def test_the_shortest_visibility_timeout_of_the_workers_is_named() -> None:
    told = [replace(STATS, visibility_timeout=seconds) for seconds in (43200.0, 7200.0)]
    workers = [worker(stats=Reading(stats, AT)) for stats in told]
    (finding,) = found(fleet(*workers, orphans=(held(),)), "orphaned-messages")
    assert "before Redis' visibility timeout of 2h" in finding.says


def test_orphans_that_are_not_known_are_no_finding() -> None:
    assert found(fleet(worker(), orphans=None), "orphaned-messages") == ()
    assert found(fleet(worker(), orphans=()), "orphaned-messages") == ()


@pytest.mark.parametrize(
    ("unproven", "level", "says", "fix"),
    [
        (
            Unproven("mail", (held(),), "b@web2 has not answered"),
            Level.WARNING,
            "1 message is held by nobody visible, since 02:59:00 UTC: b@web2 has not answered; "
            "so it is not known whether they are lost",
            "Mend that first",
        ),
        (
            Unproven("mail", (held(), held()), "no service …", ("a@web1", "b web")),
            Level.WARNING,
            "2 messages are held by nobody visible",
            "restore-orphans -p vouched='a@web1,b web'",
        ),
        (
            Unproven("mail", (held(),), "a@web1 has a rate limit", expected=True),
            Level.INFO,
            "a@web1 has a rate limit",
            "Nothing to do as a rule",
        ),
    ],
    ids=["silent", "vouched", "rate limit"],
)
def test_what_is_not_proved_is_told_with_the_reason(
    unproven: Unproven, level: Level, says: str, fix: str
) -> None:
    (finding,) = found(fleet(worker(), unproven=(unproven,)), "held-by-nobody-visible")
    assert (finding.level, finding.subject) == (level, "mail")
    assert says in finding.says
    assert fix in finding.fix


def test_what_the_next_look_settles_is_no_finding_yet() -> None:
    unproven = Unproven("mail", (held(),), "a second round has to say the same", settles=True)
    assert found(fleet(worker(), unproven=(unproven,)), "held-by-nobody-visible") == ()
