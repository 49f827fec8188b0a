"""Tasks that are held: told as such, and as something wrong where nobody carries on the others."""

from __future__ import annotations

from dataclasses import replace

from celery_ops.model import HELD, HOLD, Holder, Level, Queue
from celery_ops.model.holding import held_of, through
from tests.doctor.test_rules import AT, RECORD, fleet, found, worker

HELD_OF_A = replace(RECORD, kind=HELD, tasks=("shop.mail",))
HOLDING = replace(RECORD, kind=HOLD, worker="", tasks=("shop.mail",))
FORWARDER = Holder("ann@laptop", "run-1", "hold-task", AT)
QUEUES = (
    Queue("mail", 7, 0, 0, held=("shop.mail",)),
    Queue(through("mail"), 0, 0, 1),
    Queue(held_of("mail", "run-1"), 12, 0, 0),
)


def test_a_hold_is_told_once_with_what_is_parked_and_is_no_queue_without_consumer() -> None:
    snapshot = replace(
        fleet(worker(), queues=QUEUES, taken=(HOLDING, HELD_OF_A)), forwarder=FORWARDER
    )
    (finding,) = found(snapshot, "task-held")
    assert finding.level is Level.INFO
    assert finding.subject == "shop.mail"
    assert finding.says == (
        "is held since 03:00:00 UTC by run run-1 of ann@laptop: 12 messages parked"
    )
    assert finding.fix == "celery-ops task release shop.mail"
    for rule in ("queue-without-consumer", "parked-messages", "left-drained"):
        assert found(snapshot, rule) == ()
    assert snapshot.taken_at_a_glance == (HOLDING,)


def test_without_the_run_that_carries_on_workers_starve_and_that_is_an_error() -> None:
    snapshot = fleet(worker(), queues=QUEUES, taken=(HOLDING, HELD_OF_A))
    (finding,) = found(snapshot, "task-held")
    assert finding.level is Level.ERROR
    assert "that run is gone: workers get nothing of mail, where 7 messages" in finding.says
    assert "celery-ops runs resume run-1" in finding.fix
    assert "celery-ops task release shop.mail" in finding.fix


def test_a_worker_that_did_not_get_its_queue_back_is_named() -> None:
    (finding,) = found(fleet(worker(), queues=QUEUES, taken=(HELD_OF_A,)), "task-held")
    assert (finding.level, finding.subject) == (Level.ERROR, "a@web1")
    assert finding.fix == "celery-ops task release shop.mail"
