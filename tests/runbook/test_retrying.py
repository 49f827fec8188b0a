"""Tasks that have failed are sent again on the stand-in: planned, refused, resumed, counted."""

from __future__ import annotations

import itertools
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable, InvalidDocument, UsageError
from celery_ops.model import TaskNews, TaskState
from celery_ops.runbook.events import Ending
from celery_ops.runbook.loader import loads
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.broker import StandinResults
from tests.standin.fleet import declaration

if TYPE_CHECKING:
    from pathlib import Path

RETRY = "retry-tasks"
FAILS = "app.fails"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return with_results(tmp_path)


def with_results(directory: Path) -> Operation:
    """Two workers, and a result backend that is extended."""
    made = Operation(directory)
    made.fleet.add_worker("a@web1", concurrency=1)
    made.fleet.add_worker("b@web1", queues=("mail",), concurrency=1)
    made.results = StandinResults(made.fleet, extended=True)
    return made


async def failed(
    operation: Operation, count: int = 1, queue: str = "default", error: str = "Timeout()"
) -> list[str]:
    """Tasks that fail there, one after the other; their next run succeeds."""
    ids = []
    for _ in range(count):
        message = operation.fleet.send(queue, 0.1, task=FAILS)
        message.fails = error
        ids.append(message.id)
        await operation.clock.sleep(1.0)
    operation.fleet.settle()
    assert all(operation.fleet.results[one].error == error for one in ids)
    return ids


async def refused(operation: Operation, **given: str) -> str:
    """Nothing is sent, and why."""
    plan = await operation.plan(RETRY, **given)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert ran.effects == []
    return "; ".join(plan.refusals)


async def settled(operation: Operation) -> None:
    await operation.clock.sleep(60.0)
    operation.fleet.settle()


