"""paramiko's connection, with channels on which nothing is said after their end.

sshd ends a whole connection at the first data for a channel that is gone. paramiko answers a host's
CLOSE from the thread that reads, while another one may just be sending: its data comes after the
answer, and every command on that connection is lost; on a jump host's, every host behind it. Here
the reading thread only notes what the host said of a channel, and whoever uses it closes it.

Depends on paramiko's table of handlers and its `_send_user_message`, which are as old as paramiko.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import paramiko
from paramiko import common

if TYPE_CHECKING:
    from collections.abc import Callable


_MANY = 8
"""Arrivals, of at most 32 KiB each, that are worth waking for: far less than a channel's window."""
_private: Callable[[object], Any] = partial(cast, "Any")
"""What the types of paramiko do not tell of."""


class Waker(threading.Event):
    """Set by paramiko whenever something arrives for a channel; wakes its thread when it is worth
    it: once all is said, once much has come, or at anything while it is `eager`.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        super().__init__()
        self.eager = False
        self._channel = channel
        self._arrivals = 0

    def set(self) -> None:
        self._arrivals += 1
        if self.eager or self._channel.closed or self._arrivals >= _MANY:
            super().set()

    def clear(self) -> None:
        """Not when one of several buffers is empty, which is all that paramiko calls this for."""

    def wait(self, timeout: float | None = None) -> bool:
        woken = super().wait(timeout)
        super().clear()
        self._arrivals = 0
        return woken


class OrderedChannel(paramiko.Channel):
    """A channel whose CLOSE is the last that is said on it; its user has to `close` it."""

    _pen: threading.Lock
    _said_close = False
    _heard_close = False

    def prepare(self) -> None:
        """In place of a constructor: paramiko lets nobody say which class it makes a channel of."""
        self._pen = threading.Lock()

    def send(self, s: bytes | bytearray) -> int:
        with self._pen:
            return super().send(s)

    def close(self) -> None:
        with self.lock:
            if not self.active or self._said_close:
                return
            self._said_close = True
            _private(self)._set_closed()
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_CLOSE)
        message.add_int(self.remote_chanid)
        # Whoever sends just now has looked whether it is closed before; and a connection that is
        # gone needs not be told.
        with self._pen, suppress(EOFError):
            self._say(message)
        self._forget()

    def note_close(self, _message: paramiko.Message) -> None:
        self._heard_close = True
        with self.lock:
            _private(self)._set_closed()
        self._forget()

    def _say(self, message: paramiko.Message) -> None:
        _private(self.transport)._send_user_message(message)

    def _forget(self) -> None:
        """Once both sides closed it, its number may be used again."""
        with self.lock:
            if self._said_close and self._heard_close:
                _private(self.transport)._unlink_channel(self.chanid)


Kind = TypeVar("Kind", bound=OrderedChannel)


class SessionChannel(OrderedChannel):
    """A session on a host."""

    waker: Waker
    refused = False
    """The host said that it does not run the command."""

    def prepare(self) -> None:
        super().prepare()
        self.waker = Waker(self)
        # `set` of these is all that paramiko calls when something arrives.
        self.in_buffer.set_event(self.waker)
        self.in_stderr_buffer.set_event(self.waker)

    def execute(self, line: bytes) -> None:
        """As `exec_command`, but without waiting for what the host says to it."""
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(line)
        self._say(message)

    def note_window(self, message: paramiko.Message) -> None:
        _private(self)._window_adjust(message)
        self.waker.set()

    def note_refusal(self, _message: paramiko.Message) -> None:
        self.refused = True
        with self.lock:
            _private(self)._set_closed()


def _noted(
    number: int, kind: type[OrderedChannel], note: str
) -> Callable[[paramiko.Channel, paramiko.Message], None]:
    """Handles a message for such a channel by one of its notes, for others as paramiko does."""
    table = _private(paramiko.Transport)._channel_handler_table

    def handle(channel: paramiko.Channel, message: paramiko.Message) -> None:
        if isinstance(channel, kind):
            getattr(channel, note)(message)
        else:
            table[number](channel, message)

    return handle


class Connection(paramiko.Transport):
    """A connection to a host."""

    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **_private(paramiko.Transport)._channel_handler_table,
        common.MSG_CHANNEL_FAILURE: _noted(
            common.MSG_CHANNEL_FAILURE, SessionChannel, "note_refusal"
        ),
        common.MSG_CHANNEL_WINDOW_ADJUST: _noted(
            common.MSG_CHANNEL_WINDOW_ADJUST, SessionChannel, "note_window"
        ),
        common.MSG_CHANNEL_CLOSE: _noted(common.MSG_CHANNEL_CLOSE, OrderedChannel, "note_close"),
    }

    def open_session_channel(self, timeout: float) -> SessionChannel:
        """Raises as `open_session` does, nothing having been started."""
        return _became(SessionChannel, self.open_session(timeout=timeout))

    def open_tunnel(self, there: tuple[str, int], timeout: float) -> OrderedChannel:
        """A way to another host. Raises as `open_channel` does."""
        channel = self.open_channel("direct-tcpip", there, ("127.0.0.1", 0), timeout=timeout)
        return _became(OrderedChannel, channel)


def _became(kind: type[Kind], channel: paramiko.Channel) -> Kind:
    channel.__class__ = kind
    became = cast("Kind", channel)
    became.prepare()
    return became
