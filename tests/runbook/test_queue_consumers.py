"""Pausing queues and giving them back, on the stand-in fleet."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import ConsumedQueue
from celery_ops.ports import AddConsumer, CancelConsumer
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word, send
from celery_ops.runbook.queue_consumers import LOOKS_EVERY
from tests.doctor.test_rules import RECORD
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import Finding
    from celery_ops.runbook.journal import Event

MAIL = {"queue": "mail"}
AROUND = """
name: around
summary: Something without a queue's consumers.
risk: low
steps:
  - pause: mail
  - wait: for somebody
    until: fleet.workers == 4
    timeout: 40s
  - wait: for another one
    until: fleet.workers == 5
    timeout: 40s
  - resume: queue
    queue: mail
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    fleet = made.fleet
    fleet.add_worker("w1@web1", queues=("default", "mail"))
    fleet.add_worker("w2@web1", queues=("mail",))
    fleet.add_worker("w3@web1", queues=("default",))
    worker = fleet.worker("w1@web1")
    for declared in (worker.configured["mail"], worker.consuming["mail"]):
        declared |= {"routing_key": "post", "queue_arguments": {"x-max-priority": 9}}
    return made


def consuming(operation: Operation, queue: str) -> list[str]:
    operation.fleet.settle()
    return [one.name for one in operation.fleet.workers if queue in one.consuming]


async def findings(operation: Operation, rule: str) -> list[Finding]:
    return [one for one in (await operation.look()).problems if one.rule == rule]


async def test_a_paused_queue_is_consumed_by_nobody_and_all_else_is(operation: Operation) -> None:
    ran = await operation.run("pause-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.says == "mail is paused: taken from w1@web1, w2@web1"
    assert consuming(operation, "mail") == []
    assert consuming(operation, "default") == ["w1@web1", "w3@web1"]
    sent = {name for one in operation.broker.orders for name in one.to}
    assert sent == {"w1@web1", "w2@web1"}
    assert {one.order for one in operation.broker.orders} == {CancelConsumer("mail")}
    assert ran.end.report is not None
    (left,) = ran.end.report.left_paused
    assert left.says == "mail is paused, taken from w1@web1, w2@web1"
    assert left.mend == "celery-ops queue resume mail"


async def test_all_that_a_worker_said_of_the_queue_is_recorded_and_given_back(
    operation: Operation,
) -> None:
    snapshot = await operation.look()
    worker = snapshot.worker("w1@web1")
    assert worker is not None
    assert worker.consuming is not None
    (said,) = [one for one in worker.consuming.value if one.name == "mail"]
    await operation.run("pause-queue", **MAIL)
    record = operation.broker.records["paused:w1@web1:mail"]
    assert record.queues == (said,)
    assert record.incarnation is not None
    assert worker.incarnation is not None
    assert record.incarnation.same_life_as(worker.incarnation)
    assert json.loads(said.declaration)["queue_arguments"] == {"x-max-priority": 9}
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    given = [one for one in operation.broker.orders if isinstance(one.order, AddConsumer)]
    assert (AddConsumer(said), ("w1@web1",)) in [(one.order, one.to) for one in given]
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]
    assert operation.broker.records == {}


async def test_the_plan_names_who_stops_and_what_waits(operation: Operation) -> None:
    for _ in range(20):
        operation.fleet.send("mail", 600.0)
    plan = await operation.plan("pause-queue", **MAIL)
    assert plan.refusals == ()
    (step,) = [one for one in plan.steps if one.actions]
    assert [one.target for one in step.actions] == ["w1@web1", "w2@web1"]
    assert step.actions[0].does == 'control cancel_consumer {"queue": "mail"} to w1@web1'
    waits, idle = plan.hazards
    assert "4 messages wait in it now, 12 are held by workers, and these run on" in waits
    assert idle == "w2@web1 consumes nothing else meanwhile"


