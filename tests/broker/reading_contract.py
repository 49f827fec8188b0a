"""What the messages of every broker have to do when they are looked at.

A subclass gives the fixtures of `contract.BrokerContract`.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.broker.contract import ANN, PING, waiting

if TYPE_CHECKING:
    from celery_ops.ports import Broker

IDS = [f"id-{number}" for number in range(7)]


class ReadingContract:
    """Tests that hold for every `MessageReading`."""

    @pytest.fixture
    async def sent(self, broker: Broker) -> list[str]:
        """Ids of the messages that wait in PING's queue, in the order in which they are served."""
        fence = await broker.lease.acquire(ANN)
        for id_ in IDS:
            await broker.send(replace(PING, id=id_), fence=fence)
        return IDS

    async def test_what_is_served_next_is_looked_at_first(
        self, broker: Broker, sent: list[str]
    ) -> None:
        found = await broker.messages.peek(PING.queue, skip=0, count=3)
        assert [message.id for message in found] == sent[:3]
        assert {message.task for message in found} == {PING.task}
        assert [message.retries for message in found] == [0, 0, 0]
        assert {message.redelivered for message in found} == {False}
        assert {message.expires for message in found} == {PING.expires}

    async def test_looking_goes_on_where_the_last_look_ended(
        self, broker: Broker, sent: list[str]
    ) -> None:
        found = await broker.messages.peek(PING.queue, skip=5, count=10)
        assert [message.id for message in found] == sent[5:]
        assert await broker.messages.peek(PING.queue, skip=len(sent), count=10) == ()
        assert await broker.messages.peek(PING.queue, skip=0, count=0) == ()

    async def test_looking_takes_nothing(self, broker: Broker, sent: list[str]) -> None:
        before = await broker.messages.peek(PING.queue, skip=0, count=100)
        assert await waiting(broker, PING.queue) == len(sent)
        after = await broker.messages.peek(PING.queue, skip=0, count=100)
        assert [message.raw for message in after] == [message.raw for message in before]
        assert {message.redelivered for message in after} == {broker.messages.marks}

    async def test_they_are_counted(self, broker: Broker, sent: list[str]) -> None:
        assert await broker.messages.count(PING.queue) == len(sent)
        assert await broker.messages.count("never-used") == 0

    async def test_all_are_read_in_order(self, broker: Broker, sent: list[str]) -> None:
        found: list[str | None] = []
        async with aclosing(broker.messages.read(PING.queue)) as portions:
            async for portion in portions:
                assert portion
                found += [message.id for message in portion]
        assert found == sent
        assert await waiting(broker, PING.queue) == len(sent)

    async def test_reading_can_be_given_up(self, broker: Broker, sent: list[str]) -> None:
        async with aclosing(broker.messages.read(PING.queue)) as portions:
            async for portion in portions:
                assert portion[0].id == sent[0]
                break
        assert await waiting(broker, PING.queue) == len(sent)

    async def test_a_queue_that_nobody_ever_used_is_empty(self, broker: Broker) -> None:
        assert await broker.messages.peek("never-used", skip=0, count=10) == ()
        async with aclosing(broker.messages.read("never-used")) as portions:
            assert [portion async for portion in portions] == []

    async def test_a_kind_is_named(self, broker: Broker) -> None:
        assert broker.messages.kind
