"""A plan as an operator reads it."""

from __future__ import annotations

from dataclasses import replace

from celery_ops.cli import show_plan
from celery_ops.model import ServiceRef
from celery_ops.runbook.plan import (
    Confirmation,
    Plan,
    PlannedAction,
    PlannedBatch,
    PlannedStep,
    QueueCapacity,
)
from celery_ops.tui import plan_text
from tests.runbook.plans import a_plan


def a_full_plan() -> Plan:
    undo = 'control add_consumer {"queue": "mail"} to worker1@web1'
    step = PlannedStep(
        "2",
        "roll through 1 workers",
        ("worker1@web1",),
        (PlannedBatch(1, ("worker1@web1",), (QueueCapacity("mail", 2, 1, 1),), canary=True),),
        (
            PlannedAction("2.1", "worker1@web1", 'control cancel_consumer {"queue": "mail"}', undo),
            PlannedAction("2.1", "worker1@web1", 'control cancel_consumer {"queue": "m"}', undo),
            PlannedAction("2.2", "worker1@web1", "web1: supervisorctl stop worker1", "start it"),
            PlannedAction("2.3", "worker1@web1", "web1: touch /tmp/x", None),
        ),
        ("worker2@web1 is stopped",),
    )
    return replace(
        a_plan(),
        steps=(step,),
        hazards=("a stop signals the children too",),
        refusals=("queue mail would keep 0 consumers",),
        irreversible=("step 2.3: touch /tmp/x",),
        confirmations=(Confirmation("1", "Restart 1 worker?", "production"),),
    )


def at(lines: list[str], begin: str) -> int:
    return next(place for place, line in enumerate(lines) if line.strip().startswith(begin))


def test_what_may_hurt_is_read_first() -> None:
    lines = show_plan.lines(a_full_plan(), 200)
    order = ["rolling-restart", "REFUSED", "Hazards", "Cannot be undone", "TARGET", "Step 2",
             "Will be asked"]  # fmt: skip
    places = [at(lines, begin) for begin in order]
    assert places == sorted(places)


def test_what_is_the_same_of_several_targets_is_said_once() -> None:
    plan = a_plan()
    first, second = (replace(plan.targets[0], name=name) for name in ("a@web1", "b@web1"))
    one, both, none = "1 ETA task held", "tasks may be cut off", "c@web2: is not meant"
    hazards = (f"a@web1: {both}", f"a@web1: {one}", none, f"b@web1: {both}", "nobody consumes m")
    plan = replace(plan, targets=(first, second), hazards=hazards)
    assert plan.warnings == (
        f"all 2 workers: {both}", f"a@web1: {one}", none, "nobody consumes m",
    )  # fmt: skip
    third = replace(plan, targets=(first, second, replace(first, name="d@web1")))
    assert third.warnings[0] == f"a@web1, b@web1: {both}"


def test_what_may_hurt_ends_where_the_terminal_does_and_between_words() -> None:
    says = "a worker that starts consumes its own queues until it is told not to"
    plan = replace(a_full_plan(), hazards=(says,))
    lines = show_plan.lines(plan, 40)
    start = at(lines, "a worker that starts")
    assert lines[start : start + 3] == [
        "  a worker that starts consumes its own",
        "    queues until it is told not to",
        "",
    ]
    assert f"  {says}" in show_plan.lines(plan, 200)


def test_what_proves_that_a_step_may_be_done_stands_before_what_it_does() -> None:
    lines = show_plan.lines(a_full_plan(), 200)
    order = ["Step 2", "proof: worker2@web1 is stopped", "web1: touch"]
    places = [at(lines, begin) for begin in order]
    assert places == sorted(places)


def test_every_effect_is_there_word_for_word_and_its_undo_once() -> None:
    lines = [line.strip() for line in show_plan.lines(a_full_plan(), 80)]
    for action in a_full_plan().steps[0].actions:
        assert action.does in lines
    assert lines.count('undo: control add_consumer {"queue": "mail"} to worker1@web1') == 1
    assert lines[at(lines, "web1: touch") + 1] == "cannot be undone"


def test_each_batch_shows_what_it_leaves_of_each_queue_against_the_guard() -> None:
    lines = show_plan.lines(a_full_plan(), 200)
    row = lines[at(lines, "BATCH") + 1].split()
    assert row == ["1", "canary", "worker1@web1", "mail", "2", "1", "≥", "1"]


def test_targets_are_told_with_their_incarnation_and_queues() -> None:
    lines = show_plan.lines(a_full_plan(), 200)
    row = lines[at(lines, "TARGET") + 1]
    for words in ("worker1@web1", "online", "4711", "3.5s", "mail", "supervisord worker1 on web1"):
        assert words in row


def test_what_must_be_typed_is_said() -> None:
    assert "  Restart 1 worker? (type production to agree)" in show_plan.lines(a_full_plan(), 80)


def test_hostile_text_stays_text() -> None:
    hostile = replace(a_full_plan(), summary="x\x1b[2J\ny", hazards=("a\rb\u202ec",))
    assert not {"\x1b", "\r", "\u202e", "\n"} & set("".join(show_plan.lines(hostile, 80)))


def test_what_is_left_out_and_what_is_done_at_the_end_are_told() -> None:
    beat = ServiceRef("web1", "systemd", "celery-beat.service", beat=True)
    (worker,) = a_plan().targets
    scheduler = replace(
        worker, name=str(beat), service=beat, incarnation=None, active=None, queues=()
    )
    plan = replace(
        a_plan(),
        targets=(worker, scheduler),
        left_out={"w2@web2": "is silent"},
        at_end=("check fleet.left_drained == 0", "notify, on this machine: tell ops"),
    )
    told = show_plan.lines(plan, 100)
    assert at(told, "w2@web2: is silent") > at(told, "Left out:")
    assert at(told, "notify, on this machine: tell ops") > at(told, "At the end, however it goes:")
    assert "?" not in told[at(told, "systemd celery-beat.service on web1")]
    shown = [one.text for one in plan_text.lines(plan)]
    assert "1 worker, 1 scheduler" in shown
    assert any("w2@web2: is silent" in one for one in shown)
    assert any("notify, on this machine: tell ops" in one for one in shown)
