"""A message of AMQP as text that gives the very same bytes again: what is kept in backups.

    {"v": 1, "properties": {"content_type": "application/json",
                            "headers": [["task", "S", "shop.mail"], ["retries", "I", 0],
                                        ["timelimit", "A", [["V", null], ["V", null]]]],
                            "delivery_mode": 2, "priority": 0},
     "body": "W1tdLCB7fSwge31d"}

Headers keep their order and their types (the letters are RabbitMQ's). A text that is no UTF-8 is
`{"base64": …}`, and so are properties as a whole that cannot be written in this way. Read strictly.
Pure.

Source: AMQP 0-9-1, section 4.2.5, with the errata that RabbitMQ lists.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from struct import Struct
from typing import Any

import msgspec

VERSION = 1
_BASE64 = "base64"
_NUMBERS = {
    "b": Struct(">b"), "B": Struct(">B"), "s": Struct(">h"), "u": Struct(">H"), "I": Struct(">i"),
    "i": Struct(">I"), "l": Struct(">q"), "L": Struct(">q"), "T": Struct(">Q"),
}  # fmt: skip
_FLOATS = {"f": Struct(">f"), "d": Struct(">d")}
_TEXTS = frozenset("Sx")
_DECIMAL = Struct(">Bi")
_FLAGS, _LENGTH, _STAMP = Struct(">H"), Struct(">I"), Struct(">Q")
_TEXT, _OCTET, _TIME, _TABLE = "text", "octet", "time", "table"
_PROPERTIES = (
    ("content_type", _TEXT), ("content_encoding", _TEXT), ("headers", _TABLE),
    ("delivery_mode", _OCTET), ("priority", _OCTET), ("correlation_id", _TEXT),
    ("reply_to", _TEXT), ("expiration", _TEXT), ("message_id", _TEXT), ("timestamp", _TIME),
    ("type", _TEXT), ("user_id", _TEXT), ("app_id", _TEXT), ("cluster_id", _TEXT),
)  # fmt: skip
_KINDS = dict(_PROPERTIES)
_FIRST_FLAG = 15
_DEEPEST = 64

Json = Any
"""Whatever JSON can be: what it is, is looked at where it is used."""
Properties = dict[str, Json]
"""Typed: those of AMQP by name; `headers` as `[[name, type, value], …]`, all as in JSON."""


class Unreadable(ValueError):
    """Properties that cannot be told one by one, or a text that is no message."""


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    properties: dict[str, Json]
    body: bytes


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


def written(encoded: bytes, body: bytes, properties: Properties | None = None) -> bytes:
    """The text of a message with these encoded properties; `properties`: if they were read."""
    if properties is None:
        try:
            properties = read_properties(encoded)
        except Unreadable:
            properties = {_BASE64: base64.b64encode(encoded).decode()}
    return _encode(_Message(VERSION, properties, body))


def read(raw: bytes) -> tuple[bytes, bytes]:
    """The encoded properties and the body of such a text; raise Unreadable."""
    try:
        message = _decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"not a message as this version writes it: {error}") from error
    if message.v != VERSION:
        raise Unreadable(f"a message of version {message.v}, and this one reads {VERSION}")
    if message.properties.keys() == {_BASE64}:
        return _bytes_of(message.properties), message.body
    return write_properties(message.properties), message.body


# --- properties ---------------------------------------------------------------------------------


def read_properties(encoded: bytes) -> Properties:
    """Raise Unreadable for what does not come back as the same bytes."""
    reader = _Reader(encoded)
    try:
        flags = reader.number(_FLAGS)
        found: Properties = {}
        for place, (name, kind) in enumerate(_PROPERTIES):
            if flags & (1 << (_FIRST_FLAG - place)):
                found[name] = reader.property(kind)
    except (struct.error, IndexError) as error:
        raise Unreadable("cut off") from error
    if flags & 0b11 or reader.at != len(encoded):
        raise Unreadable("more than the properties there are")
    return found


def write_properties(properties: Properties) -> bytes:
    """Raise Unreadable for what is none."""
    if not properties.keys() <= _KINDS.keys():
        raise Unreadable("an unknown property")
    flags = 0
    parts: list[bytes] = []
    try:
        for place, (name, kind) in enumerate(_PROPERTIES):
            if name in properties:
                flags |= 1 << (_FIRST_FLAG - place)
                parts.append(_property(kind, properties[name]))
        return _FLAGS.pack(flags) + b"".join(parts)
    except (struct.error, OverflowError, TypeError, ValueError, RecursionError) as error:
        raise Unreadable("a property or a header of another type than it says") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def property(self, kind: str) -> object:
        if kind == _TEXT:
            return self.short_text()
        if kind == _OCTET:
            return self._octet()
        if kind == _TIME:
            return self.number(_STAMP)
        return self._table(0)

    def number(self, form: Struct) -> Json:
        (found,) = form.unpack_from(self._data, self.at)
        self.at += form.size
        return found

    def short_text(self) -> object:
        return _told(self._take(self._octet()))

    def _octet(self) -> int:
        octet = self._data[self.at]
        self.at += 1
        return octet

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise Unreadable("cut off")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def _span(self, depth: int) -> int:
        """Where the table or array that begins here ends."""
        size = self.number(_LENGTH)
        if depth > _DEEPEST or self.at + size > len(self._data):
            raise Unreadable("nested too deeply, or cut off")
        return int(self.at + size)

    def _table(self, depth: int) -> list[list[object]]:
        end = self._span(depth)
        entries = []
        while self.at < end:
            entries.append([self.short_text(), *self._value(depth)])
        self._check_end(end)
        return entries

    def _array(self, depth: int) -> list[list[object]]:
        end = self._span(depth)
        items = []
        while self.at < end:
            items.append(self._value(depth))
        self._check_end(end)
        return items

    def _check_end(self, end: int) -> None:
        if self.at != end:
            raise Unreadable("a table longer than it says")

    def _value(self, depth: int) -> list[object]:
        letter = chr(self._octet())
        if letter in _TEXTS:
            return [letter, _told(self._take(self.number(_LENGTH)))]
        if letter in _NUMBERS:
            return [letter, self.number(_NUMBERS[letter])]
        match letter:
            case "t":
                octet = self._octet()
                if octet > 1:
                    raise Unreadable("a truth of its own")
                return [letter, bool(octet)]
            case "V":
                return [letter, None]
            case "F":
                return [letter, self._table(depth + 1)]
            case "A":
                return [letter, self._array(depth + 1)]
            case "D":
                return [letter, [self._octet(), self.number(_NUMBERS["I"])]]
            case "f" | "d":
                number = self.number(_FLOATS[letter])
                if not math.isfinite(number):
                    raise Unreadable("JSON has no such number")
                return [letter, number]
        raise Unreadable(f"the type {letter!r}")


def _property(kind: str, value: Json) -> bytes:
    if kind == _TEXT:
        return _short(value)
    if kind == _OCTET:
        return _number(_NUMBERS["B"], value)
    if kind == _TIME:
        return _number(_STAMP, value)
    return _table(value)


def _table(entries: list[Json]) -> bytes:
    parts = [_short(name) + _value(letter, value) for name, letter, value in entries]
    return _long(b"".join(parts))


def _value(letter: Json, value: Json) -> bytes:
    mark = letter.encode("ascii") if isinstance(letter, str) else b""
    if letter in _TEXTS:
        return mark + _long(_bytes_of(value))
    if letter in _NUMBERS:
        return mark + _number(_NUMBERS[letter], value)
    match letter, value:
        case "t", bool():
            return mark + bytes([value])
        case "V", None:
            return mark
        case "F", list():
            return mark + _table(value)
        case "A", list():
            return mark + _long(b"".join(_value(inner, item) for inner, item in value))
        case "D", [int() as scale, int() as digits]:
            return mark + _DECIMAL.pack(scale, digits)
        case "f" | "d", int() | float():
            return mark + _FLOATS[letter].pack(value)
    raise Unreadable(f"the type {letter!r}")


def _number(form: Struct, value: Json) -> bytes:
    if type(value) is not int:
        raise Unreadable("not a whole number")
    return form.pack(value)


def _short(text: Json) -> bytes:
    data = _bytes_of(text)
    return bytes([len(data)]) + data


def _long(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _told(data: bytes) -> object:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {_BASE64: base64.b64encode(data).decode()}


def _bytes_of(text: Json) -> bytes:
    match text:
        case str():
            return text.encode()
        case {"base64": str() as coded, **rest} if not rest:
            try:
                return base64.b64decode(coded, validate=True)
            except binascii.Error as error:
                raise Unreadable("not base64") from error
    raise Unreadable("not a text")
