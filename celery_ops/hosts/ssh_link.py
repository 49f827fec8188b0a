"""One connection to one machine: made when first needed, kept, and made anew once it is lost."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import paramiko

from celery_ops.config.units import as_duration
from celery_ops.errors import HostUnreachable
from celery_ops.hosts.ssh_channel import Connection
from celery_ops.hosts.ssh_keys import Keyring, LockedKey, log_in
from celery_ops.hosts.ssh_threads import Threads
from celery_ops.hosts.ssh_trust import known_keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.hosts.ssh_target import Target

# paramiko logs tracebacks of what it raises as well; what matters of it is in our errors.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)

MAX_HANDSHAKES = 5
"""At once with one sshd. It drops some above ten (MaxStartups 10:30:100), and is slow to notice
that one was done."""
MAX_CONNECTING = 32
"""At once over all hosts: so that a slow line does not make them wait for each other, and none of
them runs out of time because they all compute at once."""
MAX_SESSIONS = 8
"""At once on one connection. sshd refuses the eleventh (MaxSessions 10)."""
MAX_STREAMS = 2
"""At once on one connection, beside the sessions: so logs that are followed starve no command."""
_CLOSE_TIMEOUT = 1.0


@dataclass(slots=True)
class Shared:
    """What all connections of a pool have in common."""

    keyring: Keyring = field(default_factory=Keyring)
    _connecting: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MAX_CONNECTING)
    )
    _handshakes: dict[tuple[Target | None, str, int], asyncio.Semaphore] = field(
        default_factory=dict
    )

    @asynccontextmanager
    async def turn(self, target: Target) -> AsyncIterator[None]:
        """A turn to shake hands with the sshd that has this address, seen from where we come."""
        address = (target.via, target.hostname, target.port)
        at_once = self._handshakes.setdefault(address, asyncio.Semaphore(MAX_HANDSHAKES))
        async with at_once, self._connecting:
            yield


class Link:
    """The connection to a target, through the links of its jump hosts."""

    def __init__(self, target: Target, shared: Shared, via: Link | None = None) -> None:
        self.target = target
        # Beside the sessions: one that connects, one that ends what ran out of time.
        self.threads = Threads(f"ssh {target}", MAX_SESSIONS + MAX_STREAMS + 2)
        self._shared = shared
        self._via = via
        self._transport: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._closed = False

    async def transport(self) -> Connection:
        """The live connection. Raise HostUnreachable.

        All who wait share one attempt, and its failure; it goes on if one of them is cancelled.
        """
        if self._closed:
            raise HostUnreachable(f"{self.target} is not spoken to any more: we are closing.")
        if self._transport is not None and self._transport.is_active():
            return self._transport
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def drop(self, transport: Connection) -> None:
        """Give a connection up, at once: whoever waits for something on it is woken."""
        if self._transport is transport:
            self._transport = None
        _abort(transport)
        self.threads.submit(transport.close)

    async def close(self) -> None:
        """Quick, even if the host hangs."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            transport, self._transport = self._transport, None
            _abort(transport)
            await asyncio.wait([self.threads.submit(transport.close)], timeout=_CLOSE_TIMEOUT)
        self.threads.close()

    def _connected(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._transport = task.result()

    async def _connect(self) -> Connection:
        while True:
            try:
                return await self._attempt()
            except LockedKey as error:
                await self._shared.keyring.unlock(error.path)

    async def _attempt(self) -> Connection:
        # A jump host comes first, and is not waited for with one of the handshakes in hand.
        through = None if self._via is None else await self._via.transport()
        async with self._shared.turn(self.target):
            attempt = _Attempt(self.target, self._shared.keyring, through)
            work = self.threads.submit(attempt.connect)
            try:
                async with asyncio.timeout(self.target.timeout):
                    return await asyncio.shield(work)
            except TimeoutError as error:
                says = f"{self.target} did not {attempt.stage} within"
                raise HostUnreachable(f"{says} {as_duration(self.target.timeout)}.") from error
            finally:
                if not (work.done() and not work.cancelled() and work.exception() is None):
                    attempt.abort()
                    work.add_done_callback(_close_late)


def _close_late(work: asyncio.Future[Connection]) -> None:
    """What was connected after nobody waited any more; a failure was told, or is too late."""
    if not work.cancelled() and work.exception() is None:
        _abort(work.result())


class _Attempt:
    """The way from nothing to being logged in, in a thread; `abort` ends it from another one."""

    def __init__(self, target: Target, keyring: Keyring, through: Connection | None) -> None:
        self.stage = "accept a connection"
        self._target = target
        self._keyring = keyring
        self._through = through
        self._sock: socket.socket | paramiko.Channel | None = None
        self._aborted = False

    def connect(self) -> Connection:
        """Raise HostUnreachable, or LockedKey if a passphrase is needed. Leaves nothing open."""
        target = self._target
        known = known_keys(target)
        transport: Connection | None = None
        try:
            self._sock = (
                _socket(target) if self._through is None else _tunnel(target, self._through)
            )
            if self._aborted:
                self.abort()
            self.stage = "shake hands"
            transport = Connection(self._sock)
            transport.daemon = True
            # `_attempt` ends this in time, and says of what: paramiko's own limits must come later.
            limit = 2 * target.timeout
            transport.banner_timeout = transport.handshake_timeout = limit
            transport.auth_timeout = limit
            options = transport.get_security_options()
            options.key_types = known.preferred(tuple(options.key_types))
            transport.start_client(timeout=limit)
            known.check(transport.get_remote_server_key())
            self.stage = "let us log in"
            log_in(transport, target, self._keyring)
        except BaseException as error:
            self.abort()
            if transport is not None:
                transport.close()
            if isinstance(error, (OSError, EOFError, paramiko.SSHException)):
                raise HostUnreachable(_reason(target, error, self.stage)) from error
            raise
        return transport

    def abort(self) -> None:
        self._aborted = True
        if self._sock is not None:
            _end(self._sock)


def _tunnel(target: Target, through: Connection) -> paramiko.Channel:
    return through.open_tunnel((target.hostname, target.port), target.timeout)


def _socket(target: Target) -> socket.socket:
    """paramiko's own has neither option: a command would take 40 ms more, a lost peer minutes."""
    sock = socket.create_connection((target.hostname, target.port), timeout=target.timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only
    if user_timeout is not None:
        sock.setsockopt(socket.IPPROTO_TCP, user_timeout, round(target.timeout * 1000))
    return sock


def _abort(transport: Connection) -> None:
    """Close the socket under a connection, without waiting for anything."""
    _end(transport.sock)


def _end(sock: socket.socket | paramiko.Channel) -> None:
    if isinstance(sock, paramiko.Channel):
        # Closing it would write to the jump host's socket, which may be the one that hangs.
        sock.in_buffer.close()
        sock.shutdown_read()
        return
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _reason(target: Target, error: Exception, stage: str) -> str:
    """One sentence of why there is no connection."""
    match error:
        case socket.gaierror():
            return f"The name {target.hostname} cannot be resolved: {error.strerror}."
        case TimeoutError():
            return f"{target} did not {stage} within {as_duration(target.timeout)}."
        case paramiko.ChannelException():
            return f"The jump host {target.via} cannot reach {target}: {error.text}."
        case OSError():
            return f"{target} cannot be reached: {error.strerror or error}."
        case EOFError():
            return f"{target} closed the connection before it did {stage}."
        # paramiko wraps what happens while it waits for the first line; its text does not tell.
        case paramiko.SSHException() if isinstance(error.__context__, EOFError | ConnectionError):
            why = "too many log in there at once (MaxStartups of sshd), or it speaks no SSH"
            return f"{target} closed the connection before it did {stage}: {why}."
        case _:
            return f"{target} did not {stage}: {error}."