@pytest.mark.parametrize("runbook", ["pause-queue", "drain-queue"])
async def test_a_queue_that_nobody_consumes_is_refused(operation: Operation, runbook: str) -> None:
    ran = await operation.run(runbook, queue="nothing")
    assert ran.ending is Ending.REFUSED
    assert "nobody consumes nothing" in ran.end.says
    assert ran.effects == []


@pytest.mark.parametrize("runbook", ["pause-queue", "drain-queue"])
async def test_a_misspelt_queue_is_refused_with_what_was_meant(
    operation: Operation, runbook: str
) -> None:
    ran = await operation.run(runbook, queue="mial")
    assert ran.ending is Ending.REFUSED
    assert "nobody consumes mial (did you mean mail?)" in ran.end.says


async def test_what_is_not_paused_is_not_resumed(operation: Operation) -> None:
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.REFUSED
    assert "mail is not paused" in ran.end.says


async def test_a_queue_is_not_paused_twice(operation: Operation) -> None:
    first = await operation.run("pause-queue", **MAIL)
    again = await operation.run("pause-queue", **MAIL)
    assert again.ending is Ending.REFUSED
    plan = first.events[0].plan
    assert plan is not None
    assert f"mail is paused already, by run {plan.run}" in again.end.says


async def test_who_cannot_be_asked_may_consume_it(operation: Operation) -> None:
    operation.fleet.worker("w3@web1").faults.hangs = True
    ran = await operation.run("pause-queue", **MAIL)
    assert ran.ending is Ending.REFUSED
    assert "so mail cannot be proved to be paused" in ran.end.says
    assert operation.broker.orders == []


async def test_two_processes_of_one_name_are_told_nothing(operation: Operation) -> None:
    operation.fleet.add_worker("w2@web1", queues=("mail",), unit="other")
    ran = await operation.run("pause-queue", **MAIL)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "w2@web1" in ran.end.says
    assert operation.broker.orders == []


async def test_one_that_is_gone_for_good_is_owed_nothing(operation: Operation) -> None:
    await operation.run("pause-queue", **MAIL)
    worker = operation.fleet.worker("w2@web1")
    operation.fleet.kill(worker)
    operation.fleet.workers.remove(worker)
    assert worker.service is not None
    del operation.fleet.services[worker.service.ref]
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert "w2@web1 is gone: nothing of that name listens" in ran.end.says
    assert operation.broker.records == {}


async def test_one_that_may_come_back_stays_owed(operation: Operation) -> None:
    await operation.run("pause-queue", **MAIL)
    operation.fleet.worker("w2@web1").faults.hangs = True
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert list(operation.broker.records) == ["paused:w2@web1:mail"]
    operation.fleet.worker("w2@web1").faults.hangs = False
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]


async def test_a_dead_worker_does_not_stand_in_the_way(operation: Operation) -> None:
    worker = operation.fleet.worker("w3@web1")
    assert worker.service is not None
    worker.service.restarts_itself = False
    operation.fleet.kill(worker)
    ran = await operation.run("pause-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()


async def test_a_worker_that_goes_on_consuming_gets_all_given_back(operation: Operation) -> None:
    operation.fleet.worker("w2@web1").faults.ignores_cancel = True
    ran = await operation.run("pause-queue", **MAIL, timeout="20s")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w2@web1 still consumes it" in ran.end.says
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]
    assert operation.broker.records == {}


async def test_what_cannot_be_given_back_stays_owed_and_needs_a_human(
    operation: Operation,
) -> None:
    await operation.run("pause-queue", **MAIL)
    operation.fleet.worker("w2@web1").faults.ignores_add = True
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert list(operation.broker.records) == ["paused:w2@web1:mail"]
    assert ran.end.report is not None
    (owed,) = ran.end.report.owed
    assert owed.says == "mail is paused, taken from w2@web1"
    assert consuming(operation, "mail") == ["w1@web1"]


