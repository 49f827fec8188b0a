"""Messages whose task a release does not register: when they are parked, how that is planned, and
how they are put aside where nothing can be done beside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.model import (
    HELD,
    HOLD,
    ConsumedQueue,
    Queue,
    Reading,
    RegisteredTask,
    StoredMessage,
    WorkerState,
)
from celery_ops.model.holding import held_of, own_names, through
from celery_ops.runbook import holding_plans, unknown_tasks
from celery_ops.runbook.events import Ending, EventKind
from celery_ops.runbook.guard import consumers
from celery_ops.runbook.loader import loads
from celery_ops.runbook.plan import PlannedSieve
from celery_ops.runbook.schema import Constant
from celery_ops.runbook.stage import in_place_of
from celery_ops.runbook.task_steps import SieveStep
from celery_ops.runbook.unknown_tasks import Registered, Waiting
from tests.doctor.test_rules import AT, RECORD, fleet, worker
from tests.runbook.operation import Operation
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import FleetSnapshot, TakenRecord, Worker
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.scouting import Scouted

MAIL, BULK = ConsumedQueue("mail", "{}"), ConsumedQueue("bulk", "{}")
KNOWN = Registered(frozenset({"shop.mail"}))
HOLDING = replace(RECORD, kind=HOLD, worker="", tasks=("shop.mail",))
NOBODY = Registered(None, {"web1": "no such file"})
SWITCH = """
name: switch
summary: Switches the release.
risk: medium
params:
  unknown: {type: text, default: ignore}
steps:
  - drain: "*"
    keep_available: 0
    timeout: 1m
  - hold: task
    unknown_to: v1
    untold: ${{ params.unknown }}
    timeout: 30s
  - roll: "*"
    keep_available: 0
    batch: 2
    steps:
      - activate: v1
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.queues == before.worker.queues]
      hold: 1s
      timeout: 1m
  - release: task
    parked: keep
    timeout: 1m
