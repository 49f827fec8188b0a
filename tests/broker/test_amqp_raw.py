"""Messages of AMQP as text: every byte comes back, and what is no message is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.broker.rabbit import messages
from celery_ops.broker.rabbit import raw as amqp_raw
from celery_ops.broker.rabbit.raw import Unreadable
from tests.broker.amqp_queues import header, long_text, properties, task

TEXTS = st.binary(max_size=20).map(lambda data: ["S", data])
NUMBERS = st.sampled_from("bBsuIilLT").flatmap(
    lambda letter: st.tuples(st.just(letter), st.binary(min_size=8, max_size=8))
)
SIZES = {"b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "L": 8, "T": 8, "d": 8, "f": 4}


def scalars() -> st.SearchStrategy[bytes]:
    """Encoded values of every simple type."""
    return st.one_of(
        NUMBERS.map(lambda one: one[0].encode() + one[1][: SIZES[one[0]]]),
        st.sampled_from("Sx").flatmap(
            lambda letter: st.binary(max_size=12).map(
                lambda data: letter.encode() + long_text(data)
            )
        ),
        st.floats(width=64).map(lambda number: b"d" + struct.pack(">d", number)),
        st.floats(width=32).map(lambda number: b"f" + struct.pack(">f", number)),
        st.sampled_from([b"V", b"t\x00", b"t\x01", b"t\x02", b"D\x02\xff\xff\xff\xfe"]),
    )


def named(values: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(bytes([len(name)]) + name + value for name, value in values)


VALUES = st.recursive(
    scalars(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: b"A" + long_text(b"".join(items))),
        st.lists(st.tuples(st.binary(max_size=5), inner), max_size=3).map(
            lambda entries: b"F" + long_text(named(entries))
        ),
    ),
    max_leaves=8,
)
TABLES = st.lists(st.tuples(st.binary(max_size=8), VALUES), max_size=5).map(named)


@given(TABLES, st.binary(max_size=30), st.none() | st.integers(0, 255))
def test_every_byte_comes_back(headers: bytes, body: bytes, priority: int | None) -> None:
    encoded = properties(headers=headers, priority=priority, correlation_id="id-1")
    raw = amqp_raw.written(encoded, body)
    assert amqp_raw.read(raw) == (encoded, body)
    json.loads(raw)


@given(st.binary(max_size=60), st.binary(max_size=10))
def test_what_is_no_properties_comes_back_too(encoded: bytes, body: bytes) -> None:
    assert amqp_raw.read(amqp_raw.written(encoded, body)) == (encoded, body)


def test_a_message_of_celerys_can_be_read_by_people() -> None:
    message = task("id-1", priority=7)
    document = json.loads(amqp_raw.written(message.properties, message.body))
    assert document["properties"] == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": [
            ["lang", "S", "py"],
            ["task", "S", "shop.mail"],
            ["id", "S", "id-1"],
            ["eta", "V", None],
            ["retries", "I", 3],
            ["timelimit", "A", [["V", None], ["V", None]]],
            ["stamps", "F", []],
        ],
        "delivery_mode": 2,
        "priority": 7,
        "correlation_id": "id-1",
    }


GOOD: dict[str, Any] = {"v": 1, "properties": {"headers": [["n", "I", 1]]}, "body": "W10="}


@pytest.mark.parametrize(
    "changed",
    [
        {"v": 2},
        {"body": "no base64"},
        {"more": 1},
        {"properties": {"unknown": "x"}},
        {"properties": {"priority": 256}},
        {"properties": {"priority": True}},
        {"properties": {"priority": "1"}},
        {"properties": {"content_type": 5}},
        {"properties": {"content_type": "x" * 256}},
        {"properties": {"content_type": "\ud800"}},
        {"properties": {"content_type": {"base64": "?"}}},
        {"properties": {"content_type": {"base64": "", "more": 1}}},
        {"properties": {"headers": {"n": 1}}},
        {"properties": {"headers": [["n", "I"]]}},
        {"properties": {"headers": [["n", "I", 2**31]]}},
        {"properties": {"headers": [["n", "I", 1.0]]}},
        {"properties": {"headers": [["n", "V", 1]]}},
        {"properties": {"headers": [["n", "t", 1]]}},
        {"properties": {"headers": [["n", "?", 1]]}},
        {"properties": {"headers": [["n", 5, 1]]}},
        {"properties": {"headers": [["n", "A", [["S"]]]]}},
        {"properties": {"base64": "?"}},
        {"properties": []},
        {"body": None},
    ],
    ids=repr,
)
def test_what_is_no_message_is_refused(changed: dict[str, Any]) -> None:
    amqp_raw.read(json.dumps(GOOD).encode())
    with pytest.raises(Unreadable):
        amqp_raw.read(json.dumps(GOOD | changed).encode())


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"body": 1}'])
def test_what_is_no_document_is_refused(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        amqp_raw.read(raw)


def test_headers_that_are_nested_too_deeply_are_kept_as_bytes() -> None:
    table = b""
    for _ in range(1_000):
        table = header("n", "F", long_text(table))
    encoded = properties(headers=table)
    assert amqp_raw.read(amqp_raw.written(encoded, b"")) == (encoded, b"")
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [["n", "F", deep]]
    with pytest.raises(Unreadable):
        amqp_raw.write_properties({"headers": deep})


def test_what_a_message_says_of_itself() -> None:
    message = task("id-1", priority=7)
    found = messages.stored(message.properties, message.body, redelivered=True, top_priority=5)
    assert (found.id, found.task, found.retries, found.eta) == ("id-1", "shop.mail", 3, None)
    assert (found.priority, found.redelivered) == (5, True)
    assert found.body is not None
    assert found.body.data == message.body
    nothing = messages.stored(b"\xff", b"x", redelivered=False, top_priority=5)
    assert (nothing.id, nothing.task, nothing.priority, nothing.body) == (None, None, 0, None)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        (task("id-1").properties, None),
        (properties(headers=header("CC", "A", long_text(header("", "S", b"")))), "read"),
        (properties(headers=header("CC", "A", long_text(b"S" + long_text("other")))), "CC"),
        (properties(headers=header("x", "S", long_text("\x02CC"))), None),
        (properties(rest=b"\x03ann", rest_flags=0x0010), None),
        (properties(rest=b"\x03bob", rest_flags=0x0010), "user"),
    ],
    ids=["as-celerys", "cut-off", "cc", "cc-as-text", "ours", "anothers"],
)
def test_what_keeps_a_message_from_being_published_again(encoded: bytes, why: str | None) -> None:
    found = messages.hindrance(encoded, "ann")
    assert found is None if why is None else found is not None and why in found


def test_what_quorum_queues_add_is_taken_out() -> None:
    counted = header("x-delivery-count", "l", bytes(8))
    with_count = properties(headers=header("n", "I", bytes(4)) + counted, correlation_id="id-1")
    without = properties(headers=header("n", "I", bytes(4)), correlation_id="id-1")
    assert messages.as_published(with_count) == without
    assert messages.as_published(without) == without
    assert messages.as_published(properties(headers=counted)) == properties()
