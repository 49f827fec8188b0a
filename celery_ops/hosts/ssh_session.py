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
    from celery_ops.hosts.ssh_remote import Remote

_CHUNK = 65_536
_IDLE = 0.25
"""Seconds between looks at what nothing wakes us for: an exit whose output stays open."""
_FULL = 0.01
"""Seconds between attempts to send what the host has no room for yet."""
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


def opened(transport: paramiko.Transport, timeout: float) -> Session:
    """A new session. Raise Busy or Lost; nothing has been started then."""
    began = time.monotonic()
    try:
        return Session(transport, transport.open_session(timeout=timeout))
    except paramiko.ChannelException as error:
        if error.code in _REFUSED_OPEN:
            raise Busy(error.text) from error
        raise Lost(str(error)) from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        if transport.is_active() and time.monotonic() - began < timeout:
            # paramiko keeps one error for all: of two refusals at once one comes without its code.
            raise Busy(str(error)) from error
        raise Lost(str(error) or type(error).__name__) from error


class Session:
    """A channel that runs at most one command."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        self._transport = transport
        self._channel = channel
        self._waker = _Waker()
        self._given_up = False
        self.begun: Future[int] = Future()
        """The command's process group, once it began; 0: none of its own, or it never began."""
        self.refused = False
        """The host would not run the command."""

    def run(self, remote: Remote, streams: tuple[Output, Output] | None = None) -> Ended:
        """Run a command until it ended, the connection is lost, or somebody gave it up.

        `streams` are for its stdout and stderr, if they are not just to be kept.
        """
        mark = remote.mark
        out, err = streams or (Output(mark, MAX_OUTPUT), Output(mark, MAX_OUTPUT))
        channel = self._channel
        # `set` of these is all that paramiko calls when something arrives.
        channel.in_buffer.set_event(self._waker)
        channel.in_stderr_buffer.set_event(self._waker)
        try:
            channel.exec_command(remote.line)
        except (paramiko.SSHException, EOFError, OSError):
            self.refused = self._transport.is_active()
            return Ended(None, out, err, truncated=False)
        try:
            self._exchange(memoryview(remote.stdin), out, err)
        except (paramiko.SSHException, EOFError, OSError):
            pass  # what has come until then tells
        finally:
            if not self.begun.done():
                self.begun.set_result(0)
            self.close()
        code = channel.exit_status
        whole = bool(channel.eof_received)
        return Ended(
            code=None if code == -1 else code,
            out=out,
            err=err,
            truncated=out.truncated or err.truncated or not whole,
        )

    @property
    def group(self) -> int | None:
        """As `begun`; None as long as it is not known."""
        return self.begun.result() if self.begun.done() else None

    def give_up(self) -> None:
        """Let `run` return soon. Does not end what runs on the host."""
        self._given_up = True
        self._waker.set()

    def close(self) -> None:
        with suppress(paramiko.SSHException, EOFError, OSError):
            self._channel.close()

    def _exchange(self, stdin: memoryview, out: Output, err: Output) -> None:
        """Send and receive until all is said.

        Output is drained all the time, kept or not: a command must not hang on a full pipe.
        """
        channel, sent_eof, quiet_since = self._channel, False, time.monotonic()
        while not self._given_up:
            # Looked at before the output is read: all that was said came before.
            ended = channel.exit_status_ready()
            is_over = channel.closed or (ended and channel.eof_received)
            moved = self._received(out, err)
            if not sent_eof and channel.send_ready():
                stdin, moved = self._sent(stdin), True
                sent_eof = not stdin
            now = time.monotonic()
            if moved:
                quiet_since = now
                continue
            if is_over or (ended and now - quiet_since > LINGER):
                return
            self._waker.wait(_IDLE if sent_eof else _FULL)

    def _sent(self, stdin: memoryview) -> memoryview:
        """What is left to send; nothing if the command ended without reading it, which is its right
        and no reason to lose its output.
        """
        try:
            left = stdin[self._channel.send(bytes(stdin[:_CHUNK])) :] if stdin else stdin
            if not left:
                self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError, OSError):
            return stdin[:0]
        return left

    def _received(self, out: Output, err: Output) -> bool:
        channel, moved = self._channel, False
        if channel.recv_ready():
            out.feed(channel.recv(_CHUNK))
            moved = True
        if channel.recv_stderr_ready():
            err.feed(channel.recv_stderr(_CHUNK))
            moved = True
        if out.group is not None and not self.begun.done():
            self.begun.set_result(out.group)
        return moved


class _Waker(threading.Event):
    """An event for several buffers: paramiko clears it when one of them is empty, which is not ours
    to forget the others for.
    """

    def clear(self) -> None:
        return

    def wait(self, timeout: float | None = None) -> bool:
        woken = super().wait(timeout)
        super().clear()
        return woken
