"""Runs commands on this machine: never a shell line, bounded output, and an end for all of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING, cast

from celery_ops.config.units import as_duration
from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.ports import Completed

if TYPE_CHECKING:
    from celery_ops.ports import Command

MAX_OUTPUT = 1_048_576
"""Bytes of each of stdout and stderr that are kept."""
LINGER = 1.0
"""Seconds that output is still read after the command ended: a daemon it left may hold the pipe."""
TERM_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that ran out of time."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell exits with in these cases, and so what every Shell says."""
_EXHAUSTED = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


class LocalShell:
    """The Shell of the machine celery-ops runs on."""

    async def run(self, command: Command, *, timeout: float) -> Completed:
        """Run a command to its end, in a session of its own.

        A program that is not there ends with 127, one that may not be executed with 126, as in a
        shell. Raise CommandFailed after `timeout` seconds, HostUnreachable if this machine cannot
        start processes; whoever raises, and whoever cancels, no process of its group is left.
        """
        if not command.argv:
            raise CommandFailed("An empty command cannot be run.")
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            transport, process = await _started(command)
        except ValueError as error:
            raise CommandFailed(f"{command} cannot be run: {error}.") from error
        except OSError as error:
            return _not_started(command, error)
        try:
            _feed(transport, command.stdin)
            async with asyncio.timeout(timeout):
                await process.exited
            await process.drained(LINGER)
        except TimeoutError as error:
            await _end(transport, process, TERM_GRACE)
            says = f"{command} did not end within {as_duration(timeout)} and was ended."
            raise CommandFailed(says) from error
        except asyncio.CancelledError:
            await _end(transport, process, 0)
            raise
        finally:
            transport.close()
        code = transport.get_returncode()
        return Completed(
            code=-1 if code is None else code,
            out=bytes(process.output[1]),
            err=bytes(process.output[2]),
            seconds=loop.time() - began,
            truncated=process.truncated,
        )


async def _started(command: Command) -> tuple[asyncio.SubprocessTransport, _Process]:
    """A new process. A start is never cancelled halfway, but ended as soon as it is through.

    asyncio (seen in Python 3.11) would kill the process but not its group, and then wait for pipes
    that a child of it may hold open for ever.
    """
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            _Process,
            *command.argv,
            env={**os.environ, **dict(command.env)},
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_abandon)
        raise


def _abandon(started: asyncio.Future[tuple[asyncio.SubprocessTransport, _Process]]) -> None:
    if started.cancelled() or started.exception() is not None:
        return
    transport, _ = started.result()
    _signal(transport.get_pid(), signal.SIGKILL)
    transport.close()


class _Process(asyncio.SubprocessProtocol):
    """Collects what a process writes, up to a bound, and tells when it ends."""

    def __init__(self) -> None:
        self.output = {1: bytearray(), 2: bytearray()}
        self.truncated = False
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = {1, 2}
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        kept = self.output[fd]
        room = MAX_OUTPUT - len(kept)
        kept += cast("bytes", data)[:room]
        self.truncated = self.truncated or len(data) > room

    def pipe_connection_lost(self, fd: int, _exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open and not self._closed.done():
            self._closed.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    async def drained(self, seconds: float) -> None:
        """Until all output was read; what somebody else keeps open is given up after a while."""
        await asyncio.wait([self._closed], timeout=seconds)
        self.truncated = self.truncated or not self._closed.done()


def _feed(transport: asyncio.SubprocessTransport, content: bytes) -> None:
    stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    stdin.write(content)
    stdin.close()


async def _end(transport: asyncio.SubprocessTransport, process: _Process, grace: float) -> None:
    """End the process and its group: politely first, if there is `grace` (seconds) for it.

    The group is signalled while its leader is not yet reaped, or has members that keep its number
    from being given to others.
    """
    group = transport.get_pid()
    if grace:
        _signal(group, signal.SIGTERM)
        await asyncio.wait([process.exited], timeout=grace)
    _signal(group, signal.SIGKILL)
    await asyncio.wait([process.exited], timeout=grace or TERM_GRACE)


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _not_started(command: Command, error: OSError) -> Completed:
    if error.errno in _EXHAUSTED:
        says = f"This machine cannot start processes: {error.strerror}."
        raise HostUnreachable(says) from error
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return Completed(code, b"", f"{command.argv[0]}: {error.strerror}".encode(), 0.0)
