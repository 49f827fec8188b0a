"""From a real program's log through SSH to the screen, and back after the connection was lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.fleet.logs import Logs
from celery_ops.hosts import HostPool
from celery_ops.model import Service, ServiceRef
from celery_ops.tui.log_screen import LogScreen
from tests.rig.sshd import sshd
from tests.rig.supervisord import supervisord
from tests.tui import fleets
from tests.tui.screens import Opened, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.rig.sshd import Sshd
    from tests.rig.supervisord import Rig

pytestmark = pytest.mark.rig


@asynccontextmanager
async def open_log(rig: Rig, server: Sshd) -> AsyncIterator[Opened]:
    """The app with its first worker's log open."""
    context = only_broker("redis://unused")
    pool = HostPool(replace(context, hosts=(*context.hosts, server.entry("web1"))))
    ref = ServiceRef("web1", "supervisord", "bulk", worker="bulk1@demo", server=rig.server)
    fleet = fleets.demo()
    workers = tuple(replace(one, service=Service(ref, None)) for one in fleet.workers)
    try:
        async with opened(replace(fleet, workers=workers), logs=Logs(pool)) as there:
            await there.press("2", "l")
            yield there
    finally:
        await pool.close()


async def until(there: Opened, *words: str) -> str:
    """The lines that are shown, once all these words are on the screen."""
    async with asyncio.timeout(30):
        while not all(word in there.text for word in words):
            await asyncio.sleep(0.05)
            await there.settle()
    assert isinstance(there.app.screen, LogScreen)
    return there.app.screen.plain


async def test_a_log_is_followed_and_survives_a_lost_connection() -> None:
    programs = {"bulk": {"command": "sleep 1000", "startsecs": "0"}}
    with supervisord(programs) as rig, sshd() as server:
        log = rig.folder / "bulk.log"

        def write(text: str) -> None:
            with log.open("a") as file:
                file.write(text)

        write("".join(f"old {number}\n" for number in range(1000)))
        async with open_log(rig, server) as there:
            await until(there, "log of supervisord bulk on web1", "old 999", "following")
            write("to redis://ops:hush@10.0.0.5/0\n\x1b[31mcrimson\x1b[0m\n")
            shown = await until(there, "crimson")
            assert shown.startswith("old 800\n")
            assert shown.endswith("old 999\nto redis://ops:***@10.0.0.5/0\ncrimson")
            server.kill()
            await until(there, "NOT FOLLOWED", "connection")
            write("meanwhile\n")
            server.start()
            there.clock.advance(1)
            shown = await until(there, "meanwhile", "following")
            assert shown.split("\n")[-2:] == [
                "── 12:03:12 UTC: following again; nothing is missing",
                "meanwhile",
            ]
