"""Finds the master through its sentinels, and keeps to it: after a fail-over nothing is read from,
or written to, whoever was the master before.

Sentinels are asked before each connection, and whoever they name has to be a master by its own word
too (ROLE): Redis's guidelines for clients of Sentinel. While there are connections they are asked
again now and then: a master that was cut off from them goes on to answer, and what is written there
will be thrown away. All connections to it are closed as soon as that is seen; whoever waits on one
finds it lost, and knows what that means.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from celery_ops.broker import sentinels
from celery_ops.broker.address import place
from celery_ops.broker.refusals import NoMaster, Refused, refusal
from celery_ops.broker.resolve import TcpConnection, TlsConnection
from celery_ops.broker.sentinels import Told
from celery_ops.errors import BrokerFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis.asyncio.connection import ConnectionPool

    from celery_ops.broker.address import RedisAddress, Sentinels
    from celery_ops.broker.sentinels import Place
    from celery_ops.errors import BrokerUnreachable

Setting = Any
"""A parameter of redis-py's connections."""

PATIENCE = 1.0
"""Seconds that a sentinel has to answer."""
FRESH = 0.5
"""Seconds for which connections that are made at once share an answer."""
CHECKED_EVERY = 2.0
"""Seconds; sentinels tell each other of a fail-over about as often."""
WAITED_FOR = 0.2
"""Seconds that a call waits for that, since what an old master says is not true any more. Sentinels
that are away delay nothing for longer: the master may well be there.
"""


class Master:
    """Where the master is now, as far as that is known."""

    def __init__(
        self, address: RedisAddress, known_by: Sentinels, pool: Callable[..., ConnectionPool]
    ) -> None:
        """`pool` makes one of connections to an address."""
        self._address = address
        self._name = known_by.master
        self._min_others = known_by.min_others
        self._sentinels = [Sentinel(one, pool(one)) for one in known_by.addresses]
        self._one_at_a_time = asyncio.Lock()
        self._at: Place | None = None
        self._told: tuple[Told, ...] = ()
        self._asked_at = self._fresh_until = -math.inf
        self._checking: asyncio.Task[None] | None = None
        self._connections: weakref.WeakSet[MasterConnection | TlsMasterConnection] = (
            weakref.WeakSet()
        )
        self.has_replicas = False
        """As the master said when it was connected to last."""

    @property
    def address(self) -> RedisAddress:
        """Where it is believed to be."""
        host, port = self._at or ("", 0)
        return replace(self._address, host=host, port=port)

    async def find(self) -> Place:
        """Ask the sentinels, unless that was done right now. Raise NoMaster."""
        async with self._one_at_a_time:
            if self._at is None or time.monotonic() > self._fresh_until:
                self._at = await self._ask()
            return self._at

    async def check(self) -> None:
        """Have the sentinels asked again, if that was not done lately. Nobody waits long for it."""
        if self._at is None or time.monotonic() - self._asked_at < CHECKED_EVERY:
            return
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(), name="celery-ops sentinels")
            await asyncio.wait({self._checking}, timeout=WAITED_FOR)

    async def doubt(self) -> None:
        """It is no master any more, by its own word: sentinels are asked, and it again."""
        self._fresh_until = -math.inf
        await self._leave(lambda _: True)

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Where nobody is found, who comes next there may be an old master that was started again:
        it says of itself that it is one, and may have lost everything.
        """
        try:
            yield
        except (RedisError, OSError):
            self._fresh_until = -math.inf
            raise

    async def verify(self, connection: MasterConnection | TlsMasterConnection) -> None:
        """Log in, and have it say that it is a master. Raise NoMaster."""
        await connection.on_connect()
        await connection.send_command("ROLE")
        role: Any = await connection.read_response()
        at = connection.host, connection.port
        if role[0] != b"master":
            self._fresh_until = -math.inf
            raise NoMaster(
                f"{place(*at)} is no master by its own word: a fail-over may be under way."
                f" {sentinels.says(self._name, self._told)}",
                fix="It is looked for again with the next question.",
            )
        if at != self._at:
            raise NoMaster(f"The master of {self._name} has moved, away from {place(*at)}.")
        self.has_replicas = bool(role[2])
        self._connections.add(connection)

    def refused(self, error: BaseException) -> BrokerUnreachable:
        """The error that is raised for one of redis-py's, with what the sentinels said."""
        translated = refusal(error, self.address)
        said = sentinels.says(self._name, self._told)
        if said in translated.says or isinstance(translated, Refused | BrokerFull):
            return translated
        return type(translated)(f"{translated.says} {said}", fix=translated.fix)

    async def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})
        for one in self._sentinels:
            await one.close()

    async def _check(self) -> None:
        with contextlib.suppress(NoMaster):
            await self.find()

    async def _ask(self) -> Place:
        """Ask all of them at once, until more than half agree; leave whom they name no more."""
        self._asked_at, self._fresh_until = time.monotonic(), -math.inf
        told: list[Told] = []
        asked = {asyncio.create_task(one.ask(self._name)) for one in self._sentinels}
        try:
            for answer in asyncio.as_completed(asked):
                told.append(self._counted(await answer))
                if sentinels.agreed(told, len(asked)):
                    break
        finally:
            for one in asked:
                one.cancel()
            await asyncio.wait(asked)
        self._told = tuple(told)
        found = sentinels.elected(told)
        if found is None:
            raise self._unknown()
        self._fresh_until = time.monotonic() + FRESH
        await self._leave(lambda one: (one.host, one.port) != found)
        return found

    def _counted(self, told: Told) -> Told:
        if told.master is None or told.others >= self._min_others:
            return told
        says = (
            f"The sentinel at {told.sentinel} knows {told.others} others, and"
            f" min_other_sentinels demands {self._min_others}."
        )
        return Told(told.sentinel, failed=says)

    def _unknown(self) -> NoMaster:
        """Why there is nobody to connect to."""
        said = sentinels.says(self._name, self._told)
        if any(one.master is not None for one in self._told):
            return NoMaster(
                f"The sentinels disagree about the master of {self._name}. {said}",
                fix="Compare SENTINEL MASTER on each of them: they may watch different servers"
                " under one name.",
            )
        fix = next((one.fix for one in self._told if one.fix), None)
        return NoMaster(f"No sentinel says where the master of {self._name} is. {said}", fix=fix)

    async def _leave(self, whom: Callable[[MasterConnection | TlsMasterConnection], bool]) -> None:
        for connection in list(self._connections):
            if whom(connection):
                self._connections.discard(connection)
                # At once: a peer that is half dead must not delay anybody.
                await connection.disconnect(nowait=True)


