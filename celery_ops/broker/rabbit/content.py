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
_SIZE = ">Q"
_UNREADABLE = (AMQPError, struct.error, ArithmeticError, LookupError, OSError, ValueError)
"""What py-amqp raises for properties that it cannot read."""
_SIZE_AT, _PROPERTIES_AT = 4, 12


class Content:
    """A message, as py-amqp's channels know one; its body is always bytes.

    `encoded` are its properties, flags first, as the protocol writes them, and what is published;
    `properties` are the same, to be read.
    """

    def __init__(
        self, encoded: bytes = b"\x00\x00", body: bytes = b"", *, frame_method: Method = (0, 0)
    ) -> None:
        self.encoded = encoded
        self.body = body
        self.frame_method = frame_method
        self.frame_args = b""
        self.channel: object = None
        self.delivery_info: dict[str, object] = {}
        """Where it was delivered to and from, once it is."""
        self._parts: list[bytes] = []
        self._missing = 0

    @property
    def properties(self) -> dict[str, object]:
        """As py-amqp reads them; none if it cannot."""
        found: dict[str, object] = {}
        with contextlib.suppress(*_UNREADABLE):
            found, _ = decode_properties_basic(self.encoded, 0)
        return found

    @property
    def delivery_tag(self) -> object:
        return self.delivery_info.get("delivery_tag")

    @property
    def size(self) -> int:
        """In bytes, without its frames."""
        return len(self.encoded) + len(self.body)

    def begin(self, head: bytes) -> bool:
        """Read the frame that follows its method; whether it is whole by that."""
        (self._missing,) = unpack_from(_SIZE, head, _SIZE_AT)
        self.encoded = bytes(head[_PROPERTIES_AT:])
        return not self._missing

    def go_on(self, part: bytes) -> bool:
        """Read a part of the body; whether it is whole by that."""
        self._parts.append(bytes(part))
        self._missing -= len(part)
        if self._missing > 0:
            return False
        self.body = b"".join(self._parts)
        self._parts.clear()
        return True

    def _serialize_properties(self) -> bytes:
        """What py-amqp asks of what it publishes."""
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
            parts[channel] = begun = Content(frame_method=method)
            begun.frame_args = buf
            return False
        if content is None or kind not in {_METHOD, _HEADER, _BODY}:
            return plain(frame)
        connection.bytes_recv += 1
        if kind == _METHOD:
            raise UnexpectedFrame("a method came where the rest of a message was expected")
        if not (content.begin(buf) if kind == _HEADER else content.go_on(buf)):
            return False
        del parts[channel]
        callback(channel, content.frame_method, content.frame_args, content)
        return True

    return on_frame