async def test_a_worker_that_was_restarted_consumes_it_by_itself_and_that_is_told(
    operation: Operation,
) -> None:
    operation.fleet.send("mail", 600.0)
    await operation.run("pause-queue", **MAIL)
    operation.fleet.send("mail", 600.0)
    (finding,) = await findings(operation, "queue-paused")
    assert "1 message waits" in finding.says
    assert finding.fix == "celery-ops queue resume mail"
    assert await findings(operation, "queue-without-consumer") == []
    assert await findings(operation, "left-drained") == []
    operation.fleet.kill(operation.fleet.worker("w2@web1"))
    await operation.clock.sleep(5)
    (finding,) = await findings(operation, "queue-paused")
    assert "but w2@web1 consumes it again" in finding.says
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert "w2@web1 was restarted: it consumes the queue by itself" in ran.end.says
    added = [one.to for one in operation.broker.orders if isinstance(one.order, AddConsumer)]
    assert added == [("w1@web1",)]
    assert operation.broker.records == {}


async def test_paused_again_by_another_run_it_is_taken_from_the_new_life(
    operation: Operation,
) -> None:
    await operation.run("pause-queue", **MAIL)
    operation.fleet.kill(operation.fleet.worker("w2@web1"))
    await operation.clock.sleep(5)
    ran = await operation.run("pause-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert consuming(operation, "mail") == []
    assert {one.run[-4:] for one in operation.broker.records.values()} == {"0001", "0002"}
    given = await operation.run("resume-queue", **MAIL)
    assert given.ending is Ending.DONE, given.told()
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]


async def test_only_what_one_run_has_taken_is_given_back_where_it_is_named(
    operation: Operation,
) -> None:
    await operation.run("pause-queue", **MAIL)
    operation.fleet.kill(operation.fleet.worker("w2@web1"))
    await operation.clock.sleep(5)
    await operation.run("pause-queue", **MAIL)
    first = operation.broker.records["paused:w1@web1:mail"].run
    ran = await operation.run("resume-queue", **MAIL, run=first)
    assert ran.ending is Ending.DONE, ran.told()
    assert list(operation.broker.records) == ["paused:w2@web1:mail"]


async def test_who_joins_while_a_run_keeps_a_queue_paused_is_paused_too(
    operation: Operation,
) -> None:
    operation.write_runbook("around", AROUND)
    seen: list[list[str]] = []

    async def joins() -> None:
        await operation.clock.sleep(5)
        operation.fleet.add_worker("w4@web1", queues=("mail", "default"))
        await operation.clock.sleep(2 * LOOKS_EVERY)
        seen.append(consuming(operation, "mail"))
        operation.fleet.add_worker("w5@web1", queues=("default",))

    ran = await operation.run_while("around", joins)
    assert ran.ending is Ending.DONE, ran.told()
    assert seen == [[]]
    assert any("w4@web1 had begun to consume it" in says for _, _, says in ran.results("mail"))
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1", "w4@web1"]
    assert operation.broker.records == {}


async def test_who_is_restarted_while_a_run_keeps_a_queue_paused_is_paused_again(
    operation: Operation,
) -> None:
    operation.write_runbook("around", AROUND)
    seen: list[list[str]] = []

    async def restarts() -> None:
        await operation.clock.sleep(5)
        operation.fleet.kill(operation.fleet.worker("w2@web1"))
        await operation.clock.sleep(10)
        seen.append(consuming(operation, "mail"))
        operation.fleet.add_worker("w4@web1", queues=("default",))
        await operation.clock.sleep(2)
        operation.fleet.add_worker("w5@web1", queues=("default",))

    ran = await operation.run_while("around", restarts)
    assert ran.ending is Ending.DONE, ran.told()
    assert seen == [[]]
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]


async def test_an_abort_gives_back_what_was_paused(operation: Operation) -> None:
    operation.write_runbook("around", AROUND)
    path = operation.write_down(await operation.plan("around"))

    def then(event: Event) -> None:
        if event.event is EventKind.PROGRESS and event.step == "2":
            send(path.with_suffix(".inbox"), Message(Word.ABORT, "ann@desk"))

    ran = await operation.take_up(path, then=then)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]
    assert operation.broker.records == {}


