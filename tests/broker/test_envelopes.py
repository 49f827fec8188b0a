"""What messages say of themselves: those of real producers, and those that nobody meant."""

from __future__ import annotations

import base64
import json
import pickle
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.envelopes import stored
from celery_ops.cli.text import Column, table
from celery_ops.fleet.contents import contents
from celery_ops.fleet.masking import Masks
from celery_ops.model import StoredMessage
from celery_ops.runbook.facts import message_facts
from tests.rig.producers import ANONYMOUS, FORMS, send_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.rig.redis import RedisServer

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MASKS = Masks()
HOSTILE_MESSAGES = 10_000


def recorded(server: RedisServer, protocol: int) -> dict[str, StoredMessage]:
    """Messages by their ids, as a real producer has sent them."""
    queue = f"mail-{protocol}"
    send_all(server.url(), queue, protocol=protocol)
    with server.client() as client:
        raws = [
            (raw, int(key.rpartition(b"\x16")[2] or 0) if b"\x16" in key else 0)
            for key in sorted(client.keys(f"{queue}*"))
            for raw in client.lrange(key, 0, -1)
        ]
    found = [stored(raw, step) for raw, step in raws]
    return {message.id or "": message for message in found}


@pytest.fixture(params=[1, 2], ids=["protocol 1", "protocol 2"])
def protocol(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def sent(redis_server: RedisServer, protocol: int) -> dict[str, StoredMessage]:
    return recorded(redis_server, protocol)


def test_every_message_tells_its_task_unless_it_is_locked_away(
    sent: dict[str, StoredMessage], protocol: int
) -> None:
    assert sent.keys() == FORMS.keys()
    locked = ANONYMOUS if protocol == 1 else frozenset()
    for id_, message in sent.items():
        assert message.task == (None if id_ in locked else "shop.mail"), id_
        assert message.redelivered is False
        expected = None if id_ in locked else 3 if id_ == "retried" else 0
        assert message.retries == expected, id_


def test_moments_are_told(sent: dict[str, StoredMessage]) -> None:
    now = datetime.now(UTC)
    for id_, message in sent.items():
        for moment, told in ((message.eta, "later"), (message.expires, "expiring")):
            assert (moment is not None) == (id_ == told), id_
            if moment is not None:
                assert now + timedelta(minutes=50) < moment < now + timedelta(minutes=70)
    assert sent["stamped"].sent_at == datetime.fromtimestamp(1_790_000_000, UTC)
    assert sent["plain"].sent_at is None


def test_a_message_waits_at_the_step_of_its_list(sent: dict[str, StoredMessage]) -> None:
    assert {id_: message.priority for id_, message in sent.items() if message.priority} == {
        "less urgent": 3
    }


def test_only_protocol_2_tells_who_sent_it(sent: dict[str, StoredMessage], protocol: int) -> None:
    origins = {message.origin for message in sent.values()}
    if protocol == 1:
        assert origins == {None}
    else:
        (origin,) = origins
        assert origin is not None
        assert origin.startswith("gen")


def test_arguments_are_shown_masked_however_they_were_sent(
    sent: dict[str, StoredMessage], protocol: int
) -> None:
    locked = ANONYMOUS if protocol == 1 else frozenset()
    for id_, message in sent.items():
        shown = contents(message, MASKS)
        if id_ in locked:
            assert (shown.args, shown.kwargs, shown.closed) == (None, None, id_)
        elif id_ == "hidden" and protocol == 2:
            assert (shown.args, shown.kwargs) == ("<hidden>", "{}")
        else:
            assert shown.args == "(1, 'ann@example.com')", id_
            assert shown.kwargs == "{'password': ***, 'lang': 'de'}", id_
        assert "hunter2" not in str(shown)
        assert "hunter2" not in repr(message)


def test_a_message_that_kombu_gave_back_is_redelivered() -> None:
    for marked in ("headers", "properties"):
        envelope: dict[str, dict[str, object]] = {"headers": {"task": "t"}, "properties": {}}
        if marked == "headers":
            envelope["headers"]["redelivered"] = True
        else:
            envelope["properties"]["delivery_info"] = {"redelivered": True}
        assert stored(json.dumps(envelope).encode(), 0).redelivered is True


def test_nothing_is_known_of_what_is_no_envelope() -> None:
    for raw in (b"", b"null", b"[]", b"\xff", b"{", b'"text"', b"1" * 5_000):
        assert stored(raw, 3) == StoredMessage(raw, 3)


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"retries": -1}, None),
        ({"retries": True}, None),
        ({"retries": 2**63}, None),
        ({"retries": 1.5}, None),
        ({"retries": "2"}, None),
        ({"retries": 2}, 2),
    ],
)
def test_a_count_is_a_whole_number_or_not_known(
    headers: dict[str, object], told: int | None
) -> None:
    raw = json.dumps({"headers": {"task": "t", **headers}}).encode()
    assert stored(raw, 0).retries == told


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2026-11-20T12:00:00+00:00", NOW),
        ("2026-11-20T13:00:00+01:00", NOW),
        ("2026-11-20T12:00:00", NOW),
        ("2026-11-20T12:00:00Z", NOW),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("soon", None),
        (1_790_000_000, None),
        (None, None),
    ],
)
def test_an_eta_is_a_moment_or_not_known(written: object, told: datetime | None) -> None:
    raw = json.dumps({"headers": {"task": "t", "eta": written}}).encode()
    assert stored(raw, 0).eta == told


