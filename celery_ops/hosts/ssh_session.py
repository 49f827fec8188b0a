"""One command on one channel. Everything here blocks; a closed connection ends every wait."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paramiko

from celery_ops.hosts.local import LINGER, MAX_OUTPUT
from celery_ops.hosts.ssh_remote import Output

if TYPE_CHECKING:
    from celery_ops.hosts.ssh_channel import Connection, SessionChannel
    from celery_ops.hosts.ssh_remote import Remote

_CHUNK = 65_536
_IDLE = 0.25
"""Seconds between looks at what nothing wakes us for: a little output, or an exit whose output
stays open."""
_REFUSED_OPEN = (
    paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    paramiko.common.OPEN_FAILED_CONNECT_FAILED,
    paramiko.common.OPEN_FAILED_RESOURCE_SHORTAGE,
)


class Busy(Exception):
    """The host allows no more sessions on this connection just now; the connection is fine."""


class Lost(Exception):
    """The connection is of no use any more, or the host does not answer on it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended. `code` is None if the host told none: a signal, or a lost connection."""

    code: int | None
    out: Output
    err: Output
    truncated: bool


class Session:
    """A channel that runs at most one command."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: SessionChannel | None = None
        self._changing = threading.Lock()
        self._given_up = False
        self._is_prompt = False
        self.begun: Future[int] = Future()
        """The command's process group, once it began; 0: none of its own, or it never began."""
        self.started_at: float | None = None
        """When the command was sent, on the monotonic clock; None: it certainly was not yet."""
        self.refused = False
        """The host would not run the command."""

    @property
    def group(self) -> int | None:
        """As `begun`; None as long as it is not known."""
        return self.begun.result() if self.begun.done() else None

    def open(self, timeout: float) -> SessionChannel:
        """Raise Busy or Lost; nothing has been started then."""
        began = time.monotonic()
        try:
            self._channel = self._connection.open_session_channel(timeout)
        except paramiko.ChannelException as error:
            if error.code in _REFUSED_OPEN:
                raise Busy(error.text) from error
            raise Lost(str(error)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self._connection.is_active() and time.monotonic() - began < timeout:
                # paramiko keeps one error for all: of two refusals at once one comes without its
                # code.
                raise Busy(str(error)) from error
            raise Lost(str(error) or type(error).__name__) from error
        return self._channel

    def run(
        self, remote: Remote, *, open_within: float, streams: tuple[Output, Output] | None = None
    ) -> Ended:
        """Open it, unless it is open, and run a command until it ended, the connection is lost, or
        it is given up.

        `streams` are for its stdout and stderr, if they are not just to be kept; then they are fed
        as it prints. Raise Busy or Lost if it certainly was not started.
        """
        channel = self._channel or self.open(open_within)
        with self._changing:
            if not self._given_up:
                self.started_at = time.monotonic()
        if self.started_at is None:
            self.close()
            raise Lost("nobody waits for it any more")
        mark = remote.mark
        out, err = streams or (Output(mark, MAX_OUTPUT), Output(mark, MAX_OUTPUT))
        self._is_prompt = self._is_prompt or streams is not None
        try:
            channel.execute(remote.line)
            self._exchange(channel, memoryview(remote.stdin), out, err)
        except (paramiko.SSHException, EOFError, OSError):
            pass  # what has come until then tells
        finally:
            if not self.begun.done():
                self.begun.set_result(0)
            self.close()
        code = channel.exit_status
        self.refused = channel.refused
        whole = bool(channel.eof_received)
        return Ended(
            code=None if code == -1 else code,
            out=out,
            err=err,
            truncated=out.truncated or err.truncated or not whole,
        )

    def probe(self, timeout: float) -> None:
        """See whether the host opens sessions. Raise Busy or Lost if not."""
        self.open(timeout)
        self.close()

    def withdraw(self) -> bool:
        """Whether the command was not started, and now never will be."""
        with self._changing:
            if self.started_at is not None:
                return False
            self._given_up = True
        return True

    def hurry(self) -> None:
        """Let it be known as soon as it can be which process group it is."""
        self._is_prompt = True
        if self._channel is not None:
            self._channel.waker.eager = True
            self._channel.waker.set()

    def give_up(self) -> None:
        """Let `run` return soon. Does not end what runs on the host."""
        self._given_up = True
        self.hurry()

    def close(self) -> None:
        if self._channel is not None:
            with suppress(paramiko.SSHException, EOFError, OSError):
                self._channel.close()

    def _exchange(
        self, channel: SessionChannel, stdin: memoryview, out: Output, err: Output
    ) -> None:
        """Send and receive until all is said.

        Output is drained all the time, kept or not: a command must not hang on a full pipe.
        """
        sent_eof, quiet_since = False, time.monotonic()
        channel.waker.eager = self._is_prompt or bool(stdin)
        while not self._given_up:
            # Looked at before the output is read: all that was said came before.
            ended = channel.exit_status_ready()
            is_over = channel.closed or (ended and channel.eof_received)
            moved = self._received(channel, out, err)
            if not sent_eof and (not stdin or channel.send_ready()):
                stdin, moved = _sent(channel, stdin), True
                sent_eof = not stdin
                channel.waker.eager = self._is_prompt or not sent_eof
            now = time.monotonic()
            if moved:
                quiet_since = now
            elif is_over or (ended and now - quiet_since > LINGER):
                return
            else:
                channel.waker.wait(_IDLE)

    def _received(self, channel: SessionChannel, out: Output, err: Output) -> bool:
        moved = False
        if channel.recv_ready():
            out.feed(channel.recv(_CHUNK))
            moved = True
        if channel.recv_stderr_ready():
            err.feed(channel.recv_stderr(_CHUNK))
            moved = True
        if out.group is not None and not self.begun.done():
            self.begun.set_result(out.group)
        return moved


def _sent(channel: SessionChannel, stdin: memoryview) -> memoryview:
    """What is left to send; nothing if the command ended without reading it, which is its right
    and no reason to lose its output.
    """
    try:
        left = stdin[channel.send(bytes(stdin[:_CHUNK])) :] if stdin else stdin
        if not left:
            channel.shutdown_write()
    except (paramiko.SSHException, EOFError, OSError):
        return stdin[:0]
    return left
