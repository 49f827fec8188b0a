"""What the views show, and what their keys do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.model import WorkerState
from celery_ops.runbook.events import RunState
from tests.tui import fleets, standins
from tests.tui.screens import SIZES, opened


async def test_what_is_wrong_is_seen_first() -> None:
    async with opened(fleets.broken()) as there:
        assert "12 messages wait, no consumer" in there.text
        assert "Start a worker with -Q mail" in there.text
        assert "▲ 1 silent" in there.line("workers ")
        assert "1 outside the scope" in there.text


async def test_the_level_decides_the_order_of_problems() -> None:
    async with opened(fleets.broken()) as there:
        assert there.text.index("▲ error") < there.text.index("▲ warning")


async def test_a_fleet_without_problems_says_so_only_when_all_answered() -> None:
    async with opened(fleets.demo()) as there:
        assert "nothing is wrong, as far as can be seen" in there.text
        await there.see(fleets.demo(complete=False))
        assert "nothing is wrong" not in there.text
        assert "not everything answered" in there.text


async def test_nothing_is_claimed_before_the_first_snapshot() -> None:
    async with opened() as there:
        there.app.picture = replace(there.app.picture, shown=None, newest=None)
        await there.settle()
        assert "no snapshot yet" in there.text
        assert "nothing read yet" in there.text


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_the_ledger_is_shown_with_its_age_and_unknown_is_no_zero(
    size: tuple[int, int],
) -> None:
    counts = {"sent": 120, "done": 118, "running": 2, "lost": 0, "twice": None}
    async with opened(fleets.demo(), size=size, ledger=counts) as there:
        for label in ("sent", "done", "running", "lost", "run twice"):
            assert label in there.text
        assert "read 0.0s ago" in there.text
        assert "?" in there.text
        await there.later(8)
        assert "numbered tasks of the demo, read" in there.text


async def test_a_broken_promise_is_marked() -> None:
    async with opened(fleets.demo(), ledger={"lost": 0, "twice": 2}) as there:
        kept = [card.has_class("-kept") for card in there.app.screen.query("LedgerCard")]
        broken = [card.has_class("-broken") for card in there.app.screen.query("LedgerCard")]
        assert kept == [False, False, False, True, False]
        assert broken == [False, False, False, False, True]


async def test_without_a_ledger_there_is_no_ledger() -> None:
    async with opened(fleets.demo()) as there:
        assert "run twice" not in there.text


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_silent_worker_is_not_shown_as_idle(size: tuple[int, int]) -> None:
    async with opened(fleets.broken(), size=size) as there:
        await there.press("2")
        silent = there.line("fast2@demo")
        assert "▲ silent" in silent
        assert "2 (1m)" in silent


async def test_what_a_worker_did_not_say_is_unknown_and_not_zero() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("2")
        assert "?" in there.line("bulk2@demo").split("0.4s")[1]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_taken_worker_carries_the_id_of_the_run(size: tuple[int, int]) -> None:
    async with opened(fleets.broken(), size=size) as there:
        assert fleets.RUN in there.line("fast1@demo: queues default, mail")
        await there.press("2")
        assert "a1b2" in there.line("fast1@demo")


async def test_the_holder_of_the_lease_is_named_in_the_header() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("3")
        assert "lease: ann@bastion runs rolling-restart at 2.1: drain w9@demo" in there.text


async def test_a_queue_that_nobody_consumes_says_so() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("3")
        assert "none" in there.line("mail ")
        assert "nobody consumes it" in there.line("mail ")
        assert there.line("odd ").count("?") >= 2


async def test_what_dead_workers_left_in_a_queue_is_told_with_it() -> None:
    stuck = replace(fleets.queue("mail"), orphans=7)
    async with opened(fleets.fleet((), (stuck, fleets.queue("bulk")))) as there:
        await there.press("3")
        assert "7 of dead workers" in there.line("mail ")
        assert "dead" not in there.line("bulk ")


async def test_ages_go_on_between_two_snapshots() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("2")
        assert "0.4s" in there.line("fast1@demo")
        await there.later(8)
        assert "2 (8s)" in there.line("fast1@demo")
        assert "read 8s ago" in there.text


async def test_a_lost_broker_is_told_loudly_with_what_was_last_known() -> None:
    async with opened(fleets.demo()) as there:
        await there.see(fleets.lost())
        told = there.line("BROKER LOST")
        assert "since 12:03:03 UTC (8s): connection refused" in told
        assert "showing what was last known" in told
        assert "lost 8s ago" in there.text
        assert "read " not in there.text.split("\n")[0]
        await there.press("2")
        assert "BROKER LOST" in there.text
        assert "fast1@demo" in there.text
        await there.see(fleets.demo())
        assert "BROKER LOST" not in there.text


async def test_a_watch_that_ends_is_told_and_begun_again() -> None:
    async with opened(fleets.demo()) as there:
        there.collector.put(BrokerUnreachable("no route to host"))
        await there.settle()
        assert "NOT WATCHING" in there.line("no route to host")
        there.clock.advance(3)
        await there.see(fleets.demo())
        assert "NOT WATCHING" not in there.text


async def test_a_frozen_display_stays_and_keeps_telling_its_age() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("2", "p")
        await there.see(fleets.broken())
        assert "● online" in there.line("fast2@demo")
        await there.later(20)
        assert "FROZEN at 12:03:11 UTC (20s ago)" in there.text
        assert "read 20s ago" in there.text
        await there.press("p")
        assert "FROZEN" not in there.text
        assert "▲ silent" in there.line("fast2@demo")


async def test_a_frozen_display_still_tells_that_the_broker_is_lost() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("p")
        await there.see(fleets.lost())
        assert "BROKER LOST" in there.text


async def test_the_filter_narrows_and_escape_gives_all_back() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("2", "slash")
        await there.type("state:silent")
        assert "fast2@demo" in there.text
        assert "fast1@demo" not in there.text
        assert "1 shown" in there.line("5 workers")
        await there.press("enter", "d")
        assert "worker fast2@demo" in there.text
        await there.press("escape", "escape")
        assert "fast1@demo" in there.text


async def test_a_filter_by_a_column_that_is_none_says_so() -> None:
    async with opened() as there:
        await there.press("2", "slash")
        await there.type("sate:online")
        assert "there is no column sate" in there.text


async def test_upper_case_letters_can_be_typed_into_the_filter() -> None:
    async with opened() as there:
        await there.press("2", "slash")
        await there.type("DRq?1")
        assert there.desk.planned == []
        assert "nothing matches" in there.text


async def test_only_what_is_wrong_can_be_shown() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("2", "ctrl+z")
        assert "only what is wrong" in there.text
        assert "other@elsewhere" not in there.text
        assert "fast1@demo" in there.text
        await there.press("escape")
        assert "other@elsewhere" in there.text


async def test_marks_survive_refreshes_and_hidden_ones_are_told() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("2", "space", "space")
        await there.see(fleets.demo())
        assert "2 marked" in there.text
        await there.press("slash")
        await there.type("fast1")
        assert "(2 of them not shown)" in there.text


async def test_a_mark_of_a_worker_that_is_gone_is_gone() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("2", "space")
        assert "1 marked" in there.text
        left = tuple(one for one in fleets.demo().workers if one.name != "bulk1@demo")
        await there.see(fleets.fleet(left, ()))
        assert "marked" not in there.text


async def test_the_sort_column_moves_and_inverts_while_the_cursor_stays() -> None:
    async with opened(fleets.broken()) as there:
        await there.press("2", "down", "greater_than_sign")
        rows = [line for line in there.text.split("\n") if line[2:].split("@")[0].isalnum()]
        assert "silent" in rows[0]
        assert "▌" in there.line("bulk2@demo")
        await there.press("i")
        rows = [line for line in there.text.split("\n") if line[2:].split("@")[0].isalnum()]
        assert "online" in rows[0]
        assert "state▼" in there.text
        await there.press("less_than_sign")
        assert "worker▼" in there.text


async def test_describing_a_worker_tells_the_age_of_each_reading() -> None:
    async with opened(fleets.broken(), size=(120, 90)) as there:
        await there.press("2", "down", "down", "d")
        for part in (
            "Taken by a run", "celery-ops worker resume fast1@demo", "Consumes  read 0.4s ago",
            "Service  read 0.6s ago", "stop grace", "Running: 0", "Reserved: 1", "prefetch",
        ):  # fmt: skip
            assert part in there.text
        await there.later(60)
        assert "Consumes  read 1m ago" in there.text
        await there.press("escape")
        assert "5 workers" in there.text


async def test_what_was_not_read_of_a_worker_is_said_to_be_unread() -> None:
    async with opened(fleets.broken(), size=(120, 90)) as there:
        await there.press("2", "down", "d")
        assert "Consumes  ? not read" in there.text
        assert "Running  ? not read" in there.text


async def test_describing_a_queue_names_its_consumers() -> None:
    async with opened(fleets.demo()) as there:
        await there.press("3", "d")
        assert "bulk1@demo ● online  bulk2@demo ● online" in there.line("consumers")


async def test_a_problem_opens_with_what_is_known_of_its_subject() -> None:
    async with opened(fleets.broken(), size=(120, 90)) as there:
        await there.press("down", "enter")
        assert "silent-worker" in there.text
        assert "worker fast2@demo" in there.text
        assert "Reserved: 1" in there.text


async def test_the_raw_data_is_json_with_its_moment() -> None:
    async with opened() as there:
        await there.press("2", "y")
        assert '"name": "bulk1@demo"' in there.text
        assert "as of 12:03:11 UTC" in there.text


async def test_a_description_of_something_gone_says_so() -> None:
    async with opened() as there:
        await there.press("2", "d")
        await there.see(fleets.fleet((), ()))
        assert "Nothing is known of it any more" in there.text


async def test_the_runs_are_listed_and_opened() -> None:
    desk = standins.PaperDesk(
        listed=(
            standins.summary(),
            standins.summary("20261120-110000-beef", RunState.INTERRUPTED, "nobody runs it"),
        )
    )
    async with opened(desk=desk) as there:
        await there.press("8")
        assert "▶ running" in there.line(fleets.RUN)
        assert "▲ interrupted" in there.line("20261120-110000-beef")
        desk.write(*standins.events())
        await there.press("enter")
        assert "✓ succeeded" in there.text


async def test_without_a_desk_there_are_no_runs_and_no_writes() -> None:
    async with opened() as there:
        app = type(there.app)(
            there.collector, None, context="demo", protected=False, read_only=False,
            clock=there.clock,
        )  # fmt: skip
    async with app.run_test() as pilot:
        await pilot.pause()
        assert not app.check_action("view", ("runs",))
        assert app.picture.read_only


async def test_a_view_can_be_opened_from_within_a_description() -> None:
    async with opened() as there:
        await there.press("2", "d", "3")
        assert "3 queues" in there.text


async def test_the_state_of_a_worker_can_be_read_without_colours() -> None:
    every = tuple(fleets.worker(f"{state}@demo", state=state) for state in WorkerState)
    async with opened(fleets.fleet(every, ())) as there:
        await there.press("2")
        for state in WorkerState:
            assert there.line(f"{state}@demo").count(str(state)) == 2
