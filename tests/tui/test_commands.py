"""One registry of keys: what is bound, in help and palette, and left out when reading only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.tui import scaling
from celery_ops.tui.app import OpsApp
from celery_ops.tui.commands import COMMANDS, Command, Where
from celery_ops.tui.confirm import ConfirmScreen
from celery_ops.tui.log_screen import LogScreen
from celery_ops.tui.plan_screen import PlanScreen
from celery_ops.tui.queue_screen import QueueScreen
from celery_ops.tui.queues import QueuesView
from celery_ops.tui.run_screen import RunScreen
from celery_ops.tui.table_view import TableView
from celery_ops.tui.text_screen import DescribeScreen
from celery_ops.tui.workers import WorkersView
from tests.tui import standins
from tests.tui.screens import opened
from tests.tui.standins import PaperDesk

if TYPE_CHECKING:
    from pathlib import Path

OWNERS: dict[Where, type] = {
    Where.APP: OpsApp,
    Where.TABLE: TableView,
    Where.WORKERS: WorkersView,
    Where.QUEUES: QueuesView,
    Where.QUEUE: QueueScreen,
    Where.TEXT: DescribeScreen,
    Where.LOG: LogScreen,
    Where.PLAN: PlanScreen,
    Where.RUN: RunScreen,
    Where.CONFIRM: ConfirmScreen,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.where.name}-{one.display}")
def test_every_command_has_an_action(command: Command) -> None:
    name = command.action.partition("(")[0]
    assert callable(getattr(OWNERS[command.where], f"action_{name}", None))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: f"{one.where.name}-{one.display}")
def test_writes_are_upper_case_and_reading_is_lower_case(command: Command) -> None:
    if len(command.display) == 1 and command.display.isalpha():
        assert command.display.isupper() == command.writes


def test_no_place_binds_a_key_twice() -> None:
    for where in Where:
        keys = [key for one in COMMANDS if one.where is where for key in one.keys.split(",")]
        assert len(set(keys)) == len(keys)


async def test_the_help_shows_every_key_and_what_the_signs_mean(tmp_path: Path) -> None:
    needed = [one.runbook for one in COMMANDS if one.where is Where.QUEUES and one.runbook]
    needed += [scaling.UP, scaling.DOWN]
    library = standins.library(tmp_path, *needed, to="How many", processes="How many more")
    async with opened(size=(100, 120), library=library) as there:
        await there.press("question_mark")
        for command in COMMANDS:
            assert command.does in there.text
        assert "not known: not read yet" in there.text


async def test_the_palette_finds_what_a_key_does() -> None:
    async with opened(size=(100, 50)) as there:
        await there.press("colon")
        await there.type("queues")
        await there.press("enter")
        assert "3 queues" in there.text


async def test_the_palette_offers_writes_where_they_are_possible_only() -> None:
    async with opened(size=(100, 60)) as there:
        await there.press("ctrl+p")
        assert "Drain: stop consuming" not in there.text
        await there.press("escape", "2", "ctrl+p")
        assert "Drain: stop consuming" in there.text


async def test_a_command_of_the_palette_works_as_its_key_does() -> None:
    desk = PaperDesk(plan_made=standins.plan())
    async with opened(desk=desk) as there:
        await there.press("2", "ctrl+p")
        await there.type("drain: stop")
        await there.press("enter")
        await there.settle()
        assert desk.planned == [("drain-worker", {"workers": "bulk1@demo"})]


async def test_reading_only_there_are_no_writes_anywhere() -> None:
    desk = PaperDesk(plan_made=standins.plan(), listed=(standins.summary(),))
    desk.write(*standins.events()[:6])
    async with opened(desk=desk, read_only=True, size=(100, 100)) as there:
        assert "READ ONLY" in there.text
        await there.press("2", "D", "R", "U")
        assert desk.planned == []
        assert "drain" not in there.text
        await there.press("ctrl+p")
        assert "Drain" not in there.text
        await there.press("escape", "question_mark")
        for command in COMMANDS:
            assert not command.writes or command.does not in there.text
        await there.press("escape", "8")
        await there.press("enter")
        await there.press("A", "P", "Y")
        assert desk.said == []
        assert "abort" not in there.text


async def test_the_key_bar_shows_whole_keys_only() -> None:
    async with opened(size=(60, 24)) as there:
        await there.press("2")
        bar = there.text.rstrip().split("\n")[-1]
        assert bar.split() == [
            "D", "drain", "R", "restart", "U", "resume", "enter", "open", "space", "mark",
        ]  # fmt: skip


async def test_a_click_on_a_view_or_a_key_is_that_key() -> None:
    async with opened() as there:
        column = there.line("2 Workers").index("2 Workers")
        await there.pilot.click(offset=(column + 2, 1))
        await there.settle()
        assert "4 workers" in there.text
        await there.pilot.click(offset=(there.text.split("\n")[-1].index("? keys") + 1, 39))
        await there.settle()
        assert "keys and signs" in there.text


async def test_the_name_under_the_cursor_is_copied() -> None:
    async with opened() as there:
        await there.press("3", "down", "c")
        assert there.app.clipboard == "default"
