"""Runs on the stand-in fleet, under a virtual clock: what is done, in which order, what is owed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.model import Holder, WorkerState
from celery_ops.ports import Completed, Question
from celery_ops.runbook.cleanup import PATIENCE
from celery_ops.runbook.events import Ending, EventKind, Result, RunState
from celery_ops.runbook.inbox import Message, Word
from celery_ops.runbook.worker_verbs import GIVE_BACK_TIMEOUT
from tests.runbook.operation import OPERATOR, Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Command
    from tests.standin.fleet import SimulatedWorker


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return Operation(tmp_path)


def four_workers(operation: Operation, long: float = 0.0) -> list[SimulatedWorker]:
    """Four workers on two queues, busy; the first with a task of `long` seconds."""
    fleet = operation.fleet
    workers = [fleet.add_worker("w1@web1", queues=("default", "mail"))]
    if long:
        fleet.send("default", long)
    workers += [
        fleet.add_worker(f"w{number}@web1", queues=("default", "mail")) for number in range(2, 5)
    ]
    for number in range(30):
        fleet.send("default" if number % 2 else "mail", 3.0)
    return workers


async def test_a_rolling_restart_renews_every_worker_and_loses_nothing(
    operation: Operation,
) -> None:
    workers = four_workers(operation)
    pids = {worker.name: worker.pid for worker in workers}
    operation.fleet.watch_consumers()
    ran = await operation.run("rolling-restart", hold="5s")
    assert ran.ending is Ending.DONE, ran.told()
    assert ran.end.state is RunState.SUCCEEDED
    assert all(worker.pid != pids[worker.name] for worker in workers)
    assert not operation.fleet.lost
    assert not operation.fleet.ledger.twice
    assert min(operation.fleet.least_consumers.values()) >= 3
    assert await operation.broker.taken() == ()
    assert await operation.broker.holder() is None


async def test_the_intent_stands_before_its_effect_and_says_how_to_undo_it(
    operation: Operation,
) -> None:
    four_workers(operation)
    ran = await operation.run("drain-worker", workers="w1@web1")
    assert ran.ending is Ending.DONE, ran.told()
    kinds = [event.event for event in ran.events]
    assert kinds.index(EventKind.INTENT) < kinds.index(EventKind.RESULT)
    (intent,) = [event for event in ran.events if event.event is EventKind.INTENT]
    assert intent.intent == "cancel_consumer default, mail"
    assert intent.undo is not None
    assert "add_consumer" in intent.undo


async def test_a_drained_worker_is_recorded_and_resumed_exactly(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    before = dict(worker.consuming)
    ran = await operation.run("drain-worker", workers="w1@web1")
    assert ran.end.report is not None
    assert [owed.mend for owed in ran.end.report.left_drained] == [
        "celery-ops worker resume w1@web1"
    ]
    assert worker.consuming == {}
    (record,) = await operation.broker.taken()
    assert (record.worker, record.operator) == ("w1@web1", OPERATOR)
    assert record.meant
    ran = await operation.run("resume-worker", workers="w1@web1")
    assert ran.ending is Ending.DONE, ran.told()
    assert worker.consuming == before
    assert await operation.broker.taken() == ()


async def test_resuming_everybody_touches_only_those_that_are_owed_something(
    operation: Operation,
) -> None:
    four_workers(operation)
    await operation.run("drain-worker", workers="w3@web1")
    ran = await operation.run("resume-worker")
    assert ran.ending is Ending.DONE, ran.told()
    assert {target for target, _ in ran.effects} == {"w3@web1"}
    assert (await operation.plan("resume-worker")).refusals == (
        "there is nothing to do: nothing is owed to any of these workers",
    )


async def test_a_worker_that_does_not_come_back_needs_a_human(operation: Operation) -> None:
    workers = four_workers(operation)
    workers[0].faults.dies_at_start = True
    ran = await operation.run("rolling-restart", hold="5s", workers="w1@web1,w2@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.failed == ("w1@web1",)
    assert ran.end.report.not_started == ("w2@web1",)
    assert [owed.mend for owed in ran.end.report.owed] == ["celery-ops worker start w1@web1"]
    assert "w1@web1" in ran.end.says
    assert not any(record.kind == "queues" for record in await operation.broker.taken())


async def test_a_stop_that_never_reached_its_host_is_not_taken_for_one(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)
    before = dict(worker.consuming)
    operation.hosts.swallowing.add("web1")
    ran = await operation.run("rolling-restart", hold="5s", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "did not stop: not within 2m: its supervisor says running" in ran.end.says
    assert worker.consuming == before
    assert await operation.broker.taken() == ()


async def test_a_host_that_is_gone_for_good_is_waited_for_once(operation: Operation) -> None:
    worker, *_ = four_workers(operation)

    async def the_host_goes() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        operation.hosts.unreachable.add("web1")

    began = operation.clock.monotonic()
    ran = await operation.run_while(
        "rolling-restart", the_host_goes, hold="5s", workers="w1@web1", drain_timeout="1m"
    )
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert "celery-ops worker start w1@web1" in [owed.mend for owed in ran.end.report.owed]
    waited = operation.clock.monotonic() - began
    assert waited < 60 + 120 + GIVE_BACK_TIMEOUT + PATIENCE + 5

    operation.hosts.unreachable.clear()
    for owed in ran.end.report.owed:
        *_, verb, name = owed.mend.split()
        mended = await operation.run(f"{verb}-worker", workers=name)
        assert mended.ending is Ending.DONE, mended.told()
    assert worker.consuming
    assert await operation.broker.taken() == ()


async def test_workers_that_failed_together_are_put_right_together(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    shipped = await operation.plan("rolling-restart")
    in_pairs = shipped.source.replace("name: rolling-restart", "name: in-pairs")
    operation.write_runbook("in-pairs", in_pairs.replace("canary: 1 ", "canary: 2 "))

    async def the_host_goes() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        operation.hosts.unreachable.add("web1")

    began = operation.clock.monotonic()
    ran = await operation.run_while(
        "in-pairs", the_host_goes, drain_timeout="1m", batch="2", keep_available="50%"
    )
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert len(ran.end.report.failed) == 2, ran.told()
    assert operation.clock.monotonic() - began < 120 + GIVE_BACK_TIMEOUT + PATIENCE + 30


async def test_the_way_out_is_told_with_what_a_supervisor_refused(operation: Operation) -> None:
    four_workers(operation)
    operation.hosts.refuses = CommandFailed("sudo was refused.", fix="Allow it with visudo.")
    ran = await operation.run("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "sudo was refused. Allow it with visudo." in ran.end.says


async def test_what_could_not_be_started_again_is_not_stopped(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    worker.service.startable = False
    worker.service.says = "running; masked"
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert "w1@web1 could not be started: running; masked" in plan.refusals
    assert not (await operation.plan("stop-worker", workers="w1@web1")).refusals


async def test_a_drain_that_does_not_end_is_given_back(operation: Operation) -> None:
    worker, *_ = four_workers(operation, long=7200.0)
    before = dict(worker.consuming)
    ran = await operation.run("rolling-restart", drain_timeout="2m", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "not within 2m" in ran.end.says
    assert worker.consuming == before
    assert await operation.broker.taken() == ()


async def test_a_worker_that_answers_ok_and_goes_on_consuming_is_found_out(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)
    worker.faults.ignores_cancel = True
    ran = await operation.run("rolling-restart", drain_timeout="1m", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "still consumes default, mail" in ran.end.says
    assert set(worker.consuming) == {"default", "mail"}
    assert await operation.broker.taken() == ()


async def test_a_drain_that_cannot_be_proved_is_not_believed(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    worker.faults.silent_to = frozenset({Question.RESERVED})
    ran = await operation.run("rolling-restart", drain_timeout="1m", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "reserved" in ran.end.says
    assert set(worker.consuming) == {"default", "mail"}


async def test_taking_a_queues_only_consumer_is_refused_when_planned(
    operation: Operation,
) -> None:
    operation.fleet.add_worker("only@web1", queues=("rare",))
    four_workers(operation)
    plan = await operation.plan("rolling-restart", workers="only@web1")
    assert any("queue rare would keep 0" in refusal for refusal in plan.refusals)
    assert any("allow_gap=rare" in refusal for refusal in plan.refusals)
    allowed = await operation.plan("rolling-restart", workers="only@web1", allow_gap="rare")
    assert not allowed.refusals
    assert any("nobody consumes rare" in hazard for hazard in allowed.hazards)


async def test_the_guard_is_asked_again_right_before_a_worker_is_taken(
    operation: Operation,
) -> None:
    workers = four_workers(operation)
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert not plan.refusals
    operation.fleet.kill(workers[2])
    operation.fleet.kill(workers[3])
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert "the guard refused" in ran.end.says
    assert ran.effects == []


async def test_a_second_operator_is_refused_and_told_who_is_at_it(
    operation: Operation, tmp_path: Path
) -> None:
    four_workers(operation)
    other = Operation(tmp_path / "other", operation.fleet, operation.broker, operator="bob@desk")
    holder = Holder("ann@desk", "20261120-025900-ffff", "rolling-restart", operation.clock.now())
    await operation.broker.lease.acquire(holder)
    ran = await other.run("drain-worker", workers="w1@web1")
    assert ran.ending is Ending.LEASE_HELD
    assert "ann@desk" in ran.end.says
    assert ran.effects == []


async def test_an_abort_while_draining_gives_the_queues_back(operation: Operation) -> None:
    worker, *_ = four_workers(operation)

    async def abort() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        assert operation.executor is not None
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    ran = await operation.run_while("rolling-restart", abort, workers="w1@web1")
    assert ran.ending is Ending.ABORTED, ran.told()
    assert ran.end.state is RunState.ABORTED
    assert set(worker.consuming) == {"default", "mail"}
    assert await operation.broker.taken() == ()


async def test_an_abort_during_a_restart_waits_until_the_worker_is_back(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)
    pid = worker.pid

    async def abort() -> None:
        while worker.service is None or worker.service.state != "stopping":
            await operation.clock.sleep(0.05)
        assert operation.executor is not None
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    ran = await operation.run_while("rolling-restart", abort, workers="w1@web1,w2@web1")
    assert ran.ending is Ending.ABORTED, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.done == ("w1@web1",)
    assert ran.end.report.not_started == ("w2@web1",)
    assert worker.pid not in {None, pid}
    assert set(worker.consuming) == {"default", "mail"}
    assert await operation.broker.taken() == ()


async def test_a_second_abort_leaves_what_was_taken_and_says_so(operation: Operation) -> None:
    worker, *_ = four_workers(operation)

    async def abort() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        assert operation.executor is not None
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    ran = await operation.run_while("rolling-restart", abort, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert ran.end.report is not None
    assert [owed.mend for owed in ran.end.report.owed] == ["celery-ops worker resume w1@web1"]


async def test_a_worker_killed_while_it_drains_fails_and_owes_no_queues(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)

    async def kill() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        operation.fleet.kill(worker)

    ran = await operation.run_while("rolling-restart", kill, workers="w1@web1", drain_timeout="1m")
    assert ran.ending in {Ending.STOPPED, Ending.NEEDS_HUMAN}, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.failed == ("w1@web1",)


async def test_a_duplicated_node_name_is_refused(operation: Operation) -> None:
    four_workers(operation)
    operation.fleet.add_worker("w1@web1", queues=("default",), unit="other")
    plan = await operation.plan("drain-worker", workers="w1@web1")
    assert any("two processes share this name" in refusal for refusal in plan.refusals)


async def test_a_worker_that_purges_at_its_start_is_refused(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    worker.service.arguments = ("celery", "-A", "app", "worker", "--purge")
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert any("purge" in refusal for refusal in plan.refusals)


async def test_a_lossy_stop_path_is_named_in_the_plan_and_the_drain_keeps_the_tasks(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    worker.service.signals_children = True
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert any("signals the pool's children" in hazard for hazard in plan.hazards)
    assert not plan.refusals
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert not operation.fleet.lost


TOGETHER = """
name: together
summary: Restarts workers at once, drained or not.
risk: medium
steps:
  - roll: "*"
    canary: 0
    batch: 4
    keep_available: 0
    steps:
      - drain: worker
        timeout: 1m
        on_timeout: ON_TIMEOUT
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online]
      timeout: 1m
