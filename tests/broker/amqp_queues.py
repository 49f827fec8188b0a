"""What waits in queues of RabbitMQ, by a client of its own: every byte of it, and nothing of ours.

A few lines of AMQP on a plain socket, so that py-amqp and the code under test cannot agree on a
mistake.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_AT_ONCE = 100
_A_FRAME = 100_000
_GET_EMPTY, _GET_OK = (60, 72), (60, 71)


@dataclass(frozen=True)
class RawMessage:
    """What a queue holds; `properties` begin with their flags."""

    properties: bytes
    body: bytes


class RawClient:
    """A connection to one virtual host, with one channel."""

    def __init__(self, port: int, vhost: str = "/") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._buffer = b""
        try:
            self._log_in(vhost)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """What was read and not taken goes back to its place."""
        self._socket.close()

    def declare(self, queue: str, **arguments: str | int) -> None:
        """A durable one. `x_max_priority=5` is the argument x-max-priority."""
        flags = 0b00010
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        payload = b"\x00\x00" + _short(queue) + bytes([flags]) + _table(**named)
        self._call(1, (50, 10), payload, (50, 11))

    def publish(self, queue: str, *messages: RawMessage) -> None:
        """Return when they are there."""
        self._call(1, (90, 10), b"", (90, 11))
        frames = bytearray()
        for message in messages:
            publish = b"\x00\x00" + _short("") + _short(queue) + b"\x00"
            frames += _frame(_METHOD, 1, struct.pack(">HH", 60, 40) + publish)
            head = struct.pack(">HHQ", 60, 0, len(message.body)) + message.properties
            frames += _frame(_HEADER, 1, head)
            for start in range(0, len(message.body), _A_FRAME):
                frames += _frame(_BODY, 1, message.body[start : start + _A_FRAME])
        self._socket.sendall(frames)
        self._call(1, (90, 20), b"", (90, 21))

    def count(self, queue: str) -> int:
        """How many wait there."""
        answer = self._call(1, (50, 10), b"\x00\x00" + _short(queue) + b"\x01" + _table(), (50, 11))
        (count,) = struct.unpack_from(">I", answer, 1 + answer[0])
        return int(count)

    def taken(self, queue: str) -> list[RawMessage]:
        """All of them, in the order in which they are served, and gone by that; by a consumer,
        which a quorum queue serves much faster.
        """
        count = self.count(queue)
        no_ack = b"\x02"
        consume = b"\x00\x00" + _short(queue) + _short("all") + no_ack + _table()
        self._call(1, (60, 20), consume, (60, 21))
        found: list[RawMessage] = []
        while len(found) < count:
            self._expect((60, 60))
            found.append(self._content())
        self._call(1, (60, 30), _short("all") + b"\x00", (60, 31))
        return found

    def waiting(self, queue: str, *, taking: bool = False) -> list[RawMessage]:
        """All of them, in the order in which they are served; held until `close`, or taken."""
        found: list[RawMessage] = []
        get = struct.pack(">HH", 60, 70) + b"\x00\x00" + _short(queue) + bytes([taking])
        while True:
            self._socket.sendall(_frame(_METHOD, 1, get) * _AT_ONCE)
            before = len(found)
            for _ in range(_AT_ONCE):
                method, _payload = self._method()
                if method == _GET_OK:
                    found.append(self._content())
                else:
                    assert method == _GET_EMPTY, method
            if len(found) < before + _AT_ONCE:
                return found

    def _log_in(self, vhost: str) -> None:
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect((10, 10))
        login = b"\x00guest\x00guest"
        start_ok = _table() + _short("PLAIN") + _long(login) + _short("en_US")
        self._call(0, (10, 11), start_ok, (10, 30))
        self._send(0, (10, 31), struct.pack(">HIH", 16, 131_072, 0))
        self._call(0, (10, 40), _short(vhost) + b"\x00\x00", (10, 41))
        self._call(1, (20, 10), b"\x00", (20, 11))

    def _content(self) -> RawMessage:
        kind, head = self._read_frame()
        assert kind == _HEADER
        (size,) = struct.unpack_from(">Q", head, 4)
        body = b""
        while len(body) < size:
            kind, part = self._read_frame()
            assert kind == _BODY
            body += part
        return RawMessage(head[12:], body)

    def _call(
        self, channel: int, method: tuple[int, int], payload: bytes, answer: tuple[int, int]
    ) -> bytes:
        self._send(channel, method, payload)
        return self._expect(answer)

    def _send(self, channel: int, method: tuple[int, int], payload: bytes) -> None:
        self._socket.sendall(_frame(_METHOD, channel, struct.pack(">HH", *method) + payload))

    def _expect(self, method: tuple[int, int]) -> bytes:
        found, payload = self._method()
        assert found == method, (found, payload)
        return payload

    def _method(self) -> tuple[tuple[int, int], bytes]:
        kind, payload = self._read_frame()
        assert kind == _METHOD, kind
        class_id, method_id = struct.unpack_from(">HH", payload)
        return (class_id, method_id), payload[4:]

    def _read_frame(self) -> tuple[int, bytes]:
        while True:
            kind, _, size = struct.unpack(">BHI", self._read(7))
            payload = self._read(size)
            assert self._read(1) == _END
            if kind != _HEARTBEAT:
                return kind, payload

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            part = self._socket.recv(1 << 16)
            assert part, "the server has closed the connection"
            self._buffer += part
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


def properties(
    *,
    headers: bytes | None = None,
    priority: int | None = None,
    correlation_id: str | None = None,
    rest: bytes = b"",
    rest_flags: int = 0,
) -> bytes:
    """Encoded properties of a task's message; `rest` are those behind the correlation id."""
    flags = 0xC000 | rest_flags
    parts = [_short("application/json"), _short("utf-8")]
    if headers is not None:
        flags |= 0x2000
        parts.append(_long(headers))
    flags |= 0x1000
    parts.append(b"\x02")
    if priority is not None:
        flags |= 0x0800
        parts.append(bytes([priority]))
    if correlation_id is not None:
        flags |= 0x0400
        parts.append(_short(correlation_id))
    return struct.pack(">H", flags) + b"".join(parts) + rest


