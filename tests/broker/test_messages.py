"""Envelopes: what is sent, and what is made of what comes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from celery_ops.broker import messages
from celery_ops.model import Heartbeat, StoredCall, StoredResult, TaskNews, TaskState
from tests.rig.nodes import envelope

AT = datetime(2026, 11, 20, tzinfo=UTC)
EVENT = {
    "hostname": "ea@lab",
    "pid": 18949,
    "clock": 5,
    "freq": 2.0,
    "active": 0,
    "processed": 7,
    "loadavg": [0.36, 1.18, 4.22],
    "sw_ver": "5.7.0",
    "type": "worker-heartbeat",
}
TREE: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_a_heartbeat_is_read() -> None:
    assert messages.read_heartbeat(envelope(EVENT, {})) == Heartbeat(
        node="ea@lab",
        pid=18949,
        active=0,
        processed=7,
        load=0.36,
        version="5.7.0",
        interval=2.0,
        online=True,
    )


def test_a_farewell_says_that_the_worker_begins_to_stop() -> None:
    beat = messages.read_heartbeat(envelope(EVENT | {"type": "worker-offline"}, {}))
    assert beat is not None
    assert not beat.online


def test_what_a_heartbeat_does_not_tell_is_unknown_not_zero() -> None:
    bare = {"type": "worker-online", "hostname": "ea@lab", "active": "3", "pid": True, "freq": 0}
    beat = messages.read_heartbeat(envelope(bare, {}))
    assert beat is not None
    assert (beat.pid, beat.active, beat.processed, beat.load, beat.version) == (None,) * 5
    assert beat.interval == 2.0


@pytest.mark.parametrize("odd", [10**400, float("inf"), float("nan"), -1, True, "2", [], None])
def test_odd_numbers_in_a_heartbeat_are_unknown(odd: object) -> None:
    beat = messages.read_heartbeat(envelope(EVENT | {"freq": odd, "loadavg": [odd]}, {}))
    assert beat is not None
    assert beat.interval == 2.0
    assert beat.load in (None, -1.0)


@pytest.mark.parametrize(
    "event",
    [
        {**EVENT, "type": "task-received"},
        {**EVENT, "hostname": None},
        {**EVENT, "hostname": ""},
        [EVENT],
        "worker-heartbeat",
    ],
)
def test_other_events_are_no_heartbeats(event: object) -> None:
    assert messages.read_heartbeat(envelope(event, {})) is None
    assert messages.read_heartbeat(envelope(EVENT, {}, pickled=True)) is None


def test_dates_in_a_reply_stay_text() -> None:
    dumps: Any = kombu_json.dumps  # kombu's own, untyped
    body = dumps({"w@x": [{"eta": AT}]})
    message = json.loads(envelope({}, {"ticket": "t"}))
    message["body"] = base64.b64encode(body.encode()).decode()
    read = messages.read_reply(json.dumps(message).encode(), AT)
    assert read is not None
    assert read[1].value == [{"eta": AT.isoformat()}]


def test_a_reply_of_another_content_type_is_named() -> None:
    message = json.loads(envelope({"w@x": 1}, {"ticket": "t"}))
    message["content-type"] = "application/x-msgpack"
    read = messages.read_reply(json.dumps(message).encode(), AT)
    assert read is not None
    assert (read[1].unreadable, read[1].node) == ("application/x-msgpack", "")


def test_a_compressed_reply_is_not_unpacked() -> None:
    message = envelope({"w@x": 1}, {"ticket": "t", "compression": "application/x-gzip"})
    read = messages.read_reply(message, AT)
    assert read is not None
    assert read[1].unreadable == "application/json"


def test_a_body_without_base64_is_read() -> None:
    message = json.loads(envelope({}, {"ticket": "t"}))
    message["body"], message["properties"]["body_encoding"] = '{"w@x": 1}', None
    read = messages.read_reply(json.dumps(message).encode(), AT)
    assert read is not None
    assert read[1].value == 1


def test_a_held_message_tells_its_task_and_its_route() -> None:
    message = {"headers": {"id": "task-1"}, "properties": {"correlation_id": "x"}}
    held = messages.read_held(json.dumps([message, "ex", "rk"]).encode())
    assert held == messages.Held("task-1", "ex", "rk")
    old = {"headers": {}, "properties": {"correlation_id": "task-2"}}
    held = messages.read_held(json.dumps([old, "", "celery"]).encode())
    assert held == messages.Held("task-2", "", "celery")


def test_a_question_to_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="every worker"):
        messages.control_message(
            "ping",
            {},
            destination=(),
            reply_to=messages.ReplyTo("e", "k", "t"),
            expires=0,
            clock=1,
            exchange="celery.pidbox",
        )


def test_what_is_announced_of_one_task_is_picked_out_of_many_events() -> None:
    said = {"hostname": "w1@lab", "uuid": "id-1"}
    several = [
        {**said, "type": "task-received"},
        {**said, "type": "task-started", "uuid": "id-2"},
        {**said, "type": "task-succeeded", "runtime": 0.25},
        {**said, "type": "task-sent"},
    ]
    assert messages.read_task_events(envelope(several, {}), "id-1") == (
        TaskNews(TaskState.RECEIVED, "w1@lab", id="id-1"),
        TaskNews(TaskState.SUCCESS, "w1@lab", 0.25, id="id-1"),
    )
    failed = {**said, "type": "task-failed", "exception": "KeyError('x')"}
    assert messages.read_task_events(envelope(failed, {}), "id-1") == (
        TaskNews(TaskState.FAILURE, "w1@lab", None, "KeyError('x')", "id-1"),
    )
    expired = {**said, "type": "task-revoked", "expired": True}
    assert messages.read_task_events(envelope(expired, {}), "id-1") == (
        TaskNews(TaskState.REVOKED, "w1@lab", None, "expired", "id-1"),
    )
    assert messages.read_task_events(envelope(several, {}), "id-3") == ()


def test_a_stored_result_tells_how_a_task_ended() -> None:
    failure = {"exc_type": "ValueError", "exc_message": ["no database"], "exc_module": "builtins"}
    for stored, news in (
        ({"status": "SUCCESS", "result": None}, TaskNews(TaskState.SUCCESS)),
        ({"status": "SUCCESS", "worker": "w1@lab"}, TaskNews(TaskState.SUCCESS, "w1@lab")),
        (
            {"status": "FAILURE", "result": failure},
            TaskNews(TaskState.FAILURE, error="ValueError: no database"),
        ),
        ({"status": "PENDING"}, None),
        ([], None),
    ):
        assert messages.read_result(json.dumps(stored).encode()) == news


def test_all_that_is_stored_of_a_task_is_read() -> None:
    meta = {
        "status": "FAILURE",
        "result": {"exc_type": "ValueError", "exc_message": ["no", "user"]},
        "traceback": "x" * 9_000 + "\nValueError: no user",
        "date_done": "2026-11-20T03:00:00",
        "name": "shop.mail",
        "worker": "w@h",
        "queue": "mail",
        "retries": 2,
    }
    stored = messages.read_stored_result(json.dumps(meta).encode())
    assert (stored.state, stored.task, stored.worker) == ("FAILURE", "shop.mail", "w@h")
    assert (stored.queue, stored.retries, stored.error) == ("mail", 2, "ValueError: no user")
    assert stored.ended_at == datetime(2026, 11, 20, 3, tzinfo=UTC)
    assert len(stored.traceback) < 5_000
    assert stored.traceback.endswith("ValueError: no user")


def test_what_a_task_was_called_with_is_read_as_it_was_sent() -> None:
    """As Celery 5.7 stores it with result_extended, kombu's own types included."""
    day = {"__type__": "datetime", "__value__": "2026-11-20T03:00:00"}
    meta = {
        "status": "FAILURE",
        "result": {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        "children": [],
        "date_done": "2026-11-20T03:00:00.125+00:00",
        "group_id": "g-1",
        "name": "shop.mail",
        "args": [1, day],
        "kwargs": {"to": [day]},
        "queue": "mail",
        "task_id": "id-1",
    }
    stored = messages.read_stored_result(json.dumps(meta).encode())
    assert stored.call == StoredCall("shop.mail", [1, day], {"to": [day]}, "mail")
    assert (stored.uncalled, stored.ended) == ("", "2026-11-20T03:00:00.125+00:00")
    assert (stored.exception, stored.group) == ("ValueError", "g-1")
    assert "__type__" not in repr(stored), "arguments are secrets"


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ({}, "its name and its arguments are not stored"),
        ({"name": "x"}, "its arguments are not stored as they were sent"),
        ({"name": "x", "args": "(1, 'aaa...", "kwargs": "{}"}, "not stored as they were sent"),
        ({"name": "x", "args": [], "kwargs": None}, "not stored as they were sent"),
    ],
)
def test_what_is_not_stored_whole_cannot_be_sent_again(kept: dict[str, object], why: str) -> None:
    stored = messages.read_stored_result(json.dumps({"status": "FAILURE", **kept}).encode())
    assert stored.call is None
    assert why in stored.uncalled


