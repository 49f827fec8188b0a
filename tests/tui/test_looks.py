"""Terminals: small and large, with sixteen colours, without any, light and dark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.tui.theme import DARK, LIGHT, SIXTEEN, THEMES, first_theme
from tests.tui import fleets, standins
from tests.tui.screens import opened
from tests.tui.standins import PaperDesk

if TYPE_CHECKING:
    from textual.theme import Theme

EVERY_SIZE = {"40x10": (40, 10), "80x24": (80, 24), "200x50": (200, 50), "wide": (400, 20)}


@pytest.mark.parametrize("size", EVERY_SIZE.values(), ids=EVERY_SIZE)
async def test_every_screen_opens_at_every_size(size: tuple[int, int]) -> None:
    desk = PaperDesk(plan_made=standins.plan(), listed=(standins.summary(),))
    desk.write(*standins.events()[:6], standins.asked())
    ledger = {"sent": 123_456, "done": 1, "running": 1, "lost": 0, "twice": 0}
    async with opened(fleets.broken(), size=size, desk=desk, ledger=ledger) as there:
        for keys in ("2d", "3d", "6d", "8d", "?", ":"):
            await there.press(*(_named(key) for key in keys))
            await there.press("escape")
        await there.press("2", "down", "R", "enter", "escape", "escape", "8")
        await there.press("enter")
        assert "▌" in there.text or "stop" in there.text


async def test_it_can_be_resized_while_it_runs() -> None:
    async with opened(fleets.broken(), size=(200, 50)) as there:
        await there.press("2")
        await there.pilot.resize_terminal(60, 20)
        await there.settle()
        assert all(len(line) <= 60 for line in there.text.split("\n"))
        assert "▲ silent" in there.line("fast2@demo")


@pytest.mark.parametrize("theme", THEMES, ids=lambda one: one.name)
async def test_every_look_is_complete(theme: Theme) -> None:
    async with opened(fleets.broken()) as there:
        there.app.theme = theme.name
        await there.settle()
        await there.press("2", "space", "D")
        assert "This cannot be done" in there.text


async def test_without_colours_nothing_but_weight_and_signs_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(fleets.broken(), protected=True) as there:
        await there.press("2")
        for strip in there.app.screen._compositor.render_strips():
            styles = [segment.style for segment in strip if segment.style is not None]
            colors = {color for one in styles for color in (one.color, one.bgcolor)}
            assert all(color is None or color.is_default for color in colors)
        assert "▲ silent" in there.text
        assert "▌" in there.text


async def test_light_and_dark_are_one_key() -> None:
    async with opened() as there:
        await there.press("ctrl+t")
        first = there.app.theme
        await there.press("ctrl+t")
        assert {first, there.app.theme} == {LIGHT.name, DARK.name}


@pytest.mark.parametrize(
    ("colors", "no_color", "colorfgbg", "look"),
    [
        ("truecolor", False, "", DARK),
        ("truecolor", False, "0;15", LIGHT),
        ("256", False, "15;0", DARK),
        ("standard", False, "", SIXTEEN),
        (None, False, "", SIXTEEN),
        ("truecolor", True, "", SIXTEEN),
    ],
)
def test_the_first_look_suits_the_terminal(
    colors: str | None, no_color: bool, colorfgbg: str, look: Theme
) -> None:
    assert first_theme(colors=colors, no_color=no_color, colorfgbg=colorfgbg) is look


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda one: one.name)
def test_texts_stand_out_from_their_background(theme: Theme) -> None:
    """The Web Content Accessibility Guidelines' contrast of 4.5 (rule 1.4.3)."""
    dim = theme.variables["dim"]
    for name in ("foreground", "primary", "warning", "error", "success"):
        assert contrast(str(getattr(theme, name)), str(theme.background)) >= 4.5, name
    assert contrast(dim, str(theme.background)) >= 4.5
    assert contrast(str(theme.foreground), theme.variables["cursor-row"]) >= 4.5


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: str) -> float:
    parts = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _named(key: str) -> str:
    return {"?": "question_mark", ":": "colon"}.get(key, key)
