"""Messages of AMQP as they are on the wire: properties and body as bytes, published again as they
came.

py-amqp reads properties into Python's types and writes them as it thinks best: a 64-bit 5 comes
back as a 32-bit one, and a name that is no UTF-8 ends the connection. Here they stay the bytes they
are, and are only read by who asks for one.
"""

from __future__ import annotations

import contextlib
import struct
from struct import unpack_from
from typing import TYPE_CHECKING, Any

import amqp
from amqp import spec
from amqp.exceptions import AMQPError, UnexpectedFrame
from amqp.method_framing import frame_handler as plain_handler
from amqp.serialization import decode_properties_basic

if TYPE_CHECKING:
    from collections.abc import Callable

    Frame = tuple[int, int, bytes]
    Method = tuple[int, int]

Connection = Any
_METHOD, _HEADER, _BODY = 1, 2, 3
_WITH_CONTENT: frozenset[Method] = frozenset(
    {spec.Basic.Return, spec.Basic.Deliver, spec.Basic.GetOk}
)
_CLASS, _SIZE = ">H", ">Q"
_UNREADABLE = (AMQPError, struct.error, ArithmeticError, LookupError, OSError, ValueError)
"""What py-amqp raises for properties that it cannot read."""
_SIZE_AT, _PROPERTIES_AT = 4, 12


class Content(amqp.Message):  # type: ignore[misc]  # py-amqp has no types
    """A message; `encoded` are its properties, flags first, as the protocol writes them.

    Its `properties` can be read; what is set there is not published.
    """

    def __init__(self, encoded: bytes = b"\x00\x00", body: bytes = b"", **frame: object) -> None:
        self._read: dict[str, object] | None = None
        super().__init__(body, **frame)
        self.encoded = encoded

    @property
    def properties(self) -> dict[str, object]:
        """As py-amqp reads them; none if it cannot."""
        if self._read is not None:
            return self._read
        found: dict[str, object] = {}
        with contextlib.suppress(*_UNREADABLE):
            found, _ = decode_properties_basic(self.encoded, 0)
        self._read = found
        return found

    @properties.setter
    def properties(self, properties: dict[str, object]) -> None:
        self._read = properties or None

    @property
    def size(self) -> int:
        """In bytes, without its frames."""
        return len(self.encoded) + len(self.body)

    def inbound_header(self, buf: bytes, offset: int = 0) -> int:
        (self.body_size,) = unpack_from(_SIZE, buf, offset + _SIZE_AT)
        self.encoded = bytes(buf[offset + _PROPERTIES_AT :])
        self.ready = not self.body_size
        return len(buf)

    def inbound_body(self, buf: bytes) -> None:
        super().inbound_body(bytes(buf))

    def _serialize_properties(self) -> bytes:
        return self.encoded


def frame_handler(connection: Connection, callback: Callable[..., None]) -> Callable[[Frame], bool]:
    """As py-amqp's own, for `amqp.Connection`; what comes with content is a `Content`."""
    plain: Callable[[Frame], bool] = plain_handler(connection, callback)
    parts: dict[int, Content] = {}

    def on_frame(frame: Frame) -> bool:
        kind, channel, buf = frame
        content = parts.get(channel)
        if kind == _METHOD and content is None:
            method: Method = unpack_from(">HH", buf)
            if method not in _WITH_CONTENT:
                return plain(frame)
            connection.bytes_recv += 1  # what py-amqp tells a silent server by
            parts[channel] = Content(frame_method=method, frame_args=buf)
            return False
        if content is None or kind not in {_METHOD, _HEADER, _BODY}:
            return plain(frame)
        connection.bytes_recv += 1
        if kind == _METHOD:
            raise UnexpectedFrame("a method came where the rest of a message was expected")
        if kind == _HEADER:
            content.inbound_header(buf)
        else:
            content.inbound_body(buf)
        if not content.ready:
            return False
        del parts[channel]
        callback(channel, content.frame_method, content.frame_args, content)
        return True

    return on_frame
