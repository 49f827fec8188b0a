"""What every `MessageStore` has to do when messages are moved.

A subclass gives the fixtures of `contract.BrokerContract`.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import LeaseLost
from celery_ops.model import Address, Parked
from celery_ops.ports import Transfer
from tests.broker.contract import ANN, NOBODY, PING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import StoredMessage
    from celery_ops.ports import Broker, Fence, MessageStore

ELSEWHERE = "elsewhere"
FROM, TO = PING.queue, ELSEWHERE
ASIDE = str(Parked(FROM, "r-1", "1"))
SENT = [f"id-{number}" for number in range(10)]
EVEN = SENT[::2]
ODD = SENT[1::2]
TICKET = "r-1 1"


def is_even(message: StoredMessage) -> bool:
    return message.id in EVEN


def store_of(broker: Broker) -> MessageStore:
    assert broker.store is not None
    return broker.store


async def messages(broker: Broker, queue: str) -> list[StoredMessage]:
    async with aclosing(broker.messages.read(queue)) as portions:
        return [message async for portion in portions for message in portion]


async def raws(broker: Broker, queue: str) -> list[bytes]:
    """They alone: a look may mark a message as redelivered."""
    return [message.raw for message in await messages(broker, queue)]


async def ids(broker: Broker, queue: str) -> list[str | None]:
    return [message.id for message in await messages(broker, queue)]


async def move(broker: Broker, transfer: Transfer, fence: Fence) -> tuple[int, int]:
    """Do it to its end: the count under the ticket, and how many were looked at."""
    last = (await store_of(broker).counted(transfer.ticket), 0)
    async with aclosing(store_of(broker).transfer(transfer, fence=fence)) as portions:
        async for portion in portions:
            assert portion.done >= last[0]
            last = (portion.done, portion.seen)
    return last


class MovingContract:
    """Tests that hold for every `MessageStore`."""

    @pytest.fixture
    async def fence(self, broker: Broker) -> Fence:
        """The lease of ANN, with messages that wait in FROM and two in TO."""
        fence = await broker.lease.acquire(ANN)
        for id_ in SENT:
            await broker.send(replace(PING, id=id_), fence=fence)
        for id_ in ("there-1", "there-2"):
            await broker.send(replace(PING, id=id_, queue=TO), fence=fence)
        return fence

    async def test_all_go_behind_those_that_wait_there(self, broker: Broker, fence: Fence) -> None:
        done, seen = await move(broker, Transfer(TICKET, FROM, TO, address=TO), fence)
        assert (done, seen) == (10, 10)
        assert await ids(broker, FROM) == []
        assert await ids(broker, TO) == ["there-1", "there-2", *SENT]
        assert await store_of(broker).counted(TICKET) == 10

    async def test_those_that_are_chosen_go_and_the_others_keep_their_order(
        self, broker: Broker, fence: Fence
    ) -> None:
        transfer = Transfer(TICKET, FROM, TO, choose=is_even, address=TO)
        assert await move(broker, transfer, fence) == (5, 10)
        assert await ids(broker, FROM) == ODD
        assert await ids(broker, TO) == ["there-1", "there-2", *EVEN]

    async def test_a_limit_is_one_of_all_that_is_done_under_the_ticket(
        self, broker: Broker, fence: Fence
    ) -> None:
        for choose, portion in ((is_even, 1), (None, None)):
            transfer = Transfer(TICKET, FROM, ASIDE, choose=choose, limit=3, portion=portion)
            assert (await move(broker, transfer, fence))[0] == 3
        assert await ids(broker, ASIDE) == EVEN[:3]
        assert (await move(broker, Transfer(TICKET, FROM, ASIDE, limit=4), fence))[0] == 4
        assert await ids(broker, ASIDE) == [*EVEN[:3], "id-1"]

    async def test_what_is_parked_is_as_it_was_and_goes_back_to_be_served_first(
        self, broker: Broker, fence: Fence
    ) -> None:
        before = await raws(broker, FROM)
        await move(broker, Transfer(TICKET, FROM, ASIDE), fence)
        assert await raws(broker, ASIDE) == before
        await broker.send(replace(PING, id="later"), fence=fence)
        await move(broker, Transfer(f"{TICKET} back", ASIDE, FROM, first=True), fence)
        found = await raws(broker, FROM)
        assert (found[:10] if store_of(broker).puts_first else found[1:]) == before
        assert (await ids(broker, FROM)).index("later") == (
            10 if store_of(broker).puts_first else 0
        )

    async def test_each_is_asked_for_once(self, broker: Broker, fence: Fence) -> None:
        asked: list[str | None] = []

        def choose(message: StoredMessage) -> bool:
            asked.append(message.id)
            return is_even(message)

        await move(broker, Transfer(TICKET, FROM, TO, choose=choose, address=TO), fence)
        assert asked == SENT

    async def test_another_message_takes_the_place_of_one_that_goes(
        self, broker: Broker, fence: Fence
    ) -> None:
        store = store_of(broker)

        def become(message: StoredMessage) -> StoredMessage:
            return store.compose(replace(PING, id=f"new {message.id}", queue=TO))

        transfer = Transfer(TICKET, FROM, TO, choose=is_even, address=TO, become=become)
        assert await move(broker, transfer, fence) == (5, 10)
        assert await ids(broker, FROM) == ODD
        assert await ids(broker, TO) == ["there-1", "there-2", *(f"new {id_}" for id_ in EVEN)]

    async def test_a_queue_is_where_a_message_so_addressed_goes(
        self, broker: Broker, fence: Fence
    ) -> None:
        del fence
        store = store_of(broker)
        assert await store.leads_to(Address("", FROM), ()) == (FROM,)
        for name in ("no such queue", "x" * 300, "é" * 200, ""):
            assert await store.leads_to(Address("", name), ()) == ()
        assert await store.leads_to(Address("no such exchange", FROM), ()) == ()

    @pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
    async def test_a_transfer_that_was_given_up_goes_on(
        self, broker: Broker, fence: Fence, choose: None
    ) -> None:
        transfer = Transfer(TICKET, FROM, ASIDE, choose=choose, portion=2)
        wanted = SENT if choose is None else EVEN
        done = 0
        while done < len(wanted):
            async with aclosing(store_of(broker).transfer(transfer, fence=fence)) as portions:
                async for portion in portions:
                    assert portion.done >= done
                    if portion.done > done:
                        done = portion.done
                        break
            assert await ids(broker, ASIDE) == wanted[:done]
            both = sorted(map(str, [*await ids(broker, FROM), *await ids(broker, ASIDE)]))
            assert both == SENT

    @pytest.mark.usefixtures("fence")
    async def test_nothing_is_moved_without_the_lease(self, broker: Broker) -> None:
        store = store_of(broker)
        stored = await messages(broker, FROM)
        for choose in (None, is_even):
            with pytest.raises(LeaseLost):
                await move(broker, Transfer(TICKET, FROM, ASIDE, choose=choose), NOBODY)
        with pytest.raises(LeaseLost):
            await store.put(stored, queue=TO, ticket="b", done=0, fence=NOBODY)
        with pytest.raises(LeaseLost):
            await store.drop(ASIDE, count=5, fence=NOBODY)
        with pytest.raises(LeaseLost):
            await store.forget(TICKET, fence=NOBODY)
        assert await raws(broker, FROM) == [message.raw for message in stored]
        assert await ids(broker, ASIDE) == []
        assert await store.counted("b") == 0

    async def test_what_is_put_is_put_once(self, broker: Broker, fence: Fence) -> None:
        store = store_of(broker)
        stored = await messages(broker, FROM)
        await move(broker, Transfer(TICKET, FROM, ASIDE), fence)

        async def put(some: Sequence[StoredMessage], done: int) -> bool:
            return await store.put(some, queue=FROM, ticket="b", done=done, fence=fence)

        parts = (stored[5:], stored[:5]) if store.puts_first else (stored[:5], stored[5:])
        assert not await put(parts[1], 5)
        assert await put(parts[0], 0)
        assert not await put(parts[0], 0)
        assert await store.counted("b") == 5
        assert await put(parts[1], 5)
        assert not await put(parts[1], 5)
        assert await raws(broker, FROM) == [message.raw for message in stored]

    async def test_a_composed_task_is_put_and_each_is_a_message_of_its_own(
        self, broker: Broker, fence: Fence
    ) -> None:
        store = store_of(broker)
        task = replace(PING, id="made", queue=TO)
        made = [store.compose(task), store.compose(task)]
        assert [(one.id, one.task) for one in made] == [("made", PING.task)] * 2
        assert await store.put(made, queue=TO, ticket=TICKET, done=0, fence=fence)
        assert sorted(filter(None, await ids(broker, TO))) == ["made", "made", "there-1", "there-2"]

    async def test_what_is_sent_once_goes_behind_the_others_and_no_second_time(
        self, broker: Broker, fence: Fence
    ) -> None:
        store = store_of(broker)
        made = {
            f"retry {id_} 1": store.compose(replace(PING, id=id_, queue=TO)) for id_ in SENT[:4]
        }
        names = list(made)
        assert await store.sent(names) == frozenset()
        some = {name: made[name] for name in names[:2]}
        assert await store.send_once(some, queue=TO, fence=fence) == {*names[:2]}
        assert await store.sent(names) == {*names[:2]}
        assert await store.send_once(made, queue=TO, fence=fence) == {*names[2:]}
        assert await store.send_once(made, queue=TO, fence=fence) == frozenset()
        assert await ids(broker, TO) == ["there-1", "there-2", *SENT[:4]]
        again = {"retry id-0 2": made[names[0]]}
        assert await store.send_once(again, queue=TO, fence=fence) == {*again}
        await broker.lease.release(fence)
        with pytest.raises(LeaseLost):
            await store.send_once({"new": made[names[0]]}, queue=TO, fence=fence)
        assert await store.sent(["new"]) == frozenset()

    async def test_what_is_put_is_served_before_the_others_or_behind_them(
        self, broker: Broker, fence: Fence
    ) -> None:
        store = store_of(broker)
        stored = await messages(broker, FROM)
        assert await store.put(stored, queue=TO, ticket="b", done=0, fence=fence, address=TO)
        there = ["there-1", "there-2"]
        expected = [*SENT, *there] if store.puts_first else [*there, *SENT]
        assert await ids(broker, TO) == expected

    async def test_a_count_is_forgotten(self, broker: Broker, fence: Fence) -> None:
        await move(broker, Transfer(TICKET, FROM, ASIDE), fence)
        await store_of(broker).forget(TICKET, fence=fence)
        assert await store_of(broker).counted(TICKET) == 0
        await store_of(broker).forget("never-known", fence=fence)

    async def test_only_parked_messages_are_destroyed(self, broker: Broker, fence: Fence) -> None:
        await move(broker, Transfer(TICKET, FROM, ASIDE, choose=is_even), fence)
        with pytest.raises(ValueError, match=FROM):
            await store_of(broker).drop(FROM, count=5, fence=fence)
        assert await store_of(broker).drop(ASIDE, count=4, fence=fence) == 5
        assert await store_of(broker).drop(ASIDE, count=5, fence=fence) == 5
        assert await store_of(broker).drop(ASIDE, count=5, fence=fence) == 0
        assert await ids(broker, ASIDE) == []
        assert await ids(broker, FROM) == ODD

    async def test_a_queue_that_nobody_ever_used_is_moved_at_once(
        self, broker: Broker, fence: Fence
    ) -> None:
        for choose in (None, is_even):
            assert await move(
                broker, Transfer("t", "never-used", TO, choose=choose, address=TO), fence
            ) == (0, 0)
