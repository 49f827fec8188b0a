"""Calls that block, beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from celery_ops.errors import JournalError
from celery_ops.tui.aside import Aside


async def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    aside = Aside()

    def fails() -> None:
        raise JournalError("no space left")

    assert await aside.call(lambda one, two: one + two, 1, two=2) == 3
    with pytest.raises(JournalError, match="no space left"):
        await aside.call(fails)
    aside.close()


async def test_the_loop_goes_on_while_a_call_blocks() -> None:
    aside = Aside()
    release = threading.Event()
    blocked = asyncio.create_task(aside.call(release.wait, 30))
    turns = 0
    while turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not blocked.done()
    release.set()
    assert await blocked
    aside.close()


async def test_calls_end_in_their_order() -> None:
    aside = Aside()
    ended: list[int] = []
    await asyncio.gather(*(aside.call(ended.append, number) for number in range(50)))
    assert ended == list(range(50))
    aside.close()


async def test_a_call_that_nobody_waits_for_any_more_harms_nothing() -> None:
    aside = Aside()
    release = threading.Event()
    blocked = asyncio.create_task(aside.call(release.wait, 30))
    await asyncio.sleep(0)
    blocked.cancel()
    release.set()
    assert await aside.call(lambda: "next") == "next"
    aside.close()


async def test_its_thread_does_not_hold_up_the_end_of_the_process() -> None:
    aside = Aside()
    await aside.call(lambda: None)
    assert next(one for one in threading.enumerate() if one.name == "aside").daemon
    aside.close()
