"""A key's passphrase, asked for while the app goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from celery_ops.config.secret import Secret
from celery_ops.tui.app import OpsApp
from celery_ops.tui.confirm import PassphraseScreen
from tests.tui.screens import opened
from tests.tui.standins import FedCollector, HandClock

KEY = Path("/home/deploy/.ssh/id_[red]ed25519")


async def test_a_passphrase_is_typed_unseen() -> None:
    async with opened() as there:
        asked = asyncio.ensure_future(there.app.ask_passphrase(KEY))
        await there.settle()
        assert f"Passphrase of {KEY}" in there.text
        await there.type("correct horse")
        assert "•" in there.text
        assert "horse" not in there.text
        assert not asked.done()
        await there.press("enter")
        assert await asked == Secret("correct horse")
        assert "Passphrase" not in there.text


async def test_escape_and_an_empty_line_say_that_it_is_not_known() -> None:
    for key in ("escape", "enter"):
        async with opened() as there:
            asked = asyncio.ensure_future(there.app.ask_passphrase(KEY))
            await there.settle()
            await there.press(key)
            assert await asked is None


async def test_the_fleet_is_drawn_on_behind_the_question() -> None:
    async with opened() as there:
        asked = asyncio.ensure_future(there.app.ask_passphrase(KEY))
        await there.settle()
        await there.press("1", "q", "D")
        assert isinstance(there.app.screen, PassphraseScreen)
        await there.press("escape")
        assert await asked is None
        assert there.app.is_running


async def test_a_question_that_is_older_than_the_screen_is_asked_on_it() -> None:
    app = OpsApp(
        FedCollector(), None, context="demo", protected=False, read_only=False, clock=HandClock()
    )
    asked = asyncio.ensure_future(app.ask_passphrase(KEY))
    await asyncio.sleep(0)
    async with app.run_test() as pilot:
        await pilot.pause()
        assert isinstance(app.screen, PassphraseScreen)
        await pilot.press("x", "enter")
        assert await asked == Secret("x")