async def test_an_undo_gives_it_back(operation: Operation) -> None:
    path = operation.write_down(await operation.plan("pause-queue", **MAIL))
    await operation.take_up(path)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert undone.end.state is RunState.UNDONE
    assert undone.end.says == "taken back: mail"
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"]
    assert operation.broker.records == {}


async def test_what_somebody_else_gave_back_meanwhile_is_taken_anew(
    operation: Operation, tmp_path: Path
) -> None:
    path = operation.write_down(await operation.plan("pause-queue", **MAIL))
    ran = await operation.take_up(path)
    (told,) = [one for one in ran.events if one.event is EventKind.RESULT]
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(text[: told.seq]))  # it died before it could say that it ended
    bob = Operation(tmp_path / "bob", operation.fleet, operation.broker, operator="bob@desk")
    adopted = await bob.run("resume-queue", **MAIL)
    assert adopted.ending is Ending.DONE, adopted.told()
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert "was given back by somebody else" in ran.told()
    assert consuming(operation, "mail") == []
    assert len(operation.broker.records) == 2


async def test_a_drained_worker_gets_it_with_its_other_queues(operation: Operation) -> None:
    await operation.run("pause-queue", **MAIL)
    drained = await operation.run("drain-worker", workers="w1@web1")
    assert drained.ending is Ending.DONE, drained.told()
    ran = await operation.run("resume-queue", **MAIL)
    assert ran.ending is Ending.DONE, ran.told()
    assert "w1@web1 is drained, and gets it with its other queues" in ran.end.says
    assert consuming(operation, "mail") == ["w2@web1"]
    await operation.run("resume-worker", workers="w1@web1")
    assert sorted(operation.fleet.worker("w1@web1").consuming) == ["default", "mail"]
    assert operation.broker.records == {}


async def test_a_worker_with_nothing_else_to_consume_is_owed_nothing_else(
    operation: Operation,
) -> None:
    await operation.run("pause-queue", **MAIL)
    ran = await operation.run("resume-worker", workers="w2@web1")
    assert ran.ending is Ending.REFUSED, ran.told()
    snapshot = await operation.look()
    worker = snapshot.worker("w2@web1")
    assert worker is not None
    assert worker.paused == ("mail",)
    assert worker.says.startswith("paused: mail")


async def test_a_restart_brings_back_what_is_paused_and_the_plan_says_so(
    operation: Operation,
) -> None:
    await operation.run("pause-queue", **MAIL)
    plan = await operation.plan("rolling-restart", workers="w1@web1", hold="1s", allow_gap="mail")
    assert "w1@web1: mail is paused, and its next life consumes it again by itself" in plan.hazards
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert consuming(operation, "mail") == ["w1@web1"]


async def test_a_broker_that_is_away_at_the_end_is_tried_again(operation: Operation) -> None:
    operation.write_runbook("around", AROUND)

    async def goes_away() -> None:
        await operation.clock.sleep(41.5)
        operation.broker.is_down = True
        await operation.clock.sleep(20)
        operation.broker.is_down = False

    ran = await operation.run_while("around", goes_away)
    assert ran.ending in {Ending.STOPPED, Ending.UNREACHABLE}, ran.told()
    assert consuming(operation, "mail") == ["w1@web1", "w2@web1"], ran.told()
    assert operation.broker.records == {}


def test_a_record_of_a_paused_queue_tells_what_it_is_and_how_it_is_mended() -> None:
    paused = replace(RECORD, kind="paused", queues=(ConsumedQueue("two words", "{}"),))
    assert paused.key == "paused:a@web1:two words"
    assert paused.what == "the paused queue two words"
    assert paused.mend == "celery-ops queue resume 'two words'"
