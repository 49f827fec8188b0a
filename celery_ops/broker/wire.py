"""The connections to one Redis, with deadlines, and errors in our own words.

Nothing is repeated by redis-py. A read is repeated once when its connection turns out to be dead; a
write never is, since it may have been done. After a loss the next call connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer

from celery_ops.broker.refusals import refusal
from celery_ops.broker.resolve import TcpConnection, TlsConnection
from celery_ops.errors import BrokerFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from redis.asyncio.connection import AbstractConnection

    from celery_ops.broker.address import RedisAddress
    from celery_ops.errors import BrokerUnreachable

Word = str | bytes | int | float
Answer = Any
"""What Redis replies: bytes, an integer, a list of these, None. redis-py has no narrower type."""

CONNECT_TIMEOUT = 3.0
DEADLINE = 4.0
"""Seconds a call may take, from connecting to its reply."""


class Wire:
    """A pool of connections to one Redis database. Every method may raise BrokerUnreachable."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        # Any: redis-py's own methods are typed only in part.
        self._pool: Any = _pool(address)
        self._client: Any = Redis(connection_pool=self._pool)

    @property
    def place(self) -> str:
        return self._address.place

    async def read(self, *command: Word) -> Answer:
        """Send one command that changes nothing."""
        return await self._repeated_once(lambda: self._client.execute_command(*command))

    async def write(self, *command: Word) -> Answer:
        """Send one command that may change something: never sent twice."""
        async with self._in_time():
            return await self._client.execute_command(*command)

    async def read_many(
        self, commands: Sequence[tuple[Word, ...]], *, at_once: bool = True
    ) -> list[Answer]:
        """Send several reads in one round trip; `at_once`: nothing happens between them (MULTI).

        A refused command's place holds its error, an Exception, for `refused` to translate.
        """
        answers: list[Answer]
        try:
            answers = await self._repeated_once(lambda: self._send_many(commands, at_once=at_once))
        except BrokerFull:
            # A full server refuses whatever comes after MULTI, reads too: better read one by one.
            answers = await self._repeated_once(lambda: self._send_many(commands, at_once=False))
        return answers

    async def write_many(self, commands: Sequence[tuple[Word, ...]]) -> list[Answer]:
        """The same at once, for commands that may change something: never sent twice."""
        async with self._in_time():
            return await self._send_many(commands, at_once=True)

    def refused(self, error: Exception) -> BrokerUnreachable:
        return refusal(error, self._address)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AbstractConnection]:
        """A connection of one's own, for subscriptions. It is closed at the end."""
        connection = self._pool.make_connection()
        try:
            async with self._in_time():
                await connection.connect()
            with self._translating():
                yield connection
        finally:
            # At once: a peer that is half dead must not delay a cancellation.
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        await self._client.aclose()
        await self._pool.disconnect()

    async def _send_many(
        self, commands: Sequence[tuple[Word, ...]], *, at_once: bool
    ) -> list[Answer]:
        async with self._client.pipeline(transaction=at_once) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute(raise_on_error=False))

    async def _repeated_once(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        async with self._in_time():
            try:
                return await send()
            except NoAnswer:
                raise
            except ConnectionLost:
                return await send()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        with self._translating():
            async with asyncio.timeout(DEADLINE):
                yield

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            raise refusal(error, self._address) from error


def _pool(address: RedisAddress) -> ConnectionPool:
    settings: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password.reveal() if address.password else None,
        # With a timeout of its own redis-py writes through asyncio.wait_for, which loses
        # cancellations before Python 3.12 (cpython #86296). `DEADLINE` bounds every call instead.
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "protocol": 2,  # spoken by every server and proxy, and one round trip less to begin with
        "encoding_errors": "surrogatepass",  # names come from JSON, which may hold any code point
        "retry": Retry(NoBackoff(), 0),
    }
    if address.path is not None:
        return ConnectionPool(
            connection_class=UnixDomainSocketConnection, path=address.path, **settings
        )
    settings |= {"host": address.host, "port": address.port, "socket_keepalive": True}
    if address.tls is None:
        return ConnectionPool(connection_class=TcpConnection, **settings)
    return ConnectionPool(
        connection_class=TlsConnection,
        ssl_cert_reqs=address.tls.verify,
        ssl_check_hostname=address.tls.check_hostname,
        ssl_ca_certs=address.tls.ca_certs,
        ssl_certfile=address.tls.certfile,
        ssl_keyfile=address.tls.keyfile,
        **settings,
    )