def test_no_pickle_is_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    trace = tmp_path_factory.mktemp("trace") / "loaded"

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (open, (str(trace), "w"))

    body = base64.b64encode(pickle.dumps([Trap(), {}, {}])).decode()
    for headers in ({}, {"task": "t", "id": "i"}, {"compression": "application/x-gzip"}):
        envelope = {
            "body": body,
            "headers": headers,
            "content-type": "application/x-python-serialize",
            "properties": {"body_encoding": "base64"},
        }
        message = stored(json.dumps(envelope).encode(), 0)
        assert contents(message, MASKS).closed == "pickle"
    assert not trace.exists()


# --- 10,000 that nobody meant -------------------------------------------------------------------

_VALUES: tuple[Callable[[random.Random], object], ...] = (
    lambda _: None,
    lambda _: True,
    lambda chance: chance.choice([0, -1, 10**400, 1e308, 2**64, -0.0, 9999999999999]),
    lambda chance: "".join(chr(chance.randrange(0x20)) for _ in range(20)),
    lambda _: "\x1b[2J\x1b]0;owned\x07\u202e\u2066\ud800\x9b31m",
    lambda _: "'password': 'a\\",
    lambda chance: "x" * chance.randrange(100_000),
    lambda _: [],
    lambda _: {},
    lambda _: {"__type__": "datetime", "__value__": {"__type__": 1, "__value__": []}},
    lambda _: {"task": ["t"], "args": "no", "kwargs": 5, "id": {}},
    lambda chance: [[[{"token": chance.random()}]]] * 50,
    lambda _: "application/json",
    lambda _: "application/x-python-serialize",
    lambda _: "application/x-gzip",
    lambda _: "9999-12-31T23:59:59.999999-23:59",
)


def mangled(raw: bytes, chance: random.Random) -> bytes:
    """A real message with something wrong with it."""
    kind = chance.randrange(5)
    if kind == 0:
        at = chance.randrange(len(raw))
        return raw[:at] + bytes([chance.randrange(256)]) * chance.randrange(4) + raw[at + 1 :]
    if kind == 1:
        return raw[: chance.randrange(len(raw))]
    if kind == 2:
        depth = chance.choice([10, 500, 100_000])
        deep = "[" * depth + "]" * depth
        return raw.replace(b'"retries": 0', b'"retries": ' + deep.encode())
    envelope = json.loads(raw)
    if kind == 3:
        body = json.dumps(chance.choice(_VALUES)(chance)).encode()
        envelope["body"] = base64.b64encode(body).decode()
        envelope["headers"] = chance.choice([{}, envelope["headers"]])
    for place in chance.choices([envelope, envelope["headers"], envelope["properties"]], k=3):
        if place:
            place[chance.choice(sorted(place))] = chance.choice(_VALUES)(chance)
    return json.dumps(envelope).encode()


def shown(message: StoredMessage) -> str:
    """Everything that is shown of a message."""
    facts = message_facts(message, NOW)
    inside = contents(message, MASKS)
    cells = (str(inside), str(facts.id), str(facts.task), str(facts.origin), inside.closed)
    return "\n".join(table([Column("x")] * len(cells), [cells], 200))


def types(message: StoredMessage) -> Mapping[str, bool]:
    return {
        "text": all(
            isinstance(one, str | None)
            for one in (message.id, message.task, message.origin, message.args, message.kwargs)
        ),
        "count": message.retries is None or type(message.retries) is int,
        "moment": all(
            one is None or (isinstance(one, datetime) and one.tzinfo is UTC)
            for one in (message.eta, message.expires, message.sent_at)
        ),
        "flag": isinstance(message.redelivered, bool | None),
    }


def test_whatever_lies_in_a_queue_stays_text(redis_server: RedisServer) -> None:
    real = [
        message.raw for protocol in (1, 2) for message in recorded(redis_server, protocol).values()
    ]
    chance = random.Random(5)
    for number in range(HOSTILE_MESSAGES):
        raw = mangled(chance.choice(real), chance)
        message = stored(raw, 0)
        assert message.raw == raw
        assert all(types(message).values()), (number, types(message))
        lines = shown(message)
        assert all(line.isprintable() or not line.isascii() for line in lines.split("\n")), number
        assert not set(lines) & set("\x1b\x07\x9b\u202e\u2066\ud800\r\x00"), number
