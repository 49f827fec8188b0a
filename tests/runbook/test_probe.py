"""`probe`: its end is proved, or it is no success; and what was switched on for it is off again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import Probe
from celery_ops.model import Holder
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, Outcome, Result, RunState
from celery_ops.runbook.journal import has_ended
from celery_ops.runbook.recall import Act
from celery_ops.runbook.task_events import left_on
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import killed
from tests.standin.broker import StandinResults
from tests.standin.fleet import declaration

if TYPE_CHECKING:
    from pathlib import Path

RUNBOOK = """
name: smoke
summary: Prove that queues work.
risk: low
params:
  queue: {type: text, default: configured}
steps:
  - probe: ${{ params.queue }}
    timeout: 10s
"""
ROLL = """
name: probed
summary: Restart workers, and prove their queues.
risk: low
steps:
  - roll: "*"
    batch: 1
    canary: 0
    keep_available: 0
    settle: 0s
    on_fail: stop
    steps:
      - restart: worker
      - probe: [default, own]
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 5s
"""


def probed(directory: Path) -> Operation:
    """Two workers that know the probe, and a runbook for it."""
    made = Operation(directory)
    for name, queues in (("w1@web1", ("default", "mail")), ("w2@web1", ("default",))):
        worker = made.fleet.add_worker(name, queues=queues)
        worker.registered = ("app.work", "app.ping")
    made.fleet.tasks["app.ping"] = (0.2, "")
    made.write_runbook("smoke", RUNBOOK)
    made.write_runbook("probed", ROLL)
    return made


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return probed(tmp_path)


def with_results(operation: Operation) -> StandinResults:
    operation.results = StandinResults(operation.fleet)
    return operation.results


def switched(ran: Ran) -> list[tuple[str | None, str | None]]:
    """What was done about task events, in order."""
    return [one for one in ran.effects if one[1] in {"enable_events", "disable_events"}]


async def test_its_end_is_proved_by_its_result(operation: Operation) -> None:
    with_results(operation)
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.DONE, ran.told()
    ((_, result, says),) = ran.results("mail")
    assert result is Result.DONE
    assert says.startswith("ended at w1@web1, ")
    assert says.endswith("after it was sent")
    assert switched(ran) == []


async def test_its_end_is_proved_by_task_events_which_are_off_again_afterwards(
    operation: Operation,
) -> None:
    operation.fleet.worker("w2@web1").sends_task_events = True
    ran = await operation.run("smoke")
    assert ran.ending is Ending.DONE, ran.told()
    ((_, result, says),) = ran.results("default")
    assert (result, "200ms of running" in says) == (Result.DONE, True)
    assert switched(ran) == [
        ("w1@web1", "enable_events"),
        ("w2@web1", "enable_events"),
        ("w1@web1", "disable_events"),
    ]
    assert [one.sends_task_events for one in operation.fleet.workers] == [False, True]


async def test_a_task_that_fails_fails_the_run_and_says_why(operation: Operation) -> None:
    operation.fleet.tasks["app.ping"] = (0.2, "ValueError('no database')")
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.STOPPED
    assert "failed at w1@web1" in ran.end.says
    assert "ValueError('no database')" in ran.end.says


async def test_what_nobody_tells_of_is_no_success(operation: Operation) -> None:
    worker = operation.fleet.worker("w1@web1")
    worker.faults.has_no_events = True
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.STOPPED
    ((_, result, says),) = ran.results("mail")
    assert result is Result.UNKNOWN
    assert "was taken from mail, and how it ended is not known" in says
    assert "names no result backend that is read here (`results`)" in says
    assert "w1@web1 could not be switched on (it replied: event dispatcher unavailable)" in says


async def test_a_backlog_is_told_with_what_is_ahead(operation: Operation) -> None:
    with_results(operation)
    for _ in range(30):
        operation.fleet.send("mail", 60.0)
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.STOPPED
    assert "not within 10s: it still waits in mail, behind 22 messages" in ran.end.says
    await operation.clock.sleep(3600)
    operation.fleet.settle()
    (id_,) = [one for one in operation.fleet.results if not one.startswith("task-")]
    assert operation.fleet.ledger.started[id_] == 0, "it expired"


async def test_one_that_is_held_is_told_with_by_whom(operation: Operation) -> None:
    for _ in range(2):
        operation.fleet.send("mail", 60.0)
    ran = await operation.run("smoke", queue="mail")
    assert "not within 10s: it waits for a free slot at w1@web1" in ran.end.says
    operation.fleet.tasks["app.ping"] = (90.0, "")
    await operation.clock.sleep(300)
    ran = await operation.run("smoke", queue="mail")
    assert "not within 10s: it runs at w1@web1" in ran.end.says


async def test_a_queue_that_nobody_consumes_is_refused_before_anything_is_sent(
    operation: Operation,
) -> None:
    ran = await operation.run("smoke", queue="nobodys")
    assert ran.ending is Ending.REFUSED
    assert "nobody consumes nobodys: a probe would not be taken from it" in ran.end.says
    assert "nobodys" not in operation.fleet.queues


async def test_a_queue_whose_consumer_died_meanwhile_is_a_failure_at_once(
    operation: Operation,
) -> None:
    operation.write_runbook(
        "smoke", RUNBOOK.replace("steps:", "steps:\n  - drain: w1@web1\n    timeout: 9s")
    )
    ran = await operation.run("smoke", queue="mail", allow_gap="mail")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "probe of mail: nobody consumes mail" in ran.end.says
    assert not operation.fleet.queues.get("mail")


async def test_a_task_that_workers_do_not_know_is_refused(operation: Operation) -> None:
    operation.fleet.worker("w1@web1").registered = ("app.work",)
    plan = await operation.plan("smoke")
    assert plan.refusals == (
        "w1@web1 does not know the task app.ping, and would discard a probe of default: let the"
        " code have it, or name another task",
    )


async def test_without_a_probe_in_the_configuration_it_is_refused(operation: Operation) -> None:
    operation.probe = None
    ran = await operation.run("smoke")
    assert ran.ending is Ending.REFUSED
    assert "no probe is configured for this context" in ran.end.says
    assert "probe: {task: myproject.ping" in ran.end.says


async def test_the_plan_says_what_is_sent_where_and_what_proves_it(operation: Operation) -> None:
    operation.fleet.send("mail", 60.0)
    (step,) = (await operation.plan("smoke", queue="mail, default")).steps
    assert step.says == "probe mail, default (at most 10s each)"
    assert [one.target for one in step.actions] == ["mail", "mail", "default", "default"]
    assert [(one.does, one.undo) for one in step.actions[:2]] == [
        (
            "control enable_events {} to w1@web1: its end is proved by task events",
            "control disable_events {}, where they were off",
        ),
        (
            "send app.ping, without arguments, to mail: behind no messages, consumed by w1@web1;"
            " it expires after 10s",
            "nothing to take back: it expires by itself",
        ),
    ]
    with_results(operation)
    (step,) = (await operation.plan("smoke", queue="mail")).steps
    (action,) = step.actions
    assert action.does.endswith("and its end is proved by its result in standin://results")


async def test_results_that_are_ignored_or_away_are_not_waited_for(operation: Operation) -> None:
    results = with_results(operation)
    operation.fleet.worker("w1@web1").keeps_results = False
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.DONE, ran.told()
    assert switched(ran)[0] == ("w1@web1", "enable_events")
    results.says = "connection refused"
    operation.fleet.worker("w1@web1").keeps_results = True
    ran = await operation.run("smoke", queue="mail")
    assert ran.ending is Ending.DONE, ran.told()
    assert switched(ran)[0] == ("w1@web1", "enable_events")


async def test_in_a_roll_each_of_its_workers_is_probed_after(operation: Operation) -> None:
    operation.probe = Probe("app.ping", ("default",), 5.0)
    operation.fleet.worker("w1@web1").configured["own"] = operation.fleet.worker(
        "w1@web1"
    ).configured["mail"]
    operation.write_runbook("probed", ROLL.replace("own", "mail"))
    with_results(operation)
    ran = await operation.run("probed")
    assert ran.ending is Ending.DONE, ran.told()
    for name in ("w1@web1", "w2@web1"):
        says = [one[2] for one in ran.results(name) if one[0] == "1.2"]
        assert len(says) == 2


async def test_a_probe_that_fails_in_a_roll_stops_it(operation: Operation) -> None:
    operation.fleet.tasks["app.ping"] = (0.2, "KeyError('x')")
    operation.write_runbook("probed", ROLL.replace("[default, own]", "configured"))
    ran = await operation.run("probed")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.failed == ("w1@web1",)
    assert ran.end.report.not_started == ("w2@web1",)
    assert not any(one.sends_task_events for one in operation.fleet.workers)


def of_workers(operation: Operation) -> None:
    operation.write_runbook("probed", ROLL.replace("[default, own]", "worker"))


async def test_a_worker_with_a_queue_of_its_own_is_proved_by_that(operation: Operation) -> None:
    of_workers(operation)
    with_results(operation)
    for number in (1, 2):
        worker = operation.fleet.worker(f"w{number}@web1")
        worker.configured[f"own{number}"] = declaration(f"own{number}")
        operation.fleet.kill(worker)
    await operation.clock.sleep(10)
    plan = await operation.plan("probed")
    (does,) = [one.does for one in plan.steps[0].actions if one.step == "1.2"][:1]
    assert does.startswith("send app.ping to mail, which it alone consumes; it expires after 10s")
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    for name in ("w1@web1", "w2@web1"):
        (says,) = [one[2] for one in ran.results(name) if one[0] == "1.2"]
        assert says.startswith(f"ended at {name}, ")
    assert switched(ran) == []


async def test_a_worker_that_shares_its_queue_is_proved_once_it_runs_one(
    operation: Operation,
) -> None:
    of_workers(operation)
    # The stand-in's first worker takes all it has room for; then it is the second one's turn.
    operation.fleet.tasks["app.ping"] = (5.0, "")
    operation.probe = Probe("app.ping", ("default",), 60.0)
    operation.write_runbook(
        "probed", ROLL.replace("[default, own]", "worker").replace('"*"', "w2@web1")
    )
    plan = await operation.plan("probed")
    _, does = [one.does for one in plan.steps[0].actions if one.step == "1.2"]
    assert "to default, which it shares with 1 worker, again and again until it is the" in does
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    (says,) = [one[2] for one in ran.results("w2@web1") if one[0] == "1.2"]
    assert says.startswith("ended at w2@web1, ")
    assert switched(ran) == [("w2@web1", "enable_events"), ("w2@web1", "disable_events")]
    assert not operation.fleet.lost


async def test_a_worker_that_runs_none_of_them_is_not_passed(operation: Operation) -> None:
    operation.write_runbook(
        "probed", ROLL.replace("[default, own]", "worker").replace('"*"', "w2@web1")
    )
    ran = await operation.run("probed")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "of default went to others, so it is not known whether it runs tasks" in ran.end.says
    assert not any(one.sends_task_events for one in operation.fleet.workers)


async def test_a_worker_that_fails_the_probe_fails(operation: Operation) -> None:
    of_workers(operation)
    operation.fleet.tasks["app.ping"] = (0.2, "ImportError('x')")
    ran = await operation.run("probed")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "w1@web1: probe: failed at w1@web1" in ran.end.says
    assert "ImportError('x')" in ran.end.says


async def test_without_a_queue_nothing_is_proved(operation: Operation) -> None:
    ran = await operation.run("smoke", queue=" ,")
    assert ran.ending is Ending.REFUSED
    assert "step 1 names no queue to probe" in ran.end.says


async def test_a_lease_that_is_lost_meanwhile_ends_the_run_and_is_no_bug(
    operation: Operation,
) -> None:
    operation.fleet.tasks["app.ping"] = (3.0, "")

    async def lose() -> None:
        await operation.clock.sleep(2)
        operation.broker.lease.steal(Holder("bob@desk", "r-9", "other", operation.clock.now()))

    ran = await operation.run_while("smoke", lose)
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "bob@desk" in ran.end.says
    assert (
        "task events of w1@web1, w2@web1 stay on: Somebody else has the lease now: bob@desk runs"
        in ran.told()
    )


async def test_a_broker_that_goes_away_meanwhile_leaves_it_unknown(operation: Operation) -> None:
    operation.fleet.tasks["app.ping"] = (5.0, "")

    async def go_away() -> None:
        await operation.clock.sleep(2)
        operation.broker.is_down = True
        await operation.clock.sleep(1)
        operation.broker.is_down = False

    ran = await operation.run_while("smoke", go_away, queue="mail")
    assert ran.ending is Ending.STOPPED, ran.told()
    ((_, result, says),) = ran.results("mail")
    assert (result, "refused the connection" in says) == (Result.UNKNOWN, True)
    assert not any(one.sends_task_events for one in operation.fleet.workers), ran.told()


async def test_an_abort_leaves_no_events_on(operation: Operation) -> None:
    operation.fleet.tasks["app.ping"] = (60.0, "")

    async def abort() -> None:
        await operation.clock.sleep(4)
        assert operation.executor is not None
        operation.executor.brake.pull("bob")

    ran = await operation.run_while("smoke", abort)
    assert ran.ending is Ending.ABORTED, ran.told()
    assert not any(one.sends_task_events for one in operation.fleet.workers)


@pytest.mark.parametrize("when", ["after", "before"])
async def test_one_that_dies_while_it_watches_events_ends_as_if_it_had_not(
    tmp_path: Path, when: str
) -> None:
    line, ended = 2, False
    while not ended:
        operation = probed(tmp_path / f"dies-{line}")
        path = operation.write_down(await operation.plan("smoke", queue="mail"))
        died = await killed(operation, path, line, when)
        ended = not died or has_ended(list(journal.read(path)))
        ran = Ran(Ending.DONE, list(journal.read(path))) if ended else await operation.take_up(path)
        assert ran.end.state is RunState.SUCCEEDED, f"line {line}\n{ran.told()}"
        # Whether they were on is not known where it died before it had, or had kept, the reply.
        stays = "they stay" in ran.told()
        assert operation.fleet.worker("w1@web1").sends_task_events == stays, ran.told()
        sent = list(operation.fleet.results)
        assert len(sent) <= 2, "one more at most, and only where the first was not seen to end"
        line += 1
    assert line > 8


def test_events_stay_owed_until_the_worker_says_that_they_are_off() -> None:
    on = Act("1 events", "w1@web1", "enable_events", outcome=Outcome(Result.DONE, "they were off"))
    off = Act("1 events", "w1@web1", "disable_events")
    assert left_on([on]) == {"w1@web1": "1"}
    assert left_on([on, off]) == {"w1@web1": "1"}
    assert left_on([on, replace(off, outcome=Outcome(Result.UNKNOWN, "no reply"))]) != {}
    assert left_on([on, replace(off, outcome=Outcome(Result.DONE, "they are off again"))]) == {}


async def test_events_are_off_again_where_a_resumed_run_probes_no_more(tmp_path: Path) -> None:
    for line in range(2, 30):
        operation = probed(tmp_path / f"dies-{line}")
        operation.write_runbook("smoke", RUNBOOK + "    when: fleet.workers == 2\n")
        path = operation.write_down(await operation.plan("smoke", queue="mail"))
        assert await killed(operation, path, line, "after")
        if list(journal.read(path))[-1].verb == "probe":
            break
    assert operation.fleet.worker("w1@web1").sends_task_events
    operation.fleet.add_worker("w3@web1")
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    assert not any(one.sends_task_events for one in operation.fleet.workers)


async def test_the_shipped_smoke_goes_through_every_queue_that_ours_consume(
    tmp_path: Path,
) -> None:
    operation = probed(tmp_path)
    (tmp_path / "runbooks/smoke.yaml").unlink()
    ran = await operation.run("smoke")
    assert ran.ending is Ending.DONE, ran.told()
    sent = [name for name, intent in ran.effects if str(intent).startswith("send ")]
    assert sent == ["default", "mail"]
    ran = await operation.run("smoke", queues="consumed,configured,mail")
    assert ran.ending is Ending.DONE, ran.told()
    operation.fleet.workers[0].registered = ("app.work",)
    (refusal, _) = (await operation.plan("smoke")).refusals
    assert "w1@web1 does not know the task app.ping" in refusal


async def test_with_nobody_who_consumes_there_is_nothing_to_probe(tmp_path: Path) -> None:
    operation = Operation(tmp_path)
    operation.fleet.add_worker("w1@web1", up=False)
    assert (await operation.plan("smoke")).refusals == ("step 1 names no queue to probe",)