async def test_what_has_failed_is_sent_again_once_and_told_before(operation: Operation) -> None:
    first, second = await failed(operation), await failed(operation, 2, "mail")
    plan = await operation.plan(RETRY, ids=",".join([*first, *second]))
    assert plan.refusals == ()
    assert [(one.id, one.queue) for one in plan.tasks] == [
        (first[0], "default"), (second[0], "mail"), (second[1], "mail")
    ]  # fmt: skip
    assert plan.confirmations[0].question.startswith("Send 3 tasks again, to be run")
    does = {action.target: action.does for step in plan.steps for action in step.actions}
    assert does["mail"].startswith(f"send 2 tasks (2 {FAILS}): {', '.join(second)}, behind those")
    assert any("each is sent alone" in says for says in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "1 task sent to default; 2 tasks sent to mail"
    await settled(operation)
    assert {operation.fleet.ledger.started[one] for one in (*first, *second)} == {2}
    assert {operation.fleet.results[one].error for one in (*first, *second)} == {""}


async def test_what_it_is_called_with_is_in_no_plan_and_no_journal(operation: Operation) -> None:
    (id_,) = await failed(operation)
    path = operation.write_down(await operation.plan(RETRY, ids=id_))
    await operation.take_up(path)
    assert '"kwargs"' not in path.read_text()
    assert '"k"' not in path.read_text()


async def test_it_is_not_sent_twice_before_it_has_ended_again(operation: Operation) -> None:
    (id_,) = await failed(operation)
    worker = operation.fleet.worker("a@web1")
    worker.consuming.clear()
    assert (await operation.run(RETRY, ids=id_)).ending is Ending.DONE
    assert "waiting in default): it would run twice" in await refused(operation, ids=id_)
    operation.fleet.queues["default"].clear()
    says = await refused(operation, ids=id_)
    assert f"{id_}: it was sent again before, and no end is stored since" in says
    again = await operation.plan(RETRY, ids=id_, again="lost")
    assert any("may run twice" in one for one in again.hazards)
    assert (await operation.execute(again)).ending is Ending.DONE
    assert len(operation.fleet.queues["default"]) == 1


async def test_after_its_next_end_it_can_be_sent_again_once_more(operation: Operation) -> None:
    (id_,) = await failed(operation)
    operation.fleet.tasks[FAILS] = (0.1, "Timeout()")
    operation.fleet.worker("a@web1").registered = (FAILS,)
    for _ in range(3):
        assert (await operation.run(RETRY, ids=id_)).ending is Ending.DONE
        await settled(operation)
    assert operation.fleet.ledger.started[id_] == 4


async def test_by_name_filter_and_limit_those_that_ended_first_are_sent(
    operation: Operation,
) -> None:
    early = await failed(operation, 3)
    await operation.clock.sleep(600.0)
    late = await failed(operation, 3, error="KeyError('x')")
    done = operation.fleet.send("default", 0.1, task=FAILS)
    await settled(operation)

    async def meant(**given: str) -> list[str]:
        plan = await operation.plan(RETRY, **given)
        assert plan.refusals == ()
        return [one.id for one in plan.tasks]

    assert await meant(task="app.f*") == [*early, *late]
    assert await meant(filter="exception == 'KeyError'") == late
    assert await meant(filter="age > 5m", task=FAILS) == early
    assert await meant(task=FAILS, limit="2") == early[:2]
    assert await meant(task=FAILS, ended="any") == [*early, *late, done.id]
    assert await meant(filter="state == 'SUCCESS'", ended="any") == [done.id]
    plan = await operation.plan(RETRY, task=FAILS, limit="2", to="mail", rate="1/s")
    assert any("4 tasks more than the limit" in says for says in plan.hazards)
    began = operation.clock.monotonic()
    ran = await operation.execute(plan)
    assert ran.end.says == "2 tasks sent to mail"
    assert operation.clock.monotonic() - began >= 1.0
    assert "no such task has failed" in await refused(operation, task="app.none")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "which tasks?"),
        ({"ids": "a", "task": "b"}, "not both"),
        ({"filter": "origin == 'x'"}, "unknown name 'origin'"),
        ({"filter": "worker.active == 1"}, "worker is text"),
        ({"filter": "fleet.ready == 1"}, "is not known of a task that has ended"),
        ({"ids": "a", "ended": "some"}, "ended is one of failed, any"),
        ({"ids": "a", "rate": "fast"}, "not a rate"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_reason(
    operation: Operation, given: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        await operation.plan(RETRY, **given)


async def test_what_cannot_be_sent_is_refused_by_name_and_reason(operation: Operation) -> None:
    done = operation.fleet.send("default", 0.1)
    (id_,) = await failed(operation)
    results = operation.results
    assert results is not None
    both = await operation.plan(RETRY, ids=f"{done.id},{id_},never")
    assert [one.id for one in both.tasks] == [id_]
    told = "\n".join(both.hazards)
    assert f"not sent again: {done.id}: it has succeeded: -p ended=any" in told
    assert "not sent again: never: nothing is stored of it" in told
    operation.fleet.worker("b@web1").revoked.add(id_)
    assert "it is revoked in b@web1" in await refused(operation, ids=id_)
    operation.fleet.worker("b@web1").revoked.clear()
    operation.fleet.results[id_] = TaskNews(TaskState.RETRY)
    assert "its result says RETRY: it has not ended" in await refused(operation, ids=id_)
    results.extended = False
    operation.fleet.results[id_] = TaskNews(TaskState.FAILURE)
    assert "result_extended=True" in await refused(operation, ids=id_)
    says = await refused(operation, task=FAILS)
    assert "of 1 stored result it is not known whether that is meant" in says
    results.says = "The results are away."
    assert "The results are away." in await refused(operation, ids=id_)
    operation.results = None
    assert "no result backend is configured here" in await refused(operation, ids=id_)


async def test_what_was_done_already_is_sent_again_only_where_that_is_asked_for(
    operation: Operation,
) -> None:
    done = operation.fleet.send("default", 0.1)
    await settled(operation)
    plan = await operation.plan(RETRY, ids=done.id, ended="any")
    assert any("Celery does not overwrite a success" in says for says in plan.hazards)
    assert (await operation.execute(plan)).ending is Ending.DONE
    await settled(operation)
    assert operation.fleet.ledger.started[done.id] == 2


async def test_a_queue_that_is_not_known_any_more_is_asked_for(operation: Operation) -> None:
    (id_,) = await failed(operation, queue="mail")
    gone = operation.fleet.worker("b@web1")
    operation.fleet.workers.remove(gone)
    operation.fleet.queues.pop("mail", None)
    assert "its routing key was mail): -p to=QUEUE" in await refused(operation, ids=id_)
    plan = await operation.plan(RETRY, ids=id_, to="default")
    assert [one.queue for one in plan.tasks] == ["default"]


async def test_a_look_that_marks_what_waits_is_told(operation: Operation) -> None:
    (id_,) = await failed(operation)
    operation.broker.marks = True
    operation.fleet.send("nobody")
    for runbook, given in ((RETRY, {"ids": id_}), ("revoke-tasks", {"task": "app.work"})):
        told = (await operation.plan(runbook, **given)).hazards
        assert any("messages of nobody were taken out and given back" in one for one in told)
    operation.broker.marks = False
    told = (await operation.plan(RETRY, ids=id_)).hazards
    assert not any("taken out" in one for one in told)


async def test_a_routing_key_is_followed_to_the_one_queue_that_it_led_to(
    operation: Operation,
) -> None:
    """A result keeps the routing key, which is the queue's name only without an exchange."""
    (id_,) = await failed(operation, queue="mail")
    operation.fleet.ends[id_][0].queue = "urgent"
    consuming = operation.fleet.worker("b@web1").consuming

    async def goes_to() -> list[str]:
        return [one.queue for one in (await operation.plan(RETRY, ids=id_)).tasks]

    assert await goes_to() == []
    consuming["slow"] = {**declaration("slow"), "routing_key": "urgent"}
    assert await goes_to() == ["slow"]
    consuming["slower"] = {**declaration("slower"), "routing_key": "urgent"}
    assert await goes_to() == [], "it went to both"
    consuming["urgent"] = declaration("urgent")
    assert await goes_to() == ["urgent"]


async def test_what_has_changed_since_the_plan_is_left_out_and_told(operation: Operation) -> None:
    ids = await failed(operation, 4)
    plan = await operation.plan(RETRY, ids=",".join(ids))
    operation.fleet.results.pop(ids[0])
    message, at = operation.fleet.ends[ids[1]]
    operation.fleet.ends[ids[1]] = message, at + timedelta(seconds=1)
    other = await operation.plan(RETRY, ids=ids[2])
    operation.fleet.worker("a@web1").consuming.clear()
    assert (await operation.execute(other)).ending is Ending.DONE
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says.startswith("1 task sent to default; not sent again:")
    for id_, why in (
        (ids[0], "nothing is stored of it any more"),
        (ids[1], "its result has changed since, to FAILURE"),
        (ids[2], "another run has sent it since"),
    ):
        assert f"{id_}: {why}" in ran.end.says
    assert [one.id for one in operation.fleet.queues["default"]] == [ids[2], ids[3]]


@pytest.mark.parametrize("when", ["after", "before"])
async def test_a_run_that_dies_anywhere_is_gone_on_with_and_sends_each_once(
    tmp_path: Path, when: str
) -> None:
    for line in itertools.count(2):
        operation = with_results(tmp_path / str(line))
        ids = [*await failed(operation, 2), *await failed(operation, 2, "mail")]
        path = operation.write_down(await operation.plan(RETRY, ids=",".join(ids)))
        if not await killed(operation, path, line, when):
            break
        await operation.clock.sleep(20.0)
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, f"{line}: {ran.told()}"
        await settled(operation)
        assert [operation.fleet.ledger.started[one] for one in ids] == [2, 2, 2, 2]
    assert line > 6


async def test_one_whose_answer_is_lost_is_sent_once(operation: Operation) -> None:
    ids = await failed(operation, 3)
    plan = await operation.plan(RETRY, ids=",".join(ids))

    def away() -> None:
        operation.broker.after_an_effect = lambda: None
        raise BrokerUnreachable("It went away.")

    operation.broker.after_an_effect = away
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "3 tasks sent to default"
    await settled(operation)
    assert {operation.fleet.ledger.started[one] for one in ids} == {2}


async def test_results_that_are_away_end_it_and_another_run_sends_the_rest(
    operation: Operation,
) -> None:
    ids = await failed(operation, 3)
    plan = await operation.plan(RETRY, ids=",".join(ids))
    assert operation.results is not None
    operation.results.says = "The results are away."
    ran = await operation.execute(plan)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "The results are away.; what went to default" in ran.end.says
    operation.results.says = ""
    assert (await operation.run(RETRY, ids=",".join(ids))).end.says == "3 tasks sent to default"


async def test_an_undo_says_that_it_cannot_be_taken_back(operation: Operation) -> None:
    path = operation.write_down(await operation.plan(RETRY, ids=(await failed(operation))[0]))
    assert await killed(operation, path, 6, "after")
    ran = await operation.take_up(path, undo=True)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert "kept from that by celery-ops task revoke" in ran.end.says


# --- in a file ----------------------------------------------------------------------------------

HEAD = "name: mine\nsummary: Mine.\nrisk: medium\nsteps:\n  - retry: tasks\n"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("    ended: any\n", "needs one of the keys 'ids', 'task' and 'filter': which tasks"),
        ("    ids: a\n    ended: some\n", "ended of retry (step 1) is one of failed, any"),
        ("    filter: retrys > 2\n", "did you mean retries?"),
        ("    task: a\n    limit: 0\n", "must be at least 1"),
        ("    task: a\n    rate: fast\n", "not a rate"),
        ("    task: a\n    timeout: 3s\n", "unknown key 'timeout'"),
    ],
)
def test_what_is_wrong_with_a_step_is_found_when_its_file_is_read(keys: str, says: str) -> None:
    with pytest.raises(InvalidDocument) as wrong:
        loads(HEAD + keys, "mine.yaml")
    assert says in str(wrong.value)


async def test_a_step_of_ones_own_sends_what_its_values_say(operation: Operation) -> None:
    ids = await failed(operation, 3)
    operation.write_runbook("mine", f"{HEAD}    task: {FAILS}\n    limit: 2\n    to: mail\n")
    ran = await operation.run("mine")
    assert ran.end.says == "2 tasks sent to mail"
    await settled(operation)
    assert [operation.fleet.ledger.started[one] for one in ids] == [2, 2, 1]