"""


def two_workers(operation: Operation, *, cut_off: bool = True) -> None:
    """Each with a queue of its own name; a stop is received by what they run, too, if `cut_off`."""
    operation.write_runbook("together", TOGETHER.replace("ON_TIMEOUT", "fail"))
    for name in ("w1", "w2"):
        worker = operation.fleet.add_worker(f"{name}@web1", queues=(name,))
        assert worker.service is not None
        worker.service.signals_children = cut_off


@pytest.mark.parametrize("tenths", range(10, 100, 2), ids=lambda tenths: f"in-{tenths / 10}-s")
async def test_no_stop_meets_an_eta_task_whenever_it_is_due(
    operation: Operation, tenths: int
) -> None:
    """Drained is one of the workers after 2 s, the other after 6."""
    two_workers(operation)
    operation.hosts.seconds = 0.5
    operation.fleet.send("w1", eta=tenths / 10)
    operation.fleet.send("w2", 4.0)
    ran = await operation.run("together")
    assert ran.ending is Ending.DONE, ran.told()
    assert not operation.fleet.lost, ran.told()
    assert not operation.fleet.ledger.twice


@pytest.mark.parametrize("cut_off", [True, False], ids=["cut-off", "waited-for"])
async def test_a_task_that_outlasts_the_drain_of_the_others_is_waited_for(
    operation: Operation, cut_off: bool
) -> None:
    """Where a stop waits for what runs, it does so for a while only."""
    two_workers(operation, cut_off=cut_off)
    worker = operation.fleet.worker("w1@web1")
    assert worker.service is not None
    worker.service.stop_grace = 5.0
    operation.fleet.send("w1", 20.0, eta=4.0)
    operation.fleet.send("w2", 6.0)
    ran = await operation.run("together")
    assert ran.ending is Ending.DONE, ran.told()
    assert not operation.fleet.lost, ran.told()


@pytest.mark.parametrize(
    ("cut_off", "eta"), [(True, 60.0), (False, 4.0)], ids=["due-later", "warm-stop"]
)
async def test_an_eta_task_that_no_stop_can_meet_is_given_back_and_not_waited_for(
    operation: Operation, cut_off: bool, eta: float
) -> None:
    two_workers(operation, cut_off=cut_off)
    began = operation.clock.monotonic()
    operation.fleet.send("w1", eta=eta)
    ran = await operation.run("together")
    assert ran.ending is Ending.DONE, ran.told()
    stopped = next(event for event in ran.events if "stop supervisord" in (event.intent or ""))
    assert (stopped.at - ran.events[0].at).total_seconds() < 3
    assert not operation.fleet.lost
    await operation.clock.sleep(began + eta + 2 - operation.clock.monotonic())
    operation.fleet.settle()
    assert operation.fleet.ledger.ended.total() == operation.fleet.ledger.sent


@pytest.mark.parametrize(
    ("silent_to", "says"),
    [
        (Question.SCHEDULED, "its ETA tasks are unknown, and a stop cuts off what runs"),
        (None, "ETA tasks about to begin, and a stop cuts off what runs"),
    ],
    ids=["unknown", "one-after-the-other"],
)
async def test_who_is_never_safe_to_stop_is_not_stopped_and_goes_on(
    operation: Operation, silent_to: Question | None, says: str
) -> None:
    two_workers(operation)
    worker = operation.fleet.worker("w1@web1")
    if silent_to is None:
        for seconds in range(0, 240, 2):
            operation.fleet.send("w1", 0.1, eta=float(seconds))
    else:
        worker.faults.silent_to = frozenset({silent_to})
    pid = worker.pid
    ran = await operation.run("together")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w1@web1: was not stopped, not drained any more: not within 1m: " in ran.end.says
    assert says in ran.told()
    assert (worker.pid, list(worker.consuming)) == (pid, ["w1"])
    assert not operation.fleet.lost


async def test_who_was_restarted_since_its_drain_is_not_stopped(operation: Operation) -> None:
    two_workers(operation)
    worker, other = operation.fleet.workers
    operation.fleet.send("w2", 10.0)

    async def somebody_restarts_it() -> None:
        while other.consuming:
            await operation.clock.sleep(0.1)
        await operation.clock.sleep(3)
        operation.fleet.kill(worker)
        await operation.clock.sleep(3)
        operation.fleet.send("w1", 30.0)

    ran = await operation.run_while("together", somebody_restarts_it)
    assert ran.ending is Ending.STOPPED, ran.told()
    says = "w1@web1: was not stopped, not drained any more: was restarted by somebody else"
    assert says in ran.end.says
    assert not operation.fleet.lost
    assert await operation.broker.taken() == ()


async def test_a_command_that_takes_a_worker_waits_for_its_eta_tasks_too(
    operation: Operation,
) -> None:
    two_workers(operation)
    restart = "- restart: worker\n        timeout: 1m"
    command = "- run: [systemctl, restart, it]\n        takes: worker\n        timeout: 5s"
    text = TOGETHER.replace("ON_TIMEOUT", "fail")
    assert restart in text
    operation.write_runbook("together", text.replace(restart, command))
    worker = operation.fleet.worker("w1@web1")
    met: list[tuple[str, int]] = []

    def restarts(command: Command) -> Completed:
        met.append((str(command), len(worker.active)))
        return Completed(0, b"", b"", 0.1)

    operation.hosts.programs["systemctl"] = restarts
    operation.fleet.send("w1", 3.0, eta=4.0)
    operation.fleet.send("w2", 3.0)
    await operation.run("together")
    assert met == [("systemctl restart it", 0)] * 2


async def test_a_drain_that_need_not_end_is_not_waited_for_again(operation: Operation) -> None:
    two_workers(operation, cut_off=False)
    operation.write_runbook("together", TOGETHER.replace("ON_TIMEOUT", "proceed"))
    operation.fleet.send("w1", 90.0)
    ran = await operation.run("together")
    assert ran.ending is Ending.DONE, ran.told()
    results = [says for _, _, says in ran.results("w1@web1")]
    assert results[0].startswith("going on; not drained: not within 1m")


async def test_a_stop_without_a_drain_is_refused_where_it_would_lose_tasks(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    worker.service.signals_children = True
    operation.write_runbook(
        "blunt",
        """
