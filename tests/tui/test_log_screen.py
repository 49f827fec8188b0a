"""A service's log on the screen: followed, broken off, begun again, and full of hostile text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.tui.log_screen import LogScreen
from celery_ops.tui.log_view import MOST_LINES, folded
from celery_ops.tui.text import safe
from tests.tui import fleets
from tests.tui.screens import SIZES, Opened, opened
from tests.tui.standins import FedLogs

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


def with_logs(logs: FedLogs, **options: Any) -> AbstractAsyncContextManager[Opened]:
    return opened(logs=logs, **options)


async def follow(there: Opened) -> None:
    """The log of the first worker."""
    await there.press("2", "l")


def plain(there: Opened) -> str:
    assert isinstance(there.app.screen, LogScreen)
    return there.app.screen.plain


async def test_lines_are_shown_as_they_come() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        assert "log of supervisord bulk1 on local" in there.text
        assert "nothing came yet (0.0s)" in there.text
        logs.write("one", "two")
        await there.settle()
        assert plain(there) == "one\ntwo"
        logs.write("three")
        await there.settle()
        assert plain(there) == "one\ntwo\nthree"


async def test_it_says_since_when_nothing_came() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        await there.later(7)
        assert "nothing came yet (7s)" in there.text
        logs.write("one")
        await there.settle()
        await there.later(90)
        assert "last line 1m ago" in there.text


async def test_leaving_ends_the_reading() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        assert logs.following == 1
        await there.press("escape")
        assert logs.following == 0
        assert "4 workers" in there.text


async def test_another_view_ends_the_reading_too() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        await there.press("3")
        assert logs.following == 0


async def test_the_description_of_a_worker_leads_to_its_log() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await there.press("2", "d", "l")
        assert [one.name for one in logs.begun] == ["bulk1"]
        await there.press("escape")
        assert "worker bulk1@demo" in there.text
        await there.press("escape", "3", "d", "l")
        assert len(logs.begun) == 1


async def test_a_worker_without_a_service_says_what_is_missing() -> None:
    logs = FedLogs()
    fleet = fleets.demo()
    bare = replace(fleet, workers=tuple(replace(worker, service=None) for worker in fleet.workers))
    async with opened(bare, logs=logs) as there:
        await follow(there)
        assert "No service is configured that runs bulk1@demo" in there.text
        assert logs.begun == []


async def test_there_is_no_key_for_a_log_where_nothing_has_one() -> None:
    async with with_logs(FedLogs()) as there:
        await there.press("3", "l")
        assert "3 queues" in there.text
        assert " l log" not in there.text


@pytest.mark.parametrize("key", ["f", "end"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_the_end_is_followed_until_somebody_scrolls_away(
    size: tuple[int, int], key: str
) -> None:
    logs = FedLogs()
    async with with_logs(logs, size=size) as there:
        await follow(there)
        logs.write(*(f"line {number}" for number in range(100)))
        await there.settle()
        assert "line 99" in there.text
        await there.press("pageup")
        assert "line 99" not in there.text
        assert "scrolled away" in there.text
        top = there.text.split("\n")[5]
        logs.write(*(f"line {number}" for number in range(100, 200)))
        await there.settle()
        assert there.text.split("\n")[5] == top
        assert "f follows again" in there.text
        await there.press(key)
        assert "line 199" in there.text
        assert "scrolled away" not in there.text
        logs.write("line 200")
        await there.settle()
        assert "line 200" in there.text


async def test_scrolling_back_to_the_end_follows_again() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write(*(f"line {number}" for number in range(100)))
        await there.settle()
        await there.press("up")
        assert "scrolled away, 1 row below" in there.text
        await there.press("down")
        logs.write("new")
        await there.settle()
        assert "new" in there.text
        assert "scrolled away" not in there.text


async def test_the_past_is_bounded_and_what_is_read_stays_in_place() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write(*(f"line {number}" for number in range(MOST_LINES)))
        await there.settle()
        await there.press("pageup")
        top = there.text.split("\n")[5]
        assert top.strip().startswith("line 49")
        logs.write(*(f"more {number}" for number in range(1000)))
        await there.settle()
        assert there.text.split("\n")[5] == top
        assert plain(there).count("\n") == MOST_LINES - 1
        assert plain(there).startswith("line 1000\n")


async def test_a_frozen_display_keeps_its_lines_and_shows_the_others_later() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("one")
        await there.settle()
        await there.press("p")
        logs.write("two", "three")
        await there.settle()
        assert plain(there) == "one"
        assert "2 lines came since it was frozen" in there.text
        await there.press("slash", "o", "enter")
        assert plain(there) == "one"
        await there.press("escape")
        await there.press("p")
        assert plain(there) == "one\ntwo\nthree"


async def test_what_was_scrolled_to_stays_when_the_display_goes_on() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write(*(f"line {number}" for number in range(100)))
        await there.settle()
        await there.press("pageup", "p")
        logs.write("new")
        await there.settle()
        await there.press("p")
        assert "scrolled away" in there.text
        await there.press("f")
        assert "new" in there.text


async def test_a_lost_host_is_said_with_the_moment_and_tried_again_more_and_more_seldom() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("one", "two")
        logs.break_off(HostUnreachable("web1 cannot be reached: no route to host."))
        await there.settle()
        assert "── 12:03:11 UTC: web1 cannot be reached" in plain(there)
        assert "NOT FOLLOWED for 0.0s, tried again in 1s" in there.text
        for pause, begun in ((1, 2), (2, 3), (5, 4), (10, 5), (30, 6), (30, 7)):
            logs.break_off(HostUnreachable("web1 cannot be reached: no route to host."))
            await there.later(pause - 0.5)
            assert len(logs.begun) == begun - 1
            await there.later(0.5)
            assert len(logs.begun) == begun
        assert plain(there).count("──") == 1


async def test_a_log_that_is_begun_again_goes_on_where_it_broke_off() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("a", "b", "c")
        logs.break_off(HostUnreachable("gone."))
        await there.settle()
        logs.write("0", "a", "b", "c", "d")
        await there.later(1)
        assert plain(there).split("\n") == [
            "a", "b", "c", "── 12:03:11 UTC: gone.",
            "── 12:03:12 UTC: following again; nothing is missing", "d",
        ]  # fmt: skip
        assert "NOT FOLLOWED" not in there.text


async def test_lines_that_may_be_missing_are_said_to_be() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("a")
        logs.break_off()
        await there.settle()
        assert "the log ended" in plain(there)
        logs.write("x", "y")
        await there.later(1)
        assert "may be missing" in plain(there)
        assert plain(there).endswith("x\ny")


async def test_what_helps_is_said_with_what_is_wrong() -> None:
    logs = FedLogs()
    logs.break_off(CommandFailed("ops may not read it.", fix="usermod -aG systemd-journal ops"))
    async with with_logs(logs, size=(200, 50)) as there:
        await follow(there)
        assert "ops may not read it. usermod -aG systemd-journal ops" in there.text


async def test_a_filter_shows_only_lines_with_its_words() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("Task mail done", "task report done", "Task mail failed")
        await there.press("slash")
        await there.type("mail !FAILED")
        assert plain(there) == "Task mail done"
        await there.press("enter")
        logs.write("no", "another mail")
        await there.settle()
        assert plain(there) == "Task mail done\nanother mail"
        assert "only lines that match" in there.text
        await there.press("escape")
        assert plain(there).count("\n") == 4
        await there.press("escape")
        assert logs.following == 0


async def test_hostile_lines_are_text() -> None:
    logs = FedLogs()
    async with with_logs(logs, size=(80, 24)) as there:
        await follow(there)
        for text in fleets.HOSTILE:
            logs.write(text)
            await there.settle()
            shown = there.text
            assert not any(ord(letter) < 0x20 for letter in shown if letter != "\n")
            assert "\u202e" not in shown
            assert all(len(line) <= 80 for line in shown.split("\n"))
        assert "[bold red]evil[/]" in plain(there)


async def test_long_lines_are_wrapped_and_wrapped_anew_when_the_screen_changes() -> None:
    logs = FedLogs()
    async with with_logs(logs, size=(80, 24)) as there:
        await follow(there)
        logs.write("x" * 100 + "END", "漢字" * 50 + "終")
        await there.settle()
        assert "END" in there.text
        assert "終" in there.text
        await there.pilot.resize_terminal(200, 50)
        await there.settle()
        assert "x" * 100 + "END" in there.text


@given(st.text(max_size=300), st.integers(2, 120))
def test_a_line_is_folded_without_losing_anything_but_spaces(text: str, width: int) -> None:
    text = safe(text)
    rows = folded(text, width)
    assert all(cell_len(row) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == text.replace(" ", "")


def test_a_line_is_broken_between_its_words() -> None:
    assert folded("a task that was received", 21) == ["a task that was", "    received"]
    assert folded("x" * 30, 21) == ["x" * 21, "    " + "x" * 9]
    assert folded("", 21) == [""]


async def test_no_character_is_lost_at_the_edge() -> None:
    logs = FedLogs()
    async with with_logs(logs, size=(80, 24)) as there:
        await follow(there)
        digits = "".join(str(number % 10) for number in range(1000))
        logs.write(*(["before"] * 50), digits)
        await there.settle()
        rows = [line.strip(" ▁▂▃▄▅▆▇█") for line in there.text.split("\n")[-15:-1]]
        assert "".join(rows).endswith(digits)


async def test_the_times_of_a_journal_are_short_today() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write(
            "2026-11-20T12:00:00+0000 celery[7]: today",
            "2026-11-19T12:00:00+0000 celery[7]: before",
        )
        await there.settle()
        assert plain(there) == "12:00:00 celery[7]: today\n2026-11-19 12:00:00 celery[7]: before"


async def test_the_lines_are_copied() -> None:
    logs = FedLogs()
    async with with_logs(logs) as there:
        await follow(there)
        logs.write("one", "two")
        await there.settle()
        await there.press("c")
        assert there.app.clipboard == "one\ntwo"