def header(name: str, letter: str, value: bytes) -> bytes:
    """One entry of a table."""
    return _short(name) + letter.encode() + value


def long_text(text: str | bytes) -> bytes:
    return _long(text if isinstance(text, bytes) else text.encode())


def task(
    id_: str, name: str = "shop.mail", *, priority: int | None = None, ordered: bool = False
) -> RawMessage:
    """A message as Celery sends one, with the types that it writes. `ordered`: its headers are in
    the order of their names, to which a quorum queue puts them.
    """
    entries = [
        header("lang", "S", long_text("py")),
        header("task", "S", long_text(name)),
        header("id", "S", long_text(id_)),
        header("eta", "V", b""),
        header("retries", "I", struct.pack(">i", 3)),
        header("timelimit", "A", long_text(b"VV")),
        header("stamps", "F", long_text(b"")),
    ]
    if ordered:
        entries.sort(key=lambda entry: entry[1 : 1 + entry[0]])
    encoded = properties(headers=b"".join(entries), priority=priority, correlation_id=id_)
    return RawMessage(encoded, b"[[], {}, {}]")


def without_count(message: RawMessage) -> RawMessage:
    """As it was published: a quorum queue adds a header when it delivers a message."""
    before, mark, after = message.properties.partition(b"\x10x-delivery-countl")
    if not mark:
        return message
    at = 2 + len(_short("application/json")) + len(_short("utf-8"))
    (size,) = struct.unpack_from(">I", before, at)
    size = struct.pack(">I", size - len(mark) - 8)
    return RawMessage(before[:at] + size + before[at + 4 :] + after[8:], message.body)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _table(**values: str | int) -> bytes:
    entries = [
        header(name, "S", long_text(value))
        if isinstance(value, str)
        else header(name, "I", struct.pack(">i", value))
        for name, value in values.items()
    ]
    return _long(b"".join(entries))
