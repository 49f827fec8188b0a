"""From a key to a run: the plan is read, agreed to by name, started and followed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_ops.errors import BrokerUnreachable, JournalError
from celery_ops.runbook.plan import Confirmation, QueueCapacity
from celery_ops.tui.table import LiveTable
from tests.tui import fleets, standins
from tests.tui.screens import SIZES, opened
from tests.tui.standins import PaperDesk


async def test_r_plans_a_restart_of_the_worker_under_the_cursor() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "down", "R")
        assert there.desk.planned == [("rolling-restart", {"workers": "bulk2@demo"})]


async def test_keys_typed_ahead_reach_the_view_that_they_opened() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        there.app.action_view("workers")
        assert isinstance(there.app.focused, LiveTable)
        assert there.app.focused.cursor_key == "bulk1@demo"
        for key in ("down", "D"):
            there.app.simulate_key(key)
        await there.settle()
        assert there.desk.planned == [("drain-worker", {"workers": "bulk2@demo"})]


async def test_marked_workers_are_meant_and_not_the_one_under_the_cursor() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "space", "space", "D")
        assert there.desk.planned == [("drain-worker", {"workers": "bulk1@demo,bulk2@demo"})]
        await there.press("escape", "U")
        assert there.desk.planned[-1][0] == "resume-worker"


async def test_marked_workers_that_a_filter_hides_are_meant_too() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "space", "slash")
        await there.type("fast")
        await there.press("enter", "D")
        assert there.desk.planned == [("drain-worker", {"workers": "bulk1@demo"})]


async def test_a_worker_outside_the_scope_is_never_planned_for() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("2", "end", "R")
        assert there.desk.planned == []
        assert "scope are never touched" in there.text


async def test_a_name_that_reads_as_a_pattern_is_refused() -> None:
    snapshot = fleets.fleet((fleets.worker("*"), fleets.worker("host:x"), fleets.worker("a,b")), ())
    async with opened(snapshot) as there:
        await there.press("2", "R")
        await there.press("down", "R")
        await there.press("down", "R")
        assert there.desk.planned == []
        assert "names read as" in there.text


async def test_the_plan_can_be_read_before_anything_is_agreed_to() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "R")
        for part in (
            "Know before you agree", "holds 3 ETA tasks", "fast1@demo  ● online",
            "batch 1 (canary): fast1@demo", "✓ 1 of 2 consumers stay, the guard wants 1",
            "$ cancel_consumer queue=default", "taken back by: add_consumer queue=default",
            "$ supervisorctl restart fast", "Restart 2 workers, 1 at a time?",
        ):  # fmt: skip
            assert part in there.text, part
        assert there.desk.started == []


async def test_hazards_stand_above_everything_else() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "R")
        assert there.text.index("Know before you agree") < there.text.index("2 workers\n")


async def test_a_batch_below_the_guard_is_marked() -> None:
    made = standins.plan()
    step = made.steps[1]
    starved = replace(step.batches[0], capacity=(QueueCapacity("default", 2, 0, 1),))
    made = replace(made, steps=(made.steps[0], replace(step, batches=(starved,))))
    async with opened(desk=PaperDesk(plan_made=made)) as there:
        await there.press("2", "R")
        assert "✗ 0 of 2 consumers stay, the guard wants 1" in there.text


async def test_agreeing_names_the_targets_starts_the_run_and_follows_it() -> None:
    desk = PaperDesk(plan_made=standins.plan())
    desk.write(*standins.events(to_the_end=False))
    async with opened(desk=desk) as there:
        await there.press("2", "R", "enter")
        assert "Restart 2 workers, 1 at a time?" in there.text
        assert "fast1@demo, fast2@demo" in there.text
        await there.press("Y")
        ((plan, answers),) = desk.started
        assert plan.run == fleets.RUN
        assert answers == {"1": "ann@bastion"}
        assert "▶ running" in there.text
        await there.press("escape")
        assert "4 workers" in there.text


async def test_enter_twice_starts_nothing() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "R", "enter", "enter", "enter", "y")
        assert there.desk.started == []
        await there.press("escape", "escape")
        assert there.desk.started == []
        assert "4 workers" in there.text


async def test_a_protected_context_wants_its_name_typed() -> None:
    confirmation = Confirmation("1", "Restart 2 workers?", typed="demo")
    desk = PaperDesk(plan_made=standins.plan(confirmations=(confirmation,)))
    async with opened(desk=desk, protected=True) as there:
        assert "PROTECTED" in there.text
        await there.press("2", "R", "enter")
        assert "Type demo and press enter" in there.text
        await there.press("Y", "enter")
        assert desk.started == []
        await there.press("backspace")
        await there.type("demo")
        await there.press("enter")
        assert len(desk.started) == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_what_is_to_be_typed_is_seen_however_much_there_is_to_know(
    size: tuple[int, int],
) -> None:
    hazards = tuple(f"worker{number}@demo may cut off what it runs" for number in range(60))
    confirmation = Confirmation("1", "Roll 60 workers back to v40?", typed="demo")
    made = replace(standins.plan(), confirmations=(confirmation,), hazards=hazards)
    desk = PaperDesk(plan_made=made)
    async with opened(desk=desk, size=size) as there:
        await there.press("2", "R", "enter")
        for seen in ("Roll 60 workers back", "Type demo and press enter:", "no, go back", "more"):
            assert seen in there.text, seen
        assert "▲ worker59@demo" not in there.text
        await there.press(*["pagedown"] * 20)
        assert "▲ worker59@demo" in there.text
        await there.press(*["pageup"] * 20)
        assert "Roll 60 workers back" in there.text
        await there.type("demo")
        await there.press("enter")
        assert len(desk.started) == 1


async def test_a_short_confirmation_offers_no_more() -> None:
    async with opened(desk=PaperDesk(plan_made=standins.plan())) as there:
        await there.press("2", "R", "enter")
        assert "Y yes" in there.text
        assert "↓" not in there.text


async def test_the_title_of_a_plan_counts_the_workers_that_it_is_about() -> None:
    made = standins.plan()
    desk = PaperDesk(plan_made=replace(made, targets=made.targets[:1]))
    async with opened(desk=desk) as there:
        await there.press("2", "space", "space", "R")
        assert "1 worker  planned at" in there.text


async def test_a_protected_context_wants_its_name_even_if_the_plan_forgot_to_ask() -> None:
    desk = PaperDesk(plan_made=standins.plan(confirmations=()))
    async with opened(desk=desk, protected=True) as there:
        await there.press("2", "R", "enter", "Y")
        assert desk.started == []
        assert "Type demo" in there.text


async def test_a_runbook_that_asks_nothing_is_confirmed_all_the_same() -> None:
    desk = PaperDesk(plan_made=standins.plan(confirmations=()))
    async with opened(desk=desk) as there:
        await there.press("2", "D", "enter")
        assert desk.started == []
        assert "Run rolling-restart?" in there.text
        await there.press("Y")
        assert desk.started[0][1] == {}


async def test_a_refused_plan_cannot_be_agreed_to() -> None:
    refusals = ("without fast1@demo, default would have 0 of 2 consumers",)
    desk = PaperDesk(plan_made=standins.plan(refusals=refusals))
    async with opened(desk=desk) as there:
        await there.press("2", "R")
        assert "THIS CANNOT RUN" in there.text
        assert refusals[0] in there.text
        assert "go on" not in there.text
        await there.press("enter", "Y")
        assert desk.started == []


async def test_planning_shows_itself_and_can_be_cancelled() -> None:
    desk = PaperDesk(plan_made=standins.plan())
    desk.planning.clear()
    async with opened(desk=desk) as there:
        await there.press("2", "R")
        assert "planning…" in there.text
        await there.later(7)
        assert "7s so far" in there.text
        await there.press("escape")
        assert desk.cancelled == 1
        assert "4 workers" in there.text


async def test_a_plan_that_cannot_be_made_says_why() -> None:
    error = BrokerUnreachable("connection refused", fix="Is it running?")
    async with opened(desk=PaperDesk(plan_made=error)) as there:
        await there.press("2", "R")
        assert "This cannot be done" in there.text
        assert "connection refused" in there.text
        assert "Is it running?" in there.text
        assert "Nothing was changed." in there.text


async def test_a_journal_that_cannot_be_written_says_so_and_nothing_starts() -> None:
    desk = PaperDesk(plan_made=standins.plan(), start_fails=JournalError("no space left"))
    async with opened(desk=desk) as there:
        await there.press("2", "R", "enter", "Y")
        assert "no space left" in there.text
        await there.press("enter")
        assert desk.started == []
