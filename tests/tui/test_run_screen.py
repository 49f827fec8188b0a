"""A run on the screen: what it does, what it asks, and how it is stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import JournalError
from celery_ops.runbook.events import Cause, EventKind, Owed, Report, RunState
from tests.tui import fleets, standins
from tests.tui.screens import Opened, opened
from tests.tui.standins import PaperDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.runbook.journal import Event


def desk_with(*events: Event | None) -> PaperDesk:
    desk = PaperDesk(listed=(standins.summary(),))
    desk.write(*events)
    return desk


async def follow(there: Opened) -> None:
    await there.press("8")
    await there.press("enter")


async def test_events_are_readable_lines_with_their_times() -> None:
    async with opened(desk=desk_with(*standins.events(to_the_end=False))) as there:
        await follow(there)
        assert "▶ running" in there.text
        assert "▶ cancel_consumer queue=default" in there.text
        assert "12:02:46" in there.text
        assert "batch 2 of 2: fast2@demo" in there.text


async def test_new_events_come_while_it_is_open() -> None:
    events = standins.events()
    desk = desk_with(*events[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        assert "· fast2@demo" in there.text
        desk.write(*events[6:-1])
        await there.settle()
        assert "✓ fast2@demo" in there.text
        desk.write(events[-1])
        await there.settle()
        assert "✓ succeeded" in there.text
        assert "took 30s" in there.text


async def test_elapsed_time_goes_on_between_events() -> None:
    async with opened(desk=desk_with(*standins.events()[:6])) as there:
        await follow(there)
        await there.later(60)
        assert "for 1m" in there.text


async def test_leaving_the_screen_stops_following_and_nothing_else() -> None:
    desk = desk_with(*standins.events()[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        assert desk.following == 1
        await there.press("escape")
        assert desk.following == 0
        assert desk.said == []


async def test_the_end_says_why_each_failed_and_how_to_go_on() -> None:
    ended = standins.ended(RunState.FAILED)
    assert ended.outcome is not None
    report = Report(
        done=("fast1@demo",),
        failed=("fast2@demo",),
        not_started=("slow1@demo",),
        causes=(Cause("fast2@demo", "migrate: ended with 3", "\x1b[31mNo such table"),),
        again="celery-ops runbook rolling-restart -p workers=fast2@demo,slow1@demo",
    )
    outcome = replace(ended.outcome, report=report)
    events = [*standins.events(to_the_end=False), replace(ended, outcome=outcome)]
    async with opened(size=(80, 24), desk=desk_with(*events)) as there:
        await follow(there)
        assert "celery-ops runbook rolling-restart -p" in there.text
        assert "✗ fast2@demo: migrate: ended with 3" in there.text
        await there.press("enter")
        assert "| ␛[31mNo such table" in there.text
        assert "not started: slow1@demo" in there.text


async def test_the_end_names_what_is_owed_and_what_mends_it() -> None:
    owed = Owed("fast2@demo is drained", "celery-ops worker resume fast2@demo")
    events = [*standins.events(to_the_end=False), standins.ended(RunState.FAILED, owed)]
    async with opened(desk=desk_with(*events)) as there:
        await follow(there)
        assert "✗ failed" in there.text
        assert "fast2@demo is drained: celery-ops worker resume fast2@demo" in there.text


async def test_an_interrupted_run_says_that_nobody_executes_it() -> None:
    desk = desk_with(*standins.events()[:6], None)
    async with opened(desk=desk) as there:
        await follow(there)
        assert "▲ interrupted" in there.text
        assert "Nobody executes this run any more" in there.text
        await there.press("A")
        assert desk.said == []


async def test_an_abort_says_what_it_does_before_it_is_sent() -> None:
    desk = desk_with(*standins.events()[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("A")
        assert "next safe point" in there.text
        assert "Under way now: fast1@demo" in there.text
        assert desk.said == []
        await there.press("escape")
        assert desk.said == []
        await there.press("A", "Y")
        assert desk.said == [("abort", fleets.RUN)]


async def test_the_second_and_third_abort_say_that_they_are_stronger() -> None:
    desk = desk_with(*standins.events()[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("A", "Y")
        assert "Abort sent (1)" in there.text
        await there.press("A")
        assert "NOTHING is undone" in there.text
        await there.press("Y")
        await there.press("A")
        assert "AT ONCE" in there.text
        await there.press("Y")
        await there.press("A")
        assert "AT ONCE" in there.text
        assert desk.said == [("abort", fleets.RUN)] * 3


async def test_a_question_opens_and_its_answer_goes_to_the_run() -> None:
    desk = desk_with(*standins.events()[:6], standins.asked())
    async with opened(desk=desk) as there:
        await follow(there)
        assert "did not come back within 2m" in there.text
        await there.press("down", "enter")
        assert desk.said == [("answer", fleets.RUN, "2", "undo")]


async def test_a_question_can_wait_and_be_opened_again() -> None:
    desk = desk_with(*standins.events()[:6], standins.asked("Go on? (yes or no)"))
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("escape")
        assert "It waits for an answer: Go on? (yes or no)" in there.text
        assert desk.said == []
        await there.press("W")
        await there.press("enter")
        assert desk.said == [("answer", fleets.RUN, "2", "yes")]


async def test_an_open_question_takes_any_text() -> None:
    desk = desk_with(*standins.events()[:6], standins.asked("Which release?"))
    async with opened(desk=desk) as there:
        await follow(there)
        await there.type("r42")
        await there.press("enter")
        assert desk.said == [("answer", fleets.RUN, "2", "r42")]


async def test_pause_and_continue_exist_when_they_make_sense() -> None:
    desk = desk_with(*standins.events()[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("C")
        assert desk.said == []
        await there.press("P")
        assert desk.said == [("pause", fleets.RUN)]
        desk.write(standins.event(EventKind.PAUSED))
        await there.settle()
        assert "‖ paused" in there.text
        await there.press("P", "C")
        assert desk.said == [("pause", fleets.RUN), ("proceed", fleets.RUN)]


async def test_an_ended_run_cannot_be_steered() -> None:
    desk = desk_with(*standins.events())
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("A", "P", "C", "W")
        assert desk.said == []
        assert "abort" not in there.text


async def test_a_whole_event_can_be_opened() -> None:
    async with opened(desk=desk_with(*standins.events())) as there:
        await follow(there)
        await there.press("up", "enter")
        assert "event 17" in there.text
        assert "online, consumes default mail" in there.text


async def test_a_broken_journal_says_so() -> None:
    class BrokenDesk(PaperDesk):
        async def follow(self, run: str) -> AsyncIterator[Event]:
            yield standins.events()[0]
            raise JournalError(f"{run}.jsonl:2: not an event of a journal")

    async with opened(desk=BrokenDesk(listed=(standins.summary(),))) as there:
        await follow(there)
        assert "the journal cannot be read on" in there.text
        assert "not an event of a journal" in there.text


async def test_a_long_journal_is_followed_to_its_end() -> None:
    events = standins.events()
    many = [
        standins.event(EventKind.PROGRESS, seq=100 + number, says=f"look {number}")
        for number in range(5_000)
    ]
    async with opened(desk=desk_with(*events[:6], *many)) as there:
        await follow(there)
        await there.settle()
        assert "look 4999" in there.text


async def test_ctrl_c_quits() -> None:
    async with opened() as there:
        await there.press("2", "ctrl+c")
        assert not there.app.is_running or there.app._exit


async def test_quitting_during_a_run_says_how_to_find_it_again() -> None:
    desk = desk_with(*standins.events()[:6])
    async with opened(desk=desk) as there:
        await follow(there)
        await there.press("q")
        says = str(there.app._exit_renderables)
        assert f"celery-ops runs follow {fleets.RUN}" in says
        assert desk.said == []
