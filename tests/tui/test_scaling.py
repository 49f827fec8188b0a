"""Keys that ask first: how many workers there are to be, and which release they are to run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_ops.model import WorkerState
from celery_ops.runbook.library import Library
from tests.tui import fleets, standins
from tests.tui.screens import SIZES, opened
from tests.tui.standins import PaperDesk

ALL = "bulk1@demo,bulk2@demo,fast1@demo"


def paper() -> PaperDesk:
    return PaperDesk(plan_made=standins.plan())


@pytest.mark.parametrize(
    ("to", "runbook"), [("0", "scale-down"), ("1", "scale-down"), ("2", "scale-up"),
                        ("many", "scale-down")],
)  # fmt: skip
async def test_s_asks_how_many_of_them_are_to_run(to: str, runbook: str) -> None:
    stopped = fleets.worker("c@demo", state=WorkerState.STOPPED)
    fleet = fleets.fleet((fleets.worker("a@demo"), stopped), ())
    desk = paper()
    async with opened(fleet, desk=desk, library=Library(None)) as there:
        await there.press("2", "space", "space", "S")
        assert "scale for a@demo, c@demo" in there.text
        assert "1 of 2 run now" in there.text
        assert "to  How many of the workers are to run afterwards" in there.text
        assert "(needed)" not in there.text
        assert desk.planned == []
        await there.type(to)
        await there.press("enter")
        assert desk.planned == [(runbook, {"workers": "a@demo,c@demo", "to": to})]


async def test_s_lets_pools_grow() -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None)) as there:
        await there.press("2", "S", "tab")
        await there.type("2")
        await there.press("enter")
        assert desk.planned == [("scale-up", {"workers": "bulk1@demo", "processes": "2"})]


async def test_nothing_typed_or_both_plans_nothing() -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None)) as there:
        await there.press("2", "S", "enter")
        assert "Type one of the two: to or processes." in there.text
        await there.press("S", "3", "tab", "2", "enter")
        await there.press("S", "escape")
        assert desk.planned == []


async def test_s_is_not_offered_where_nothing_may_change_or_nothing_can_scale() -> None:
    async with opened(desk=paper(), library=Library(None), read_only=True) as there:
        await there.press("2", "S")
        assert "How many" not in there.text
    async with opened(desk=paper()) as there:
        await there.press("2", "S")
        assert "How many" not in there.text


async def test_a_deploy_asks_for_the_release_and_means_all_workers() -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None)) as there:
        await there.press("2", "E")
        assert "release (needed)  The release to switch to" in there.text
        await there.press("enter")
        assert desk.planned == []
        await there.type("v42")
        await there.press("enter")
        assert desk.planned == [("deploy", {"release": "v42"})]


async def test_a_deploy_means_the_marked_workers_where_some_are() -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None)) as there:
        await there.press("2", "space", "E")
        await there.type("v42")
        await there.press("enter")
        assert desk.planned == [("deploy", {"release": "v42", "workers": "bulk1@demo"})]


async def test_a_rollback_of_all_is_planned_to_the_release_before() -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None)) as there:
        await there.press("2", "B")
        assert "previous" in there.text, "what it is where nothing is typed"
        assert "drain-first" in there.text
        assert desk.planned == []
        await there.press("enter")
        assert desk.planned == [("rollback", {})]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_rollback_can_be_to_a_named_release(size: tuple[int, int]) -> None:
    desk = paper()
    async with opened(desk=desk, library=Library(None), size=size) as there:
        await there.press("2", "B")
        assert "rollback for " in there.text
        assert "release  The release to go back to" in there.text
        assert "enter: on to the plan" in there.text
        await there.type("v40")
        await there.press("enter")
        assert desk.planned == [("rollback", {"release": "v40"})]


async def test_workers_outside_the_scope_are_not_named_by_a_release() -> None:
    fleet = fleets.fleet((replace(fleets.worker("a@demo"), mine=False),), ())
    desk = paper()
    async with opened(fleet, desk=desk, library=Library(None)) as there:
        await there.press("2", "B", "E")
        assert desk.planned == []
