"""Names and texts that somebody made up to break the screen are text on it, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from celery_ops.runbook.events import EventKind
from celery_ops.tui import describe
from celery_ops.tui.picture import Kind, Picture, Subject
from celery_ops.tui.plan_screen import PlanScreen
from celery_ops.tui.text import safe
from tests.tui import fleets, standins
from tests.tui.fleets import HOSTILE
from tests.tui.screens import SIZES, Opened, opened
from tests.tui.standins import PaperDesk


def _plain(there: Opened) -> str:
    screen = there.app.screen
    assert isinstance(screen, PlanScreen)
    return screen.plain


def assert_harmless(text: str, size: tuple[int, int]) -> None:
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) == size[1]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_hostile_fleets_are_shown_as_text_in_every_view(size: tuple[int, int]) -> None:
    async with opened(fleets.hostile(), size=size, desk=PaperDesk()) as there:
        assert "[bold red]evil[/]" in there.text
        assert_harmless(there.text, size)
        for view in "123":
            await there.press(view)
            assert_harmless(there.text, size)
            await there.press("d")
            assert_harmless(there.text, size)
            await there.press("escape", "y")
            assert_harmless(there.text, size)
            await there.press("escape")


@pytest.mark.parametrize("kind", [Kind.WORKER, Kind.QUEUE], ids=str)
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_everything_hostile_can_be_described_and_shown_as_data(name: str, kind: Kind) -> None:
    snapshot = fleets.hostile()
    picture = Picture("demo", protected=False, read_only=False, now=fleets.NOW, shown=snapshot)
    subject = Subject(kind, name)
    assert len(describe.lines(subject, picture)) > 3
    data = "\n".join(line.text for line in describe.raw(subject, picture))
    assert json.loads(data)["name"] == name


async def test_markup_in_a_name_is_no_markup() -> None:
    async with opened(fleets.hostile()) as there:
        await there.press("2")
        assert "[bold red]evil[/]" in there.text
        assert "␛[31mred␛[0m" in there.text
        assert "<202E>gnp.exe" in there.text


async def test_a_hostile_plan_and_a_hostile_journal_are_text() -> None:
    made = standins.plan(hazards=HOSTILE, refusals=(), irreversible=HOSTILE, summary=HOSTILE[1])
    named = replace(made.targets[0], name=HOSTILE[0])
    made = replace(made, targets=(named, *made.targets[1:]))
    desk = PaperDesk(plan_made=made)
    desk.write(standins.events()[0])
    desk.write(*(standins.event(EventKind.PROGRESS, seq=n, says=t) for n, t in enumerate(HOSTILE)))
    size = (100, 60)
    async with opened(desk=desk, size=size) as there:
        await there.press("2", "R")
        assert "\n  [bold red]evil[/]● online  2 running" in _plain(there)
        assert_harmless(there.text, size)
        await there.press("enter")
        assert_harmless(there.text, size)
        await there.press("Y")
        assert "[@click=app.quit]click[/]" in there.text
        assert_harmless(there.text, size)


async def test_a_hostile_question_is_text() -> None:
    desk = PaperDesk(listed=(standins.summary(),))
    desk.write(standins.events()[0], standins.asked("[red]a[/] \x1b[31m or b?"))
    async with opened(desk=desk) as there:
        await there.press("8")
        await there.press("enter")
        assert "[red]a[/] ␛[31m or b?" in there.text


async def test_an_error_with_markup_is_text() -> None:
    async with opened(fleets.demo()) as there:
        await there.see(fleets.demo(broker_error=HOSTILE[8], broker_lost_at=fleets.ago(2)))
        assert safe(HOSTILE[8]) in there.text