"""


def seen(*workers: Worker, taken: tuple[TakenRecord, ...] = ()) -> FleetSnapshot:
    return replace(fleet(*workers, queues=(Queue("mail", 1, 0, 1),), taken=taken), counted=True)


def having(*tasks: str, **parts: Any) -> Worker:
    told = Reading(tuple(RegisteredTask(one, None, None) for one in tasks), AT)
    return worker(**{"registered": told, "consuming": Reading((MAIL,), AT), **parts})


def plan(
    snapshot: FleetSnapshot,
    *,
    registered: Registered = KNOWN,
    waiting: Waiting | None = None,
    untold: str = "ignore",
    holds: bool = True,
) -> Scouted:
    return unknown_tasks.plan(
        "4", "v1", registered, waiting or Waiting(), snapshot,
        untold=untold, run="run-9", holds=holds,
    )  # fmt: skip


def sieve(made: Scouted) -> PlannedSieve:
    (one,) = made.sieves
    return one


def test_what_a_release_does_not_register_is_unknown_and_what_tells_no_task_is_not() -> None:
    planned = PlannedSieve("4", "v1", ("shop.mail",))
    told = {"shop.mail": False, "shop.new": True, "celery.backend_cleanup": False, None: False}
    assert {task: planned.is_unknown(task) for task in told} == told


def test_nothing_is_parked_where_the_release_registers_all_that_workers_have() -> None:
    made = plan(seen(having("shop.mail")))
    assert sieve(made).idle == "v1 registers all tasks that workers have and that wait"
    assert (made.refusals, made.hazards, made.planned.actions) == ((), (), ())


@pytest.mark.parametrize(
    ("worker", "waiting", "says"),
    [
        (having("shop.mail", "shop.new"), None, "workers have tasks that v1 lacks: shop.new"),
        (having("shop.mail"), Waiting({"shop.new": 3}, ["gen7@web1"]),
         "3 messages (shop.new: 3; sent by gen7@web1) wait, which v1 does not register"),
        (having("shop.mail", registered=None), None, ""),
        (having("shop.mail", state=WorkerState.SILENT), None, ""),
    ],
    ids=["lacks one", "one waits", "not told", "no answer"],
)  # fmt: skip
def test_it_is_parked_where_some_are_lacking_or_that_is_not_known(
    worker: Worker, waiting: Waiting | None, says: str
) -> None:
    made = plan(seen(worker), waiting=waiting)
    assert not sieve(made).idle
    assert sieve(made).queues == ("mail",)
    (action,) = made.planned.actions
    assert held_of("mail", "run-9") in action.does
    assert through("mail") in action.does
    assert says in "\n".join(made.hazards)
    assert "may be discarded" in made.hazards[0]


def test_where_nobody_can_tell_it_is_said_loudly_or_refused() -> None:
    snapshot = seen(having("shop.mail", "shop.new"))
    ignored, refused = (
        plan(snapshot, registered=NOBODY, untold=one) for one in ("ignore", "refuse")
    )
    assert ignored.refusals == ()
    (danger,) = ignored.hazards
    assert "cannot be told (web1: no such file): nothing is parked" in danger
    assert "DISCARD" in danger
    (says,) = refused.refusals
    assert "cannot be told (web1: no such file)" in says
    assert plan(snapshot, untold="what").refusals


def test_a_hold_of_an_operator_goes_on_and_is_named() -> None:
    made = plan(seen(having("shop.mail", "shop.new"), taken=(HOLDING,)))
    assert sieve(made).idle.startswith("shop.mail is held by run run-1 of ann@laptop")
    assert "first: celery-ops task release shop.mail" in made.hazards[0]
    assert made.refusals == ()


def test_elsewhere_than_on_redis_it_is_said_what_cannot_be_guaranteed() -> None:
    made = plan(seen(having("shop.new")), holds=False)
    assert "what comes meanwhile, its workers discard" in made.hazards[0]
    assert through("mail") not in made.planned.actions[0].does


def test_all_queues_that_are_seen_are_looked_after_where_no_worker_tells() -> None:
    mute = worker(WorkerState.SILENT)
    assert unknown_tasks.concerned(seen(mute)) == ("mail",)
    assert unknown_tasks.concerned(seen(replace(mute, mine=False))) == ()
    assert unknown_tasks.concerned(seen(mute, taken=(replace(RECORD, queues=(BULK,)),))) == (
        "bulk",
    )


def test_what_is_parked_is_told_by_task_and_sender() -> None:
    messages = [
        StoredMessage(b"", task=task, origin=origin)
        for task, origin in [("b", "gen2@x"), ("a", "gen1@x"), ("a", "gen1@x")]
    ]
    assert Waiting.of(messages).in_words == "3 messages (a: 2, b: 1; sent by gen1@x, gen2@x)"
    assert Waiting({"?": 1}).in_words == "1 message (not looked at)"


def test_what_is_consumed_in_place_of_a_queue_stands_for_it() -> None:
    switched = worker(consuming=Reading((ConsumedQueue(through("mail"), "{}"), BULK), AT))
    assert own_names(switched.queues or ()) == {"mail", "bulk"}
    assert consumers(seen(switched)) == {"mail": {"a@web1"}, "bulk": {"a@web1"}}
    now = switched.consuming.value if switched.consuming is not None else ()
    assert [one.name for one in in_place_of((MAIL, BULK), now)] == [through("mail"), "bulk"]
    assert in_place_of((MAIL,), (MAIL, *now)) == (MAIL,)


def test_who_gives_it_back_is_told_that_it_would_be_discarded() -> None:
    record = replace(HOLDING, unknown_to="v1", tasks=("what v1 does not register",))
    assert record.mend.endswith("task release 'what v1 does not register' -p parked=keep")
    assert "-p parked=keep" not in HOLDING.mend
    held = replace(record, kind=HELD, worker="a@web1", queues=(MAIL,))
    assert "-p parked=keep" in held.mend
    assert holding_plans.refusals(("mail",), seen(having("shop.mail"), taken=(record,)))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("", "needs one of the keys 'task'"),
        ("task: a\n    unknown_to: v1", "needs one of the keys 'task'"),
        ("task: a\n    untold: ignore", "needs 'unknown_to'"),
        ("unknown_to: v1\n    queues: mail", "no 'queues'"),
        ("unknown_to: v1\n    untold: perhaps", "is one of ignore, refuse"),
    ],
    ids=["neither", "both", "untold", "queues", "perhaps"],
)
def test_a_hold_names_its_tasks_or_a_release(keys: str, says: str) -> None:
    text = f"name: n\nsummary: s\nrisk: low\nsteps:\n  - hold: task\n    {keys}\n"
    with pytest.raises(Exception, match=says):
        loads(text, "n.yaml")


def test_a_release_that_does_not_register_them_is_read() -> None:
    step = loads(SWITCH, "switch.yaml").steps[1]
    assert isinstance(step, SieveStep)
    assert (step.id, step.release) == ("2", Constant("v1"))


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    for name in ("w1@web1", "w2@web1"):
        made.fleet.add_worker(name).registered = ("app.work", "app.new")
    made.hosts.layout = StandinReleases(made.fleet, ("web1",), "v1", "v2")
    made.hosts.layout.registers = {"v1": ("app.work",)}
    made.write_runbook("switch", SWITCH)
    return made


async def test_what_waits_is_put_aside_before_the_switch_and_after_it(
    operation: Operation,
) -> None:
    fleet = operation.fleet

    def send(event: Event) -> None:
        """When all are drained, and when the last one is being switched."""
        if event.event is EventKind.BATCH:
            for _ in range(3):
                fleet.send("default", task="app.new")
        is_drained = event.step == "1" and event.event is EventKind.RESULT
        if is_drained and event.target == "w2@web1":
            for _ in range(2):
                fleet.send("default", task="app.new")
                fleet.send("default", task="app.work")

    path = operation.write_down(await operation.plan("switch"))
    ran = await operation.take_up(path, then=send)
    assert ran.ending is Ending.DONE, ran.told()
    put_aside = [one for one in ran.results("default") if "put aside" in one[2]]
    assert put_aside[0][2] == "2 messages put aside"
    assert [step for step, _, _ in put_aside] == ["2", "4"]
    report = ran.end.report
    assert report is not None
    (left,) = report.left_parked
    place = next(name for name in fleet.queues if name.startswith("celery-ops.parked.default."))
    assert left.mend == f"celery-ops queue unpark {place}"
    assert f"app.new: {len(fleet.queues[place])}" in left.says
    assert left.says in ran.end.says
    assert {one.task for one in fleet.queues[place]} == {"app.new"}
    assert sum(fleet.ledger.ended.values()) >= 2


async def test_a_release_that_has_all_leaves_all_as_it_is(operation: Operation) -> None:
    assert operation.hosts.layout is not None
    operation.hosts.layout.registers = {"v1": ("app.work", "app.new")}
    ran = await operation.run("switch")
    assert ran.ending is Ending.DONE, ran.told()
    assert "nothing is parked: v1 registers all tasks" in ran.told()


async def test_a_layout_that_cannot_tell_is_refused_where_that_was_asked_for(
    operation: Operation,
) -> None:
    assert operation.hosts.layout is not None
    operation.hosts.layout.registers = {}
    ran = await operation.run("switch", unknown="refuse")
    assert ran.ending is Ending.REFUSED, ran.told()
    assert operation.hosts.layout.switched == []
    plan = await operation.plan("switch")
    assert any("DISCARD" in one for one in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