name: blunt
summary: Restarts without a drain.
risk: medium
preflight:
  - doctor: [stop-loses-tasks]
steps:
  - restart: w1@web1
    timeout: 1m
""",
    )
    plan = await operation.plan("blunt")
    assert any("running tasks are lost" in refusal for refusal in plan.refusals)
    assert any("running tasks will be LOST" in hazard for hazard in plan.hazards)


@pytest.mark.parametrize(
    ("gives_back", "says"),
    [(False, "celery-ops runbook restore-orphans"), (True, "the broker has given it back")],
)
async def test_a_stop_that_had_to_kill_is_a_failure_and_the_worker_runs_again(
    operation: Operation, gives_back: bool, says: str
) -> None:
    operation.broker.gives_back = gives_back
    worker, *_ = four_workers(operation)
    worker.faults.killed_at_stop = True
    ran = await operation.run("rolling-restart", workers="w1@web1")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "killed at its stop" in ran.end.says
    assert says in ran.end.says
    snapshot = await operation.look()
    found = snapshot.worker("w1@web1")
    assert found is not None
    assert found.state is WorkerState.ONLINE


async def test_another_incarnation_than_planned_is_not_stopped(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    plan = await operation.plan("stop-worker", workers="w1@web1")
    does = [action.does for step in plan.steps for action in step.actions]
    assert any(f"only while {worker.service.identity} runs" in line for line in does)


async def test_a_stolen_lease_stops_the_run_before_the_next_effect(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)

    async def steal() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        holder = Holder("bob@desk", "x", "drain-worker", operation.clock.now())
        operation.broker.lease.steal(holder)

    ran = await operation.run_while("rolling-restart", steal, workers="w1@web1")
    assert ran.ending is Ending.NEEDS_HUMAN, ran.told()
    assert "bob@desk" in ran.end.says
    intents = [intent for target, intent in ran.effects if target == "w1@web1"]
    assert not any("stop" in (intent or "") for intent in intents[1:])


async def test_a_lease_that_only_ran_out_is_taken_again(operation: Operation) -> None:
    worker, *_ = four_workers(operation)

    async def expire() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        operation.broker.lease.forget()

    ran = await operation.run_while("rolling-restart", expire, workers="w1@web1", hold="1s")
    assert ran.ending is Ending.DONE, ran.told()
    assert EventKind.LEASE_LOST in [event.event for event in ran.events]


async def test_verification_must_hold_without_a_break(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    assert worker.service is not None
    ran = await operation.run("rolling-restart", hold="20s", workers="w1@web1")
    (verified,) = [
        event
        for event in ran.events
        if event.event is EventKind.RESULT and event.step and "verify" in event.step
    ]
    (restarted,) = [
        event
        for event in ran.events
        if event.event is EventKind.RESULT
        and event.outcome
        and event.outcome.says.startswith("started")
    ]
    assert (verified.at - restarted.at).total_seconds() >= 20


async def test_a_pause_keeps_the_next_batch_waiting(operation: Operation) -> None:
    first, second, *_ = four_workers(operation)

    async def pause() -> None:
        while first.consuming:
            await operation.clock.sleep(0.1)
        assert operation.executor is not None
        operation.executor.brake.hear(Message(Word.PAUSE, "ann@desk"))
        await operation.clock.sleep(1800.0)
        assert set(second.consuming) == {"default", "mail"}
        operation.executor.brake.hear(Message(Word.CONTINUE, "ann@desk"))
        await operation.clock.sleep(1e6)

    ran = await operation.run_while("rolling-restart", pause, workers="w1@web1,w2@web1", hold="1s")
    assert ran.ending is Ending.DONE, ran.told()
    kinds = [event.event for event in ran.events]
    assert kinds.index(EventKind.PAUSED) < kinds.index(EventKind.CONTINUED)


async def test_a_broker_that_is_away_for_a_while_does_not_end_the_run(
    operation: Operation,
) -> None:
    worker, *_ = four_workers(operation)

    async def cut() -> None:
        while worker.consuming:
            await operation.clock.sleep(0.1)
        operation.broker.is_down = True
        await operation.clock.sleep(8.0)
        operation.broker.is_down = False
        await operation.clock.sleep(1e6)

    ran = await operation.run_while("rolling-restart", cut, workers="w1@web1", hold="1s")
    assert ran.ending is Ending.DONE, ran.told()
    assert not operation.fleet.lost


async def test_a_check_in_the_steps_stops_before_anything_was_done(operation: Operation) -> None:
    four_workers(operation)
    operation.write_runbook(
        "checked",
        """
name: checked
summary: Checks first.
risk: low
steps:
  - check: fleet.online == 17
    message: "Seventeen were expected."
  - drain: w1@web1
    timeout: 1m
""",
    )
    ran = await operation.run("checked")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "Seventeen were expected." in ran.end.says
    assert ran.effects == []


async def test_a_command_of_the_runbook_is_run_on_the_workers_host(operation: Operation) -> None:
    four_workers(operation)
    operation.write_runbook(
        "with-run",
        """
name: with-run
summary: Runs something.
risk: low
steps:
  - wait: for the workers
    until: fleet.online == 4
    timeout: 10s
  - run: [echo, "hello; rm -rf /"]
    on: web1
    timeout: 5s
""",
    )
    plan = await operation.plan("with-run")
    assert plan.irreversible
    ran = await operation.execute(plan)
    assert list(ran.results("web1")), ran.told()


async def test_results_name_who_failed_and_why(operation: Operation) -> None:
    worker, *_ = four_workers(operation)
    worker.faults.ignores_cancel = True
    ran = await operation.run("rolling-restart", drain_timeout="30s", workers="w1@web1")
    failed = [says for _, result, says in ran.results("w1@web1") if result is Result.FAILED]
    assert any("not drained" in says for says in failed)
