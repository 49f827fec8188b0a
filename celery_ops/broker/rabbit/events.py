"""What workers announce on RabbitMQ: heartbeats, and what becomes of a task.

Each listener has a connection and a queue of its own. The queue goes with the connection, and is
bounded: who stands still loses the oldest, and takes no memory of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from amqp.exceptions import NotFound

from celery_ops.broker import messages
from celery_ops.broker.rabbit.ledger import CLASSIC
from celery_ops.broker.rabbit.link import AmqpLink, body_of, posted
from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import amqp

    from celery_ops.broker.rabbit.address import AmqpAddress
    from celery_ops.broker.rabbit.link import Session
    from celery_ops.broker.rabbit.names import AmqpNames
    from celery_ops.model import Heartbeat, TaskNews

HEARTBEAT = 4.0
"""Seconds; a connection that is half dead is noticed within two of them."""
LOOK_AGAIN = 5.0
"""Seconds between two looks for the exchange of events, which the first worker declares."""
MOST_WAITING = 10_000
_EXPIRES = 60_000


async def heartbeats(address: AmqpAddress, names: AmqpNames) -> AsyncIterator[Heartbeat]:
    """Heartbeats until cancelled; raise BrokerUnreachable when the connection is lost."""
    listening = _listening(address, names.event_exchange, "worker.#", "heartbeats", waits=True)
    async with listening as inbox:
        while True:
            for message in await inbox.next(None):
                beat = messages.heartbeat_of(_content_type(message), body_of(message))
                if beat is not None:
                    yield beat


@contextlib.asynccontextmanager
async def follow(
    address: AmqpAddress, names: AmqpNames, task: str | None
) -> AsyncIterator[FollowedTask]:
    """As the port says: the queue is bound, and this confirmed, before it is entered.

    Where no worker has ever announced anything, nothing is heard.
    """
    async with _listening(address, names.event_exchange, "task.#", "task events") as inbox:
        yield FollowedTask(inbox, task)


class FollowedTask:
    """Implements `ports.Followed` by a queue of all task events."""

    def __init__(self, inbox: _Inbox, task: str | None) -> None:
        self._inbox = inbox
        self._task = task

    async def news(self, timeout: float) -> tuple[TaskNews, ...]:
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            found: list[TaskNews] = []
            for message in await self._inbox.next(left):
                content_type = _content_type(message)
                found += messages.task_news_of(content_type, body_of(message), self._task)
            if found:
                return tuple(found)
        return ()


class _Inbox:
    """What has arrived and was not looked at yet, in the event loop."""

    def __init__(self) -> None:
        self._messages: deque[amqp.Message] = deque(maxlen=MOST_WAITING)
        self._arrived = asyncio.Event()
        self._lost: BrokerUnreachable | None = None

    def add(self, message: amqp.Message) -> None:
        self._messages.append(message)
        self._arrived.set()

    def lose(self, error: BrokerUnreachable) -> None:
        self._lost = error
        self._arrived.set()

    async def next(self, timeout: float | None) -> list[amqp.Message]:
        """All there are, as soon as there is one; none after that many seconds.

        Raise BrokerUnreachable when no more can come.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        self._arrived.clear()
        found = list(self._messages)
        self._messages.clear()
        if not found and self._lost is not None:
            self._arrived.set()
            raise self._lost
        return found


@contextlib.asynccontextmanager
async def _listening(
    address: AmqpAddress, exchange: str, routing_key: str, purpose: str, *, waits: bool = False
) -> AsyncIterator[_Inbox]:
    """`waits`: for the exchange, if there is none yet."""
    link = AmqpLink(address, purpose, heartbeat=HEARTBEAT, one_life=True)
    inbox, loop = _Inbox(), asyncio.get_running_loop()
    try:
        work = partial(_subscribe, exchange, routing_key, inbox, loop)
        is_there = await link.write(work)
        while waits and not is_there:
            await asyncio.sleep(LOOK_AGAIN)
            is_there = await link.write(work)
        yield inbox
    finally:
        await link.close()


def _subscribe(
    exchange: str,
    routing_key: str,
    inbox: _Inbox,
    loop: asyncio.AbstractEventLoop,
    session: Session,
) -> bool:
    """In the link's thread; False if there is no such exchange: no worker has been there yet."""
    with session.channel() as probing:
        try:
            probing.exchange_declare(exchange, "topic", passive=True)
        except NotFound:
            return False
    channel = session.connection.channel()
    channel.auto_decode = False
    queue = f"{exchange}.celery-ops.{uuid.uuid4().hex}"
    channel.queue_declare(
        queue,
        exclusive=True,
        auto_delete=True,
        arguments={**CLASSIC, "x-expires": _EXPIRES, "x-max-length": MOST_WAITING},
    )
    channel.queue_bind(queue, exchange=exchange, routing_key=routing_key)
    session.at_end(posted(loop, inbox.lose))
    channel.basic_consume(queue, no_ack=True, callback=posted(loop, inbox.add))
    return True


def _content_type(message: amqp.Message) -> str:
    return str(message.properties.get("content_type"))