@pytest.mark.parametrize("raw", [b"\x80\x04]", b"[]", b'{"status": 3}', b""])
def test_a_result_that_is_no_json_is_there_and_not_read(raw: bytes) -> None:
    stored = messages.read_stored_result(raw)
    assert (stored.state, stored.error) == ("", "")
    assert stored.unreadable.startswith("it is no JSON")


def test_values_of_a_result_that_are_of_another_type_are_not_known() -> None:
    meta = {"status": "MINE", "date_done": "soon", "worker": 3, "retries": "x", "traceback": []}
    stored = messages.read_stored_result(json.dumps(meta).encode())
    assert stored == StoredResult("MINE", uncalled="its name and its arguments are not stored")


@given(TREE, TREE, st.booleans())
def test_no_message_makes_the_readers_fail(body: object, headers: object, raw: bool) -> None:
    message = json.loads(envelope({}, {}))
    message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    message["headers"] = headers
    encoded = json.dumps(body if raw else message).encode()
    messages.read_reply(encoded, AT)
    messages.read_heartbeat(encoded)
    messages.read_held(encoded)
    messages.is_message(encoded)
    messages.read_task_events(encoded, "")
    messages.read_result(encoded)
    messages.read_stored_result(encoded)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_readers_fail(content: bytes) -> None:
    message = json.loads(envelope({}, {"ticket": "t"}, pickled=True))
    message["body"] = base64.b64encode(content).decode()
    for raw in (content, json.dumps(message).encode()):
        messages.read_reply(raw, AT)
        messages.read_heartbeat(raw)
        messages.read_held(raw)
        messages.is_message(raw)
        messages.read_task_events(raw, "")
        messages.read_result(raw)
        messages.read_stored_result(raw)
