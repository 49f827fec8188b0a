"""Runs commands on this machine: never a shell line, bounded output, and an end for all of them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING, TypeVar, cast

from celery_ops.config.units import as_duration
from celery_ops.errors import CommandFailed, HostUnreachable, StreamFailed
from celery_ops.ports import Completed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from celery_ops.ports import Command

MAX_OUTPUT = 1_048_576
"""Bytes of each of stdout and stderr that are kept."""
LINGER = 1.0
"""Seconds that output is still read after the command ended: a daemon it left may hold the pipe."""
MAX_WAITING = 262_144
"""Bytes of a stream that wait for their reader before no more is read."""
MAX_STREAM_ERR = 4_096
"""Bytes of the end of a stream's stderr that are kept."""
STREAM_GRACE = 0.5
"""Seconds a command whose reader left gets to end by itself."""
TERM_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that ran out of time."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What a shell exits with in these cases, and so what every Shell says."""
_P = TypeVar("_P", bound="_Process")
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
            transport, process = await _started(command, _Process)
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
            gone = await _end(transport, process, TERM_GRACE)
            how = "was ended" if gone else "could not be ended: it may still run"
            says = f"{command} did not end within {as_duration(timeout)} and {how}."
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

    async def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        """What a command prints, as it comes. Whoever closes it or is cancelled ends its group."""
        if not command.argv:
            raise CommandFailed("An empty command cannot be run.")
        try:
            transport, process = await _started(command, _Followed)
        except ValueError as error:
            raise CommandFailed(f"{command} cannot be run: {error}.") from error
        except OSError as error:
            done = _not_started(command, error)
            raise stream_failed(command, done.code, done.err) from error
        try:
            _feed(transport, command.stdin)
            async for data in process.chunks():
                yield data
        finally:
            # Without a pipe even what we may not signal (sudo's) learns that nobody listens.
            _hang_up(transport)
            gone = process.exited.done() or await _end(transport, process, STREAM_GRACE)
            transport.close()
            if not gone and not is_cancelled():
                raise CommandFailed(f"{command} could not be ended: it may still run.")
        code = transport.get_returncode()
        if code != 0:
            raise stream_failed(command, -1 if code is None else code, bytes(process.output[2]))


def is_cancelled() -> bool:
    """Whether somebody ends this task: no error may stand in the way of that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def stream_failed(command: Command, code: int, err: bytes) -> StreamFailed:
    """A followed command that did not end well, in a sentence with its last words."""
    how = "was ended by a signal" if code < 0 else f"ended with exit code {code}"
    said = err.decode("utf-8", "replace").strip().splitlines()[-1:]
    words = "".join(letter for letter in "".join(said) if letter.isprintable())[:300]
    return StreamFailed(f"{command} {how}{f': {words}' if words else '.'}", code=code, err=err)


async def _started(
    command: Command, kind: Callable[[], _P]
) -> tuple[asyncio.SubprocessTransport, _P]:
    """A new process. A start is never cancelled halfway: it is seen through, some milliseconds, and
    what was started is ended.

    asyncio (seen in Python 3.11) would kill the process but not its group, and then wait for pipes
    that a child of it may hold open for ever.
    """
    starting = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            kind,
            *command.argv,
            env={**os.environ, **dict(command.env)},
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            transport, process = starting.result()
            await _end(transport, process, 0)
            transport.close()
        raise


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


class _Followed(_Process):
    """Hands on what a process writes to stdout, and reads no more of it while too much waits."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._news = asyncio.Event()
        self._pipe: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        subprocess = cast("asyncio.SubprocessTransport", transport)
        self._pipe = cast("asyncio.ReadTransport", subprocess.get_pipe_transport(1))

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if fd == 1:
            self._waiting += cast("bytes", data)
            if len(self._waiting) >= MAX_WAITING and self._pipe is not None:
                self._pipe.pause_reading()
            self._news.set()
        else:
            self.output[fd] = (self.output[fd] + cast("bytes", data))[-MAX_STREAM_ERR:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        super().pipe_connection_lost(fd, exc)
        self._news.set()

    def process_exited(self) -> None:
        super().process_exited()
        self._news.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Until all was read and the process ended; as `drained` for a pipe that stays open."""
        while True:
            self._news.clear()
            if self._waiting:
                data = bytes(self._waiting)
                self._waiting.clear()
                if self._pipe is not None:
                    self._pipe.resume_reading()
                yield data
                continue
            ended = self.exited.done()
            if ended and self._closed.done():
                return
            try:
                async with asyncio.timeout(LINGER if ended else None):
                    await self._news.wait()
            except TimeoutError:
                return


def _feed(transport: asyncio.SubprocessTransport, content: bytes) -> None:
    stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    stdin.write(content)
    stdin.close()


def _hang_up(transport: asyncio.SubprocessTransport) -> None:
    for fd in (1, 2):
        pipe = transport.get_pipe_transport(fd)
        if pipe is not None:
            pipe.close()


async def _end(transport: asyncio.SubprocessTransport, process: _Process, grace: float) -> bool:
    """End the process and its group: politely first, if there is `grace` (seconds) for it. Whether
    the process is gone.

    The group is signalled while its leader is not yet reaped, or has members that keep its number
    from being given to others.
    """
    group = transport.get_pid()
    if grace:
        _signal(group, signal.SIGTERM)
        await asyncio.wait([process.exited], timeout=grace)
    _signal(group, signal.SIGKILL)
    await asyncio.wait([process.exited], timeout=grace or TERM_GRACE)
    return process.exited.done()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # it is gone, or it is sudo's
        return


def _not_started(command: Command, error: OSError) -> Completed:
    if error.errno in _EXHAUSTED:
        says = f"This machine cannot start processes: {error.strerror}."
        raise HostUnreachable(says) from error
    code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return Completed(code, b"", f"{command.argv[0]}: {error.strerror}".encode(), 0.0)
