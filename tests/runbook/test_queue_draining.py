"""A queue is drained when nothing of it waits anywhere, and stays so; never while it is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.ports import Question
from celery_ops.runbook.events import Ending, EventKind, Result
from celery_ops.runbook.inbox import Message, Word, send
from celery_ops.runbook.queue_emptying import LEAST_QUIET
from tests.runbook.operation import Operation, Ran
from tests.standin.fleet import Message as Task

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.runbook.journal import Event

MAIL = {"queue": "mail"}


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for name in ("w1@web1", "w2@web1"):
        made.fleet.add_worker(name, queues=("default", "mail"))
    return made


def told(ran: Ran) -> list[str]:
    """What was waited for."""
    return [
        event.outcome.says
        for event in ran.events
        if event.event is EventKind.PROGRESS and event.outcome is not None
    ]


async def test_it_ends_when_all_has_run_and_says_what_it_waits_for(operation: Operation) -> None:
    for _ in range(60):
        operation.fleet.send("mail", 2.0)
    ran = await operation.run("drain-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert sum(operation.fleet.ledger.ended.values()) == 60
    says = told(ran)
    assert says[0].startswith("44 ready; 12 held by workers; 4 tasks of it running")
    assert any("/s fewer, so empty in about" in one for one in says)
    assert ran.end.says == (
        "mail is drained: empty, nothing of it is held or runs, and it stayed so for 5s"
    )
    assert len(says) < 20
    assert ran.effects == []


async def test_it_takes_as_long_as_it_must_be_seen_to_stay_empty(operation: Operation) -> None:
    began = operation.clock.elapsed
    ran = await operation.run("drain-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert LEAST_QUIET <= operation.clock.elapsed - began < 3 * LEAST_QUIET


async def test_a_task_with_an_eta_is_waited_for(operation: Operation) -> None:
    late = operation.fleet.send("mail", 1.0, eta=90.0)
    ran = await operation.run("drain-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.ledger.ended[late.id] == 1
    assert any("1 held by workers (1 until their ETA, the last in" in one for one in told(ran))


async def test_what_a_rate_limit_holds_back_is_waited_for(operation: Operation) -> None:
    worker = operation.fleet.workers[0]
    worker.rate_limited, worker.registered = frozenset({"app.limited"}), ("app.limited",)
    operation.fleet.hold_invisibly(worker, "mail", 3)
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "3 held by workers (3 shown by no worker: w1@web1 has a rate limit" in ran.end.says


async def test_the_tasks_of_other_queues_are_not(operation: Operation) -> None:
    operation.fleet.send("default", 600.0)
    operation.fleet.send("default", 60.0, eta=600.0)
    ran = await operation.run("drain-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()


async def test_it_stays_empty_through_the_longest_countdown_of_a_retry(
    operation: Operation,
) -> None:
    """A task that had run comes back with the same id, and waits for 20 seconds."""
    first = operation.fleet.send("mail", 4.0)

    async def retries() -> None:
        await operation.clock.sleep(3.9)
        operation.fleet.settle()
        due = operation.clock.monotonic() + 20
        operation.fleet.queues["mail"].append(Task(first.id, "app.work", "mail", 1.0, due))

    began = operation.clock.elapsed
    ran = await operation.run_while("drain-queue", retries, **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.ledger.ended[first.id] == 2
    assert "the longest countdown of a retry" in ran.end.says
    assert operation.clock.elapsed - began > 4 + 20 + 1 + 18


async def test_what_is_sent_meanwhile_begins_the_wait_anew(operation: Operation) -> None:
    async def sends() -> None:
        await operation.clock.sleep(4)
        operation.fleet.send("mail", 1.0)

    began = operation.clock.elapsed
    ran = await operation.run_while("drain-queue", sends, **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.clock.elapsed - began > 4 + 1 + LEAST_QUIET
    assert sum(operation.fleet.ledger.ended.values()) == 1


async def test_a_worker_that_does_not_answer_may_hold_some(operation: Operation) -> None:
    operation.fleet.worker("w2@web1").faults.hangs = True
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w2@web1 does not say what it runs" in ran.end.says


async def test_a_worker_that_does_not_tell_what_it_has_reserved_may_hold_some(
    operation: Operation,
) -> None:
    operation.fleet.worker("w2@web1").faults.silent_to = frozenset({Question.RESERVED})
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w2@web1 does not say what it has reserved" in ran.end.says


async def test_where_the_broker_cannot_tell_what_is_held_it_is_not_called_empty(
    operation: Operation,
) -> None:
    operation.broker.tells_unacked = False
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "how many are held is not known" in ran.end.says


@pytest.fixture
def without_counts(operation: Operation) -> Operation:
    """A broker like RabbitMQ without its management API."""
    operation.broker.tells_unacked, operation.broker.gives_back = False, True
    operation.broker.counts_consumers["mail"] = 2
    return operation


async def test_a_broker_that_gives_back_by_itself_need_not_tell_if_all_consumers_do(
    without_counts: Operation,
) -> None:
    late = without_counts.fleet.send("mail", 1.0, eta=60.0)
    plan = await without_counts.plan("drain-queue", **MAIL)
    ran = await without_counts.run("drain-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert without_counts.fleet.ledger.ended[late.id] == 1
    assert any("1 held by workers (1 until their ETA, the last in" in one for one in told(ran))
    says = "by the word of w1@web1, w2@web1: the broker counts no other consumer"
    assert says in ran.end.says
    assert any(says in hazard for hazard in plan.hazards)


async def test_a_consumer_that_is_no_known_worker_may_hold_some(without_counts: Operation) -> None:
    without_counts.broker.counts_consumers["mail"] = 3
    ran = await without_counts.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "1 consumer of it is no worker that answered, and may hold some" in ran.end.says


async def test_a_worker_with_a_rate_limit_may_hold_some_unseen(without_counts: Operation) -> None:
    worker = without_counts.fleet.workers[0]
    worker.rate_limited, worker.registered = frozenset({"app.limited"}), ("app.limited",)
    without_counts.fleet.hold_invisibly(worker, "mail", 3)
    plan = await without_counts.plan("drain-queue", **MAIL)
    ran = await without_counts.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    says = "w1@web1 may hold some of app.limited unseen: by a rate limit or in batches"
    assert says in ran.end.says
    assert any(says in hazard for hazard in plan.hazards)


@pytest.mark.parametrize(
    ("exchange", "ending"), [("direct", Ending.DONE), ("topic", Ending.STOPPED)]
)
async def test_what_the_broker_delays_is_waited_for_where_it_may_be_for_the_queue(
    exchange: str, ending: Ending, operation: Operation
) -> None:
    operation.broker.delayed = 3
    for worker in operation.fleet.workers:
        worker.consuming["mail"]["exchange"] = {"name": "shop", "type": exchange}
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is ending, ran.told()
    says = "3 messages in the queues for delayed delivery, for it or for others"
    assert (says in ran.end.says) == (ending is Ending.STOPPED)


async def test_what_a_dead_worker_left_is_told_with_the_way_out(operation: Operation) -> None:
    message = Task("left-0", "app.work", "mail", 1.0, delivered=operation.clock.now())
    operation.fleet.stuck.append((message, 0.0))
    operation.clock.suspend(20)
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "1 left by a dead worker: celery-ops runbook restore-orphans" in ran.end.says


async def test_a_broker_that_is_away_for_a_moment_is_waited_for(operation: Operation) -> None:
    async def goes_away() -> None:
        await operation.clock.sleep(3)
        operation.broker.is_down = True
        await operation.clock.sleep(8)
        operation.broker.is_down = False

    began = operation.clock.elapsed
    ran = await operation.run_while("drain-queue", goes_away, **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert any(one.startswith("not known: ") for one in told(ran))
    assert operation.clock.elapsed - began > 11 + LEAST_QUIET


async def test_a_queue_that_does_not_get_shorter_is_told_so(operation: Operation) -> None:
    for _ in range(200):
        operation.fleet.send("mail", 600.0)
    ran = await operation.run("drain-queue", **MAIL, timeout="30s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "it did not get shorter in " in ran.end.says


async def test_a_queue_that_is_paused_is_refused_with_the_way_out(operation: Operation) -> None:
    await operation.run("pause-queue", **MAIL)
    ran = await operation.run("drain-queue", **MAIL)
    assert ran.ending is Ending.REFUSED
    assert "mail is paused, so nobody works it off: celery-ops queue resume mail" in ran.end.says


async def test_the_scheduler_is_stopped_first_where_that_is_asked_for(
    operation: Operation,
) -> None:
    beat = operation.fleet.add_beat()
    ran = await operation.run("drain-queue", **MAIL, stop_beat="yes")
    assert ran.ending is Ending.DONE, ran.told()
    assert [intent for _, intent in ran.effects] != []
    assert beat.starts == 2
    assert operation.broker.records == {}


async def test_it_is_started_again_where_the_queue_was_not_drained(operation: Operation) -> None:
    beat = operation.fleet.add_beat()
    operation.fleet.send("mail", 600.0)
    ran = await operation.run("drain-queue", **MAIL, stop_beat="yes", timeout="20s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert beat.starts == 2
    assert operation.broker.records == {}


async def test_it_is_left_alone_where_that_is_not_asked_for(operation: Operation) -> None:
    operation.fleet.add_beat()
    plan = await operation.plan("drain-queue", **MAIL)
    assert plan.targets == ()
    assert plan.steps[0].says == "left out: params.stop_beat does not hold"
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.effects == []
    skipped = [one for one in ran.events if one.outcome and one.outcome.result is Result.SKIPPED]
    assert [one.step for one in skipped] == ["1", "2", "4"]


async def test_an_abort_ends_the_wait(operation: Operation) -> None:
    operation.fleet.send("mail", 600.0)
    path = operation.write_down(await operation.plan("drain-queue", **MAIL))

    def then(event: Event) -> None:
        if event.event is EventKind.PROGRESS:
            send(path.with_suffix(".inbox"), Message(Word.ABORT, "ann@desk"))

    ran = await operation.take_up(path, then=then)
    assert ran.ending is Ending.ABORTED, ran.told()
