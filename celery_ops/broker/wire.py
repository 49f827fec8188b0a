"""The connections to one Redis, with deadlines, and errors in our own words.

Nothing is repeated by redis-py. A read is repeated once when its connection turns out to be dead; a
write never is, since it may have been done, unless a replica refused it: then the master is looked
for again. After a loss the next call connects again.
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

from celery_ops.broker.master import Master, MasterConnection, TlsMasterConnection
from celery_ops.broker.refusals import is_read_only, refusal
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
REPLICATED_WITHIN = 100
"""Milliseconds that a replica has to confirm; on one network it takes one or two."""
DEADLINE = 4.0
"""Seconds a call may take, from connecting to its reply."""


class Wire:
    """A pool of connections to one Redis database. Every method may raise BrokerUnreachable."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        by = address.sentinels
        self._master = None if by is None else Master(address, by, _pool)
        # Any: redis-py's own methods are typed only in part.
        self._pool: Any = _pool(address, self._master)
        self._client: Any = Redis(connection_pool=self._pool)

    @property
    def place(self) -> str:
        return (self._address if self._master is None else self._master.address).place

    async def read(self, *command: Word) -> Answer:
        """Send one command that changes nothing."""
        return await self._repeated_once(lambda: self._client.execute_command(*command))

    async def write(self, *command: Word) -> Answer:
        """Send one command that may change something: never done twice."""
        return await self._written(lambda: self._client.execute_command(*command))

    async def write_surely(self, *command: Word) -> Answer:
        """The same, and give a replica a moment to have it too: one that is promoted right after
        should know. Not more is promised than that: replication has no end that could be waited
        for.
        """
        if self._master is None or not self._master.has_replicas:
            return await self.write(*command)

        async def send() -> Answer:
            commands = [command, ("WAIT", 1, REPLICATED_WITHIN)]
            answer, _ = await self._send_many(commands, at_once=False)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return await self._written(send)

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
        """The same at once, for commands that may change something: never done twice."""
        answers: list[Answer]
        answers = await self._written(lambda: self._send_many(commands, at_once=True))
        return answers

    def refused(self, error: BaseException) -> BrokerUnreachable:
        if self._master is not None:
            return self._master.refused(error)
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
        if self._master is not None:
            await self._master.close()

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

    async def _written(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        async with self._in_time():
            try:
                return await send()
            except RedisError as error:
                if self._master is None or not is_read_only(error):
                    raise
            await self._master.doubt()
            return await send()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        if self._master is not None:
            await self._master.check()
        with self._translating():
            async with asyncio.timeout(DEADLINE):
                yield

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            raise self.refused(error) from error


def _pool(address: RedisAddress, master: Master | None = None) -> ConnectionPool:
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
    settings["socket_keepalive"] = True
    if master is None:
        settings |= {"host": address.host, "port": address.port}
    else:
        settings["master"] = master
    if address.tls is None:
        return ConnectionPool(
            connection_class=TcpConnection if master is None else MasterConnection, **settings
        )
    return ConnectionPool(
        connection_class=TlsConnection if master is None else TlsMasterConnection,
        ssl_cert_reqs=address.tls.verify,
        ssl_check_hostname=address.tls.check_hostname,
        ssl_ca_certs=address.tls.ca_certs,
        ssl_certfile=address.tls.certfile,
        ssl_keyfile=address.tls.keyfile,
        **settings,
    )
