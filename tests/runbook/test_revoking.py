"""Revoking and terminating on the stand-in fleet: planned, told to everybody, proved, resumed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.ports import Control
from celery_ops.runbook.events import Ending, EventKind, Result
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.broker import StandinResults

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.fleet import Message

REVOKE, TERMINATE = "revoke-tasks", "terminate-tasks"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_workers(Operation(tmp_path))


def with_workers(made: Operation) -> Operation:
    """Two of prefork with one process each, and one of threads on a queue of its own."""
    for name in ("a@web1", "b@web1"):
        made.fleet.add_worker(name, concurrency=1)
    made.fleet.add_worker("t@web1", queues=("threads",), pool="threads", concurrency=1)
    return made


def busy(operation: Operation, seconds: float = 100.0) -> list[Message]:
    """Each prefork worker runs one, holds three more, and two wait in the queue."""
    return [operation.fleet.send("default", seconds) for _ in range(10)]


def orders(operation: Operation) -> list[tuple[tuple[str, ...], dict[str, object]]]:
    return [
        (sent.to, sent.order.arguments)
        for sent in operation.broker.orders
        if isinstance(sent.order, Control) and sent.order.method == "revoke"
    ]


async def test_every_worker_is_told_and_says_that_it_knows(operation: Operation) -> None:
    waiting = busy(operation)[-1]
    plan = await operation.plan(REVOKE, ids=waiting.id)
    assert plan.refusals == ()
    assert [(one.id, one.task, one.seen) for one in plan.tasks] == [
        (waiting.id, "app.work", ("waiting in default",))
    ]
    assert plan.confirmations[0].question.startswith("Revoke 1 task in 3 workers?")
    assert any("Celery has no command for it" in one for one in plan.irreversible)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "1 task revoked in 3 workers"
    names = ("a@web1", "b@web1", "t@web1")
    assert orders(operation) == [(names, {"task_id": [waiting.id]})]
    for name in names:
        assert operation.fleet.worker(name).revoked == {waiting.id}
        ((_, result, says),) = ran.results(name)
        assert (result, says) == (Result.DONE, "it says that they are revoked in it")
    await operation.clock.sleep(1000.0)
    operation.fleet.settle()
    assert operation.fleet.ledger.revoked == {waiting.id}
    assert operation.fleet.ledger.started[waiting.id] == 0
    assert sum(operation.fleet.ledger.ended.values()) == 9


async def test_what_runs_runs_on_and_is_told_before_and_after(operation: Operation) -> None:
    running = busy(operation)[0]
    plan = await operation.plan(REVOKE, ids=running.id)
    assert any(
        one.startswith(f"run now, and run on to the end: {running.id} in a@web1")
        for one in plan.hazards
    )
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE
    assert ran.end.says.endswith(f"and run to the end: {running.id} in a@web1")


async def test_what_a_pool_of_threads_has_reserved_is_told_to_run_all_the_same(
    operation: Operation,
) -> None:
    sent = [operation.fleet.send("threads", 100.0) for _ in range(2)]
    plan = await operation.plan(REVOKE, ids=sent[1].id)
    assert any(one.startswith("will run all the same") for one in plan.hazards)
    ran = await operation.execute(plan)
    assert "were handed" in ran.end.says or "was handed" in ran.end.says
    await operation.clock.sleep(300.0)
    operation.fleet.settle()
    assert operation.fleet.ledger.ended[sent[1].id] == 1


async def test_by_name_and_by_filter_only_what_is_meant_is_revoked(operation: Operation) -> None:
    busy(operation)
    mails = [operation.fleet.send("default", 1.0, task="app.mail") for _ in range(3)]
    by_name = await operation.plan(REVOKE, task="app.m*")
    assert {one.id for one in by_name.tasks} == {one.id for one in mails}
    both = await operation.plan(REVOKE, task="app.mail", filter=f"id != '{mails[0].id}'")
    assert {one.id for one in both.tasks} == {one.id for one in mails[1:]}
    judged = await operation.plan(REVOKE, filter="retries == 0")
    held = [one for one in judged.hazards if "it is not known whether the filter holds" in one]
    assert len(held) == 1, "of what workers hold the retries are not told"
    assert {one.seen for one in judged.tasks} == {("waiting in default",)}
    nothing = await operation.plan(REVOKE, task="app.nothing")
    assert nothing.refusals == ("there is nothing to revoke: no such task is seen",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "which tasks?"),
        ({"ids": "a", "task": "b"}, "not both"),
        ({"filter": "tsk == 'x'"}, "did you mean task?"),
        ({"filter": "retries"}, "compare it"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_reason(
    operation: Operation, given: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        await operation.plan(REVOKE, **given)


async def test_an_id_that_is_seen_nowhere_is_revoked_only_where_that_is_asked_for(
    operation: Operation,
) -> None:
    """A slip of the pen must not look like a success."""
    refused = await operation.run(REVOKE, ids="no-such")
    assert refused.ending is Ending.REFUSED, refused.told()
    assert "no-such is seen nowhere, and all could be looked at" in refused.end.says
    plan = await operation.plan(REVOKE, ids="no-such", unseen="yes")
    assert plan.confirmations[0].question.startswith("Revoke 1 task (seen nowhere) in 3 workers?")
    assert any(one.startswith("no-such is not seen anywhere") for one in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE
    assert operation.fleet.worker("a@web1").revoked == {"no-such"}


async def test_beside_others_that_are_seen_the_question_counts_it(operation: Operation) -> None:
    waiting = busy(operation)[-1]
    plan = await operation.plan(REVOKE, ids=f"{waiting.id},no-such,nor-this")
    assert plan.refusals == ()
    question = plan.confirmations[0].question
    assert question.startswith("Revoke 3 tasks (2 of them seen nowhere) in 3 workers?")


@pytest.mark.parametrize("hidden", ["worker", "queue", "node"])
async def test_where_it_could_be_unseen_it_is_not_refused(
    operation: Operation, hidden: str
) -> None:
    if hidden == "worker":
        operation.fleet.worker("b@web1").faults.hangs = True
        await operation.clock.sleep(30.0)
        await operation.surveyor().refresh()
    elif hidden == "queue":
        operation.broker.notes = ("what waits in quorum is not known",)
    else:
        operation.fleet.bound.add("ghost@web7")
    plan = await operation.plan(REVOKE, ids="no-such")
    assert plan.refusals == ()
    assert "(seen nowhere)" in plan.confirmations[0].question


async def test_what_has_ended_is_left_out(operation: Operation) -> None:
    ended = operation.fleet.send("default", 1.0)
    await operation.clock.sleep(5.0)
    operation.results = StandinResults(operation.fleet)
    operation.fleet.settle()
    refused = await operation.plan(REVOKE, ids=ended.id)
    (says,) = refused.refusals
    assert f"{ended.id} has ended (SUCCESS, says the result backend)" in says
    both = await operation.plan(REVOKE, ids=f"{ended.id}, other", unseen="yes")
    assert [one.id for one in both.tasks] == ["other"]


async def test_who_cannot_be_told_is_named(operation: Operation) -> None:
    busy(operation)
    operation.fleet.worker("b@web1").faults.hangs = True
    operation.fleet.add_worker("down@web1", up=False)
    operation.fleet.bound.add("ghost@web7")
    await operation.clock.sleep(30.0)
    surveyor = operation.surveyor()
    await surveyor.refresh()
    plan = await operation.plan(REVOKE, ids="x", unseen="yes")
    told = "\n".join(plan.hazards)
    assert "down@web1 is stopped: not revoked there" in told
    assert "b@web1" in told
    assert "not revoked there" in told
    assert "ghost@web7 is bound on the broker and does not answer: not revoked there" in told


async def test_a_worker_that_keeps_nothing_is_no_success(operation: Operation) -> None:
    operation.fleet.worker("b@web1").faults.forgets_revokes = True
    ran = await operation.run(REVOKE, ids="x", timeout="5s", unseen="yes")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.says.startswith("b@web1: it did not say within 5s that they are revoked in it")
    assert ran.end.report is not None
    assert ran.end.report.failed == ("b@web1",)
    assert ran.end.report.done == ("a@web1", "t@web1")
    assert len(orders(operation)) == 1, "who is asked again and again is not told each time"


async def test_a_worker_that_has_come_since_the_plan_is_told(operation: Operation) -> None:
    plan = await operation.plan(REVOKE, ids="x", unseen="yes")
    operation.fleet.add_worker("new@web1")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.worker("new@web1").revoked == {"x"}
    assert ran.end.says == "1 task revoked in 4 workers"


async def test_a_worker_that_is_gone_is_named(operation: Operation) -> None:
    plan = await operation.plan(REVOKE, ids="x", unseen="yes")
    worker = operation.fleet.worker("b@web1")
    assert worker.service is not None
    worker.service.restarts_itself = False
    operation.fleet.kill(worker)
    await operation.clock.sleep(30.0)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    said = [
        one.outcome.says for one in ran.events if one.event is EventKind.PROGRESS if one.outcome
    ]
    assert "not told, since they do not answer any more: b@web1" in said


async def test_a_revoke_that_dies_with_its_workers_is_told(operation: Operation) -> None:
    lasting = operation.fleet.worker("a@web1").service
    assert lasting is not None
    lasting.arguments = ("celery", "worker", "--statedb=/var/lib/state")
    (says,) = [
        one
        for one in (await operation.plan(REVOKE, ids="x", unseen="yes")).hazards
        if "memory" in one
    ]
    assert says.startswith("b@web1, t@web1 keep revokes in memory only: one that restarts copies")
    for worker in operation.fleet.workers:
        assert worker.service is not None
        worker.service.arguments = ("celery", "worker", "-S", "/var/lib/state")
    told = (await operation.plan(REVOKE, ids="x", unseen="yes")).hazards
    assert not [one for one in told if "memory" in one]


async def test_a_task_that_is_due_after_workers_forget_is_told(operation: Operation) -> None:
    late = operation.fleet.send("nobody", 1.0, eta=4 * 3600.0)
    plan = await operation.plan(REVOKE, ids=late.id)
    assert any("due in more than 3h may run all the same" in one for one in plan.hazards)


async def test_many_ids_are_told_in_portions(operation: Operation) -> None:
    ids = [f"id-{number}" for number in range(600)]
    ran = await operation.run(REVOKE, ids=",".join(ids), unseen="yes")
    assert ran.ending is Ending.DONE, ran.told()
    told = [arguments["task_id"] for _, arguments in orders(operation)]
    assert told == [sorted(ids)[:250], sorted(ids)[250:500], sorted(ids)[500:]]
    assert operation.fleet.worker("a@web1").revoked == set(ids)


# --- terminate ----------------------------------------------------------------------------------


async def test_what_runs_is_ended_and_the_rest_never_begins(operation: Operation) -> None:
    sent = busy(operation)
    ids = ",".join(one.id for one in sent)
    plan = await operation.plan(TERMINATE, ids=ids)
    assert plan.refusals == ()
    assert plan.confirmations[0].typed == "test"
    told = "\n".join(plan.hazards)
    assert "acknowledged, late or not: they do not run again" in told
    assert "another one loses that other task" in told.replace("\n", " ")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "10 tasks revoked in 3 workers; 2 of them ended in the midst of it"
    await operation.clock.sleep(1000.0)
    operation.fleet.settle()
    ledger = operation.fleet.ledger
    assert len(ledger.terminated) == 2
    assert len(ledger.revoked) == 8
    assert not ledger.ended
    assert not ledger.twice


async def test_nobody_is_signalled_where_none_of_them_runs(operation: Operation) -> None:
    waiting = busy(operation)[-1]
    ran = await operation.run(TERMINATE, ids=waiting.id)
    assert ran.end.says == "1 task revoked in 3 workers; none of them ended in the midst of it"
    assert all("terminate" not in told for _, told in orders(operation))


async def test_a_pool_without_processes_is_refused_by_its_name(operation: Operation) -> None:
    running = operation.fleet.send("threads", 100.0)
    plan = await operation.plan(TERMINATE, ids=running.id)
    (says,) = plan.refusals
    assert says.startswith(
        f"{running.id} runs in t@web1: its pool is threads, which has no process"
    )


async def test_one_that_begins_in_threads_after_the_plan_fails_and_is_named(
    operation: Operation,
) -> None:
    operation.fleet.worker("t@web1").consuming.clear()
    waiting = operation.fleet.send("threads", 1000.0)
    plan = await operation.plan(TERMINATE, ids=waiting.id)
    assert plan.refusals == ()
    worker = operation.fleet.worker("t@web1")
    worker.consuming = {name: dict(entry) for name, entry in worker.configured.items()}
    operation.fleet.settle()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert f"t@web1: {waiting.id} runs on: its pool is threads" in ran.end.says


@pytest.mark.parametrize("runbook", [REVOKE, TERMINATE])
async def test_an_undo_says_that_it_cannot_be_taken_back(
    operation: Operation, runbook: str
) -> None:
    running = busy(operation)[0]
    path = operation.write_down(await operation.plan(runbook, ids=running.id))
    assert await killed(operation, path, 7, "after")
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert "a@web1: cannot be taken back" in ran.end.says


@pytest.mark.parametrize("when", ["after", "before"])
@pytest.mark.parametrize("runbook", [REVOKE, TERMINATE])
async def test_a_run_that_dies_anywhere_is_gone_on_with_to_the_same_end(
    tmp_path: Path, runbook: str, when: str
) -> None:
    for line in itertools.count(2):
        operation = with_workers(Operation(tmp_path / str(line)))
        sent = busy(operation)
        plan = await operation.plan(runbook, ids=",".join(one.id for one in sent))
        path = operation.write_down(plan)
        if not await killed(operation, path, line, when):
            break
        await operation.clock.sleep(20.0)
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, f"{line}: {ran.told()}"
        for worker in operation.fleet.workers:
            assert worker.revoked == {one.id for one in sent}
        await operation.clock.sleep(1000.0)
        operation.fleet.settle()
        ledger = operation.fleet.ledger
        assert len(ledger.terminated) == (2 if runbook == TERMINATE else 0)
        assert sum(ledger.ended.values()) == (0 if runbook == TERMINATE else 2)
        assert not ledger.twice
    assert line > 10


async def test_a_broker_that_is_away_for_a_while_does_not_end_it(operation: Operation) -> None:
    plan = await operation.plan(REVOKE, ids="x", unseen="yes")

    async def interrupt() -> None:
        while not operation.broker.orders:
            await operation.clock.sleep(0.01)
        operation.broker.is_down = True
        await operation.clock.sleep(2.0)
        operation.broker.is_down = False

    ran = await operation.run_and(operation.write_down(plan), interrupt)
    assert ran.ending in {Ending.DONE, Ending.STOPPED}, ran.told()
    assert operation.fleet.worker("a@web1").revoked == {"x"}
