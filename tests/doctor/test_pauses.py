"""A queue that is paused: told as such, and as something wrong only where it is consumed again."""

from __future__ import annotations

from dataclasses import replace

from celery_ops.model import ConsumedQueue, Holder, Level, Queue, Reading, WorkerState
from tests.doctor.test_rules import AT, RECORD, fleet, found, worker

PAUSED = replace(RECORD, kind="paused")
HOLDER = Holder("ann@laptop", "run-1", "pause-queue", AT)
MAIL = Queue("mail", 12, 0, 0, paused=True)


def test_a_paused_queue_is_told_with_what_waits_and_is_no_queue_without_consumer() -> None:
    snapshot = fleet(worker(paused=("mail",)), queues=(MAIL,), taken=(PAUSED,))
    (finding,) = found(snapshot, "queue-paused")
    assert finding.level is Level.INFO
    assert finding.says == (
        "paused by run run-1 of ann@laptop since 03:00:00 UTC: 12 messages wait"
    )
    assert finding.fix == "celery-ops queue resume mail"
    assert found(snapshot, "queue-without-consumer") == ()


def test_one_that_was_taken_from_dead_workers_only_is_a_queue_without_consumer() -> None:
    stopped = worker(WorkerState.STOPPED)
    snapshot = fleet(stopped, queues=(replace(MAIL, paused=False),), taken=(PAUSED,))
    assert len(found(snapshot, "queue-without-consumer")) == 1


def test_who_consumes_it_again_is_named() -> None:
    consuming = Reading((ConsumedQueue("mail", "{}"),), AT)
    snapshot = fleet(
        worker(consuming=consuming), queues=(replace(MAIL, consumers=1),), taken=(PAUSED,)
    )
    (finding,) = found(snapshot, "queue-paused")
    assert finding.level is Level.WARNING
    assert finding.says.endswith("but a@web1 consumes it again")


def test_the_run_that_has_paused_it_is_about_to_pause_that_one_too() -> None:
    consuming = Reading((ConsumedQueue("mail", "{}"),), AT)
    snapshot = fleet(worker(consuming=consuming), queues=(MAIL,), taken=(PAUSED,), holder=HOLDER)
    assert found(snapshot, "queue-paused") == ()


def test_a_worker_all_of_whose_queues_are_paused_is_not_called_left_drained() -> None:
    idle = worker(WorkerState.DRAINED, consuming=Reading((), AT), paused=("mail",))
    assert found(fleet(idle, queues=(MAIL,), taken=(PAUSED,)), "left-drained") == ()
