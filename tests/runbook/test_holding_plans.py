"""What holding and releasing would do, and what is refused: pure, on pictures of fleets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import UsageError
from celery_ops.model import HELD, HOLD, PAUSED, ConsumedQueue, Queue, Reading, StoredMessage, Task
from celery_ops.model.holding import held_of, through
from celery_ops.runbook import held_queues, holding_plans
from celery_ops.runbook.holding_plans import Held, Released
from celery_ops.runbook.loader import loads
from celery_ops.runbook.task_steps import HoldStep, ReleaseStep
from tests.doctor.test_rules import AT, RECORD, fleet, worker
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import FleetSnapshot, TakenRecord, Worker

MAIL, BULK = ConsumedQueue("mail", "{}"), ConsumedQueue("bulk", "{}")
HOLDING = replace(RECORD, kind=HOLD, worker="", tasks=("shop.mail",))
RUNBOOK = """
name: night
summary: A bad one.
risk: low
params:
  rate: {{type: text, default: ""}}
steps:
  - {step}
"""


def consuming(*queues: ConsumedQueue, mine: bool = True) -> Worker:
    return worker(consuming=Reading(queues, AT), mine=mine)


def seen(*workers: Worker, taken: tuple[TakenRecord, ...] = ()) -> FleetSnapshot:
    return replace(fleet(*workers, queues=(Queue("mail", 1, 0, 1),), taken=taken), counted=True)


def hold(**keys: str) -> HoldStep:
    text = "hold: task" + "".join(f"\n    {key}: {value}" for key, value in keys.items())
    (step,) = loads(RUNBOOK.format(step=text), "night.yaml").steps
    assert isinstance(step, HoldStep)
    return step


def release(**keys: str) -> ReleaseStep:
    text = "release: task" + "".join(f"\n    {key}: {value}" for key, value in keys.items())
    (step,) = loads(RUNBOOK.format(step=text), "night.yaml").steps
    assert isinstance(step, ReleaseStep)
    return step


def test_names_and_patterns_are_held_and_a_message_without_a_name_is_not() -> None:
    wanted = Held.of(hold(task="shop.mail, 'bulk.*'".replace("'", "")), {})
    assert wanted.tasks == ("shop.mail", "bulk.*")
    for task, is_held in {"shop.mail": True, "shop.mails": False, "bulk.send": True}.items():
        assert wanted.is_held(StoredMessage(b"", task=task)) is is_held
    assert not wanted.is_held(StoredMessage(b""))
    with pytest.raises(UsageError, match="which tasks"):
        Held.of(hold(task="','"), {})


def test_a_rate_and_what_becomes_of_the_messages_are_read() -> None:
    assert Released.of(release(rate="50/s"), {}) == Released((), keeps=False, rate=50.0)
    assert Released.of(release(task="a", parked="keep"), {}) == Released(("a",), True, None)


def test_all_queues_that_are_consumed_or_owed_are_looked_after_unless_some_are_named() -> None:
    drained = replace(RECORD, queues=(BULK,))
    switched = consuming(ConsumedQueue(through("fast"), "{}"))
    snapshot = seen(consuming(MAIL), switched, taken=(drained,))
    assert holding_plans.concerned(Held(("x",)), snapshot) == ("bulk", "fast", "mail")
    assert holding_plans.concerned(Held(("x",), ("mail",)), snapshot) == ("mail",)


@pytest.mark.parametrize(
    ("snapshot", "queues", "says"),
    [
        (seen(consuming(MAIL)), ("mail",), ""),
        (seen(), (), "nobody of this context consumes anything"),
        (seen(consuming(MAIL, mine=False)), ("mail",), "outside of this context's scope"),
        (seen(consuming(MAIL), taken=(replace(RECORD, kind=PAUSED),)), ("mail",), "is paused"),
        (seen(consuming(MAIL), taken=(HOLDING,)), ("mail",), "shop.mail is held by run run-1"),
        (seen(consuming(MAIL), taken=(replace(HOLDING, kind=HELD, worker="a"),)), ("mail",),
         "celery-ops task release shop.mail"),
        (seen(consuming(MAIL)), (through("mail"),), "is a queue of ours"),
    ],
    ids=["nothing", "no queue", "scope", "paused", "held", "left", "ours"],
)  # fmt: skip
def test_what_cannot_be_held_for_certain_is_refused(
    snapshot: FleetSnapshot, queues: tuple[str, ...], says: str
) -> None:
    refused = holding_plans.refusals(queues, snapshot)
    assert bool(refused) is bool(says)
    assert says in "; ".join(refused)


def test_nothing_else_is_done_with_the_queues_of_a_hold() -> None:
    snapshot = seen(consuming(MAIL), taken=(HOLDING,))
    for queue in ("mail", through("mail"), held_of("mail", "run-1")):
        (says,) = held_queues.in_the_way(queue, snapshot)
        assert says.startswith("shop.mail is held by run run-1 of ann@laptop")
    assert held_queues.in_the_way("bulk", snapshot) == ()
    assert held_queues.in_the_way(held_of("mail", "run-2"), snapshot) == ()
    assert held_queues.in_the_way("mail", seen(consuming(MAIL))) == ()
    assert len(held_queues.in_the_way(through("mail"), seen())) == 1
    assert held_queues.restarted("a@web1", seen()) == []
    assert len(held_queues.restarted("a@web1", snapshot)) == 1


def test_what_workers_have_taken_before_is_counted() -> None:
    def task(name: str) -> Task:
        return Task("1", name, "", "mail", None, None, None)

    busy = worker(
        active=Reading((task("shop.mail"), task("shop.other")), AT),
        reserved=Reading((task("shop.mail"), task("shop.mail")), AT),
        scheduled=None,
    )
    wanted = Held(("shop.mail",))
    assert holding_plans.in_workers(wanted, seen(busy)) == "3 tasks (1 running, 2 reserved)"
    assert holding_plans.in_workers(Held(("none",)), seen(busy)) == ""


@pytest.mark.parametrize("runbook", ["hold-task", "release-task"])
async def test_a_broker_on_which_nothing_can_be_held_is_refused_by_name(
    runbook: str, tmp_path: Path
) -> None:
    operation = Operation(tmp_path)
    operation.fleet.add_worker("a@web1")
    plan = await operation.plan(runbook, tasks="shop.mail")
    assert plan.refusals == (holding_plans.NOT_HERE,)


def test_a_queue_that_expires_is_refused_with_the_others_named() -> None:
    expiring = ConsumedQueue("bulk", '{"queue_arguments": {"x-expires": 1000}}')
    snapshot = seen(consuming(MAIL, expiring))
    (says,) = holding_plans.refusals(("bulk", "mail"), snapshot)
    assert says.startswith("bulk expires (x-expires)")
    assert says.endswith("hold in -p queues=mail")
