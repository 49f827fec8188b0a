"""Giving orphans back on the stand-in fleet: planned, proved again, done, and looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.model import Holder
from celery_ops.ports import GivenBack
from celery_ops.runbook import facts
from celery_ops.runbook.events import Ending, EventKind, Result
from tests.runbook.operation import OPERATOR, Operation
from tests.standin.fleet import Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from celery_ops.model import HeldMessage
    from celery_ops.ports import Fence
    from tests.standin.fleet import SimulatedWorker

NAME = "restore-orphans"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for name in ("a@web1", "b@web1"):
        made.fleet.add_worker(name, queues=("default", "mail"))
    return made


async def killed(operation: Operation, *queues: str) -> SimulatedWorker:
    """A worker that is killed with a message of each of these queues prefetched, a while ago."""
    fleet = operation.fleet
    worker = fleet.add_worker("dying@web1", queues=("nothing",), concurrency=1)
    for number, queue in enumerate(queues):
        message = Message(f"left-{number}", f"app.{queue}", queue, 1.0)
        message.delivered = fleet.clock.now()
        worker.hidden.append(message)
        fleet.ledger.sent += 1
    fleet.kill(worker)
    await fleet.clock.sleep(20.0)
    return worker


async def test_they_go_back_run_once_and_are_seen_to_be_gone(operation: Operation) -> None:
    left = [Message(f"left-{number}", "app.work", "mail", 1.0) for number in range(3)]
    for message in left:
        message.delivered = operation.clock.now()
        operation.fleet.stuck.append((message, 0.0))
    await operation.clock.sleep(20.0)
    plan = await operation.plan(NAME)
    assert plan.refusals == ()
    assert [one.task_id for one in plan.messages] == ["left-0", "left-1", "left-2"]
    assert plan.confirmations[0].question.startswith("Give 3 messages of dead workers back")
    (_, step) = plan.steps
    assert step.says == "restore 3 orphans, each proved again right before"
    (action,) = step.actions
    assert (action.target, action.undo) == ("mail", None)
    assert action.does.startswith("give back 3 messages (3 app.work), the oldest held for 21s: ")
    assert step.evidence == (
        "not among what these hold, as they said twice: a@web1, b@web1",
        "each of these is the process that its supervisor runs: none stops unseen",
    )

    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "3 messages given back"
    assert ran.effects == [("mail", "give back 3 messages that nobody holds")]
    ((_, result, says),) = ran.results("mail")
    assert (result, says) == (Result.DONE, "3 of 3 given back, held no longer, 0 ready in mail")
    await operation.clock.sleep(5.0)
    operation.fleet.settle()
    assert {operation.fleet.ledger.started[one.id] for one in left} == {1}
    assert operation.fleet.stuck == []


async def test_what_is_proved_of_whom_is_told(operation: Operation) -> None:
    worker = operation.fleet.add_worker("c@web1", queues=("mail",), concurrency=1)
    for _ in range(3):
        operation.fleet.send("mail", 1000.0)
    assert worker.service is not None
    worker.service.restarts_itself = False
    while not worker.reserved:
        operation.fleet.send("mail", 1000.0)
    operation.fleet.kill(worker)
    await operation.clock.sleep(20.0)
    plan = await operation.plan(NAME)
    evidence = " ".join(plan.steps[1].evidence)
    assert "c@web1 is stopped: supervisord c on web1: stopped with SIGKILL" in evidence


async def test_with_nothing_to_do_it_says_so(operation: Operation) -> None:
    plan = await operation.plan(NAME)
    says = "there is nothing to do: no held message is proved to be a dead worker's"
    assert plan.refusals == (says,)


async def test_only_the_queues_that_are_named_and_old_enough_are_chosen(
    operation: Operation,
) -> None:
    await killed(operation, "mail", "default", "mail")
    assert len((await operation.plan(NAME, queue="mail")).messages) == 2
    assert len((await operation.plan(NAME, queue="d*")).messages) == 1
    assert len((await operation.plan(NAME, queue="default, mail")).messages) == 3
    assert (await operation.plan(NAME, queue="nope")).refusals[0].startswith("there is nothing")
    assert (await operation.plan(NAME, older_than="1h")).messages == ()
    ran = await operation.run(NAME, queue="mail")
    assert ran.ending is Ending.DONE, ran.told()
    assert [message.queue for message, _ in operation.fleet.stuck] == ["default"]


async def test_what_is_not_proved_is_refused_with_the_reason_and_the_way_out(
    operation: Operation,
) -> None:
    await killed(operation, "mail")
    operation.fleet.bound.add("old@web7")
    (refusal,) = (await operation.plan(NAME)).refusals
    assert refusal == (
        "it is not proved that nobody holds 1 message of mail: old@web7 is bound on the broker "
        "and does not answer; if you know that nobody does: -p vouched=old@web7"
    )
    plan = await operation.plan(NAME, vouched="old@*")
    assert plan.refusals == ()
    assert "you vouch for old@*; no supervisor proves it" in plan.steps[1].evidence
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.stuck == []


async def test_nobodys_word_stands_for_a_worker_that_listens_and_is_silent(
    operation: Operation,
) -> None:
    await killed(operation, "mail")
    operation.fleet.worker("b@web1").faults.hangs = True
    await operation.clock.sleep(10.0)
    (refusal,) = (await operation.plan(NAME, vouched="*")).refusals
    assert "b@web1 has not answered" in refusal
    assert "vouched" not in refusal


async def test_it_is_proved_again_right_before_and_refused_if_it_is_not_any_more(
    operation: Operation,
) -> None:
    await killed(operation, "mail")
    plan = await operation.plan(NAME)
    operation.fleet.worker("b@web1").faults.hangs = True
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "b@web1 has not answered" in ran.end.says
    assert ran.effects == []
    assert len(operation.fleet.stuck) == 1


async def test_what_others_settled_since_the_plan_is_left_to_them(operation: Operation) -> None:
    await killed(operation, "mail", "mail")
    plan = await operation.plan(NAME)
    gone, _ = operation.fleet.stuck.pop()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "1 message given back, 1 of the plan not: settled meanwhile, or left"
    assert gone.id not in operation.fleet.ledger.started

    plan = await operation.plan(NAME)
    assert plan.messages == ()


async def test_if_others_settled_all_of_it_that_is_fine(operation: Operation) -> None:
    await killed(operation, "mail")
    plan = await operation.plan(NAME)
    operation.fleet.stuck.clear()
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says.startswith("nothing was left to give back")
    assert ran.effects == []


async def test_what_was_left_since_the_plan_was_not_agreed_to(operation: Operation) -> None:
    await killed(operation, "mail")
    plan = await operation.plan(NAME)
    late = Message("late", "app.mail", "mail", 1.0)
    late.delivered = operation.clock.now()
    operation.fleet.stuck.append((late, 0.0))
    await operation.clock.sleep(20.0)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert [message.id for message, _ in operation.fleet.stuck] == ["late"]


async def test_a_broker_that_goes_away_in_the_midst_is_looked_at_before_anything_is_said(
    operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await killed(operation, "mail", "mail")
    plan = await operation.plan(NAME)
    restore = operation.broker.restore

    async def half(messages: Sequence[HeldMessage], *, fence: Fence) -> tuple[GivenBack, ...]:
        await restore(messages[:1], fence=fence)
        raise BrokerUnreachable("the connection was reset")

    monkeypatch.setattr(operation.broker, "restore", half)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.STOPPED, ran.told()
    ((_, result, says),) = ran.results("mail")
    assert result is Result.FAILED
    assert says.startswith(
        "the connection was reset in the midst of it; 1 of 2 are held no longer, 1 still lies there"
    )


async def test_whoever_lost_the_lease_gives_nothing_back(operation: Operation) -> None:
    await killed(operation, "mail")
    plan = await operation.plan(NAME)

    async def steal() -> None:
        while operation.broker.lease.held_by is None:
            await operation.clock.sleep(0.05)
        operation.broker.lease.steal(Holder("bob@desk", "r-9", "other", operation.clock.now()))

    ran = await operation.run_while(NAME, steal)
    assert ran.ending is not Ending.DONE
    assert len(operation.fleet.stuck) == 1
    assert plan.messages


async def test_conditions_can_count_orphans(operation: Operation) -> None:
    surveyor = operation.surveyor()
    assert facts.of_fleet(await surveyor.refresh_surely()).orphans == 0
    await killed(operation, "mail", "mail")
    surveyor = operation.surveyor()
    assert facts.of_fleet(await surveyor.refresh_surely()).orphans == 2
    operation.fleet.worker("b@web1").faults.hangs = True
    await surveyor.refresh()
    assert facts.of_fleet(await surveyor.refresh()).orphans is None


async def test_every_event_of_it_is_in_the_journal(operation: Operation) -> None:
    await killed(operation, "mail", "default")
    ran = await operation.run(NAME)
    kinds = [event.event for event in ran.events if event.step == "2"]
    assert kinds == [
        EventKind.PROGRESS,
        *(EventKind.INTENT, EventKind.RESULT) * 2,
    ]
    plan = ran.events[0].plan
    assert plan is not None
    assert OPERATOR in plan.operator
