"""TCP connections of redis-py that find their host without the loop's default executor.

asyncio resolves names in that executor, and a hung resolver would delay the exit of the program
until it gives up. Here a daemon thread does it, within the deadline of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING

from redis.asyncio.connection import Connection, SSLConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence


async def addresses_of(host: str, port: int) -> tuple[str, ...]:
    """The IP addresses of a host, in the order in which they shall be tried; raise OSError."""
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return await _ask_resolver(host, port)


class TcpConnection(Connection):
    """A plain connection."""

    trying = ""

    async def _connect(self) -> None:
        await _connect_to_first(self, super()._connect)

    def _connection_arguments(self) -> Mapping[str, object]:
        return {**super()._connection_arguments(), "host": self.trying}


class TlsConnection(SSLConnection):
    """A connection under TLS; the certificate is checked against the name, not the address."""

    trying = ""

    async def _connect(self) -> None:
        await _connect_to_first(self, super()._connect)

    def _connection_arguments(self) -> Mapping[str, object]:
        arguments = super()._connection_arguments()
        return {**arguments, "host": self.trying, "server_hostname": self.host}


async def _connect_to_first(
    connection: TcpConnection | TlsConnection, connect: Callable[[], Awaitable[None]]
) -> None:
    """Connect to the first of the host's addresses that accepts; raise the last one's OSError."""
    async with asyncio.timeout(connection.socket_connect_timeout):
        *others, last = await addresses_of(connection.host, connection.port)
        for connection.trying in others:
            with contextlib.suppress(OSError):
                await connect()
                return
        connection.trying = last
        await connect()


async def _ask_resolver(host: str, port: int) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def tell(found: Sequence[str] | OSError) -> None:
        if answer.done():  # the deadline came first
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(tuple(dict.fromkeys(found)))

    def resolve() -> None:
        found: Sequence[str] | OSError
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(info[4][0]) for info in infos]
        except OSError as error:
            found = error
        except UnicodeError:
            found = socket.gaierror(socket.EAI_NONAME, "not a host name")
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=resolve, name="celery-ops resolver", daemon=True).start()
    return await answer