class MasterConnection(TcpConnection):
    """A connection to wherever the master is when it is made."""

    def __init__(self, *, master: Master, **settings: Setting) -> None:
        super().__init__(redis_connect_func=master.verify, **settings)
        self._master = master

    async def _connect(self) -> None:
        self.host, self.port = await self._master.find()
        with self._master.connecting():
            await super()._connect()


class TlsMasterConnection(TlsConnection):
    """The same under TLS."""

    def __init__(self, *, master: Master, **settings: Setting) -> None:
        super().__init__(redis_connect_func=master.verify, **settings)
        self._master = master

    async def _connect(self) -> None:
        self.host, self.port = await self._master.find()
        with self._master.connecting():
            await super()._connect()


class Sentinel:
    """One sentinel."""

    def __init__(self, address: RedisAddress, pool: ConnectionPool) -> None:
        self._address = address
        self._pool: Any = pool  # redis-py's own methods are typed only in part
        self._client: Any = Redis(connection_pool=pool)

    async def ask(self, name: str) -> Told:
        """Where the master of that name is. What hinders it is part of the answer."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask(name)
        except ResponseError as error:
            if "unknown command" in str(error).lower():
                says = f"The server at {self._address.place} is no sentinel."
                return Told(self._address.place, failed=says)
            why = refusal(error, self._address)
        except (RedisError, OSError) as error:
            why = refusal(error, self._address)
        return Told(self._address.place, failed=why.says, fix=why.fix)

    async def close(self) -> None:
        await self._client.aclose()
        await self._pool.disconnect()

    async def _ask(self, name: str) -> Told:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            pipe.execute_command("SENTINEL", "MASTER", name)
            master, state = await pipe.execute(raise_on_error=False)
        if isinstance(master, Exception):
            raise master
        if master is None:
            return await self._stranger(name)
        known = None if isinstance(state, Exception) else state
        return sentinels.read(self._address.place, master, known)

    async def _stranger(self, name: str) -> Told:
        """What it says of a name that it does not know."""
        try:
            masters = await self._client.execute_command("SENTINEL", "MASTERS")
        except ResponseError:
            masters = []
        names = ", ".join(sorted(one[1].decode(errors="replace") for one in masters))
        only = f"it knows {names}" if names else "nor any other"
        return Told(
            self._address.place,
            failed=f"The sentinel at {self._address.place} knows no master called {name}: {only}.",
            fix="Set broker_options: {master_name: NAME} to one that they know.",
        )
