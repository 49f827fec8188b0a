"""The thread that kombu's connections live in: a hung call is left alone."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.by_kombu.address import KombuAddress
from celery_ops.broker.by_kombu.link import MOST_STUCK, KombuLink
from celery_ops.config.secret import Secret
from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.broker.by_kombu.link import Session

ADDRESS = KombuAddress("mongodb", Secret("mongodb://ops:s3cr3t-word@db.example/shop"))


@pytest.fixture
async def link() -> AsyncIterator[KombuLink]:
    made = KombuLink(ADDRESS)
    yield made
    await made.close()


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Set at the end, so that no thread hangs on."""
    event = threading.Event()
    yield event
    event.set()


async def test_work_is_done_in_one_thread_in_order(link: KombuLink) -> None:
    done: list[int] = []

    def work(number: int, _: Session) -> int:
        done.append(number)
        return threading.get_ident()

    threads = await asyncio.gather(*(link.call(partial(work, number)) for number in range(20)))
    assert done == list(range(20))
    assert set(threads) - {threading.get_ident()} == {threads[0]}


async def test_a_hung_call_ends_at_its_deadline_and_the_next_one_is_done(
    link: KombuLink, over: threading.Event
) -> None:
    with pytest.raises(BrokerUnreachable, match="does not answer"):
        await link.call(lambda _: over.wait(), deadline=0.05)
    assert await link.call(lambda _: "done") == "done"


async def test_who_waits_behind_a_hung_call_is_told_and_takes_nobody_elses_thread(
    link: KombuLink, over: threading.Event
) -> None:
    hung = asyncio.ensure_future(link.call(lambda _: over.wait(), deadline=0.05))
    behind = asyncio.ensure_future(link.call(lambda _: "done", deadline=0.1))
    with pytest.raises(BrokerUnreachable):
        await hung
    thread = await link.call(lambda _: threading.get_ident())
    with pytest.raises(BrokerUnreachable):
        await behind
    assert await link.call(lambda _: threading.get_ident()) == thread


async def test_not_every_call_may_hang_in_a_thread_of_its_own(
    link: KombuLink, over: threading.Event
) -> None:
    before = threading.active_count()
    for _ in range(3 * MOST_STUCK):
        with pytest.raises(BrokerUnreachable):
            await link.call(lambda _: over.wait(), deadline=0.02)
    assert threading.active_count() <= before + MOST_STUCK


async def test_what_a_library_raises_is_told_without_the_password(link: KombuLink) -> None:
    def work(_: Session) -> None:
        raise ConnectionError("no route to mongodb://ops:s3cr3t-word@db.example/ (s3cr3t-word)")

    with pytest.raises(BrokerUnreachable, match="no route to") as raised:
        await link.call(work)
    assert "s3cr3t" not in f"{raised.value}"


async def test_a_bug_is_not_taken_for_the_brokers(link: KombuLink) -> None:
    def work(_: Session) -> None:
        raise KeyError("of ours")

    with pytest.raises(KeyError, match="of ours"):
        await link.call(work)


async def test_after_its_end_nothing_is_done(link: KombuLink) -> None:
    await link.call(lambda _: None)
    await link.close()
    with pytest.raises(BrokerUnreachable, match="closed by us"):
        await link.call(lambda _: None)
    await link.close()
