"""`queue peek` on a real Redis, of messages by real producers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_fleet_json import assert_valid
from tests.rig.monitor import Monitor
from tests.rig.producers import FORMS, send_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis import Redis

    from tests.cli.conftest import Done, OpsCommand
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

_OR_NULL: dict[str, list[str]] = {
    kind: [kind, "null"] for kind in ("string", "integer", "number", "boolean")
}
MESSAGE = {
    "place": {"type": "integer", "minimum": 1},
    "id": {"type": _OR_NULL["string"]},
    "task": {"type": _OR_NULL["string"]},
    "args": {"type": _OR_NULL["string"]},
    "kwargs": {"type": _OR_NULL["string"]},
    "closed": {"type": _OR_NULL["string"]},
    "retries": {"type": _OR_NULL["integer"]},
    "eta": {"type": _OR_NULL["string"]},
    "expires": {"type": _OR_NULL["string"]},
    "age": {"type": _OR_NULL["number"]},
    "origin": {"type": _OR_NULL["string"]},
    "priority": {"type": "integer"},
    "redelivered": {"type": _OR_NULL["boolean"]},
    "size": {"type": "integer"},
    "content_type": {"type": _OR_NULL["string"]},
    "compression": {"type": _OR_NULL["string"]},
}
TASK = {
    "task": {"type": _OR_NULL["string"]},
    "count": {"type": "integer", "minimum": 1},
    "retried": {"type": "integer"},
    "eta": {"type": "integer"},
    "size": {"type": "integer"},
}
HEAD = {
    "context": {"type": "string"},
    "broker": {"type": "string"},
    "at": {"type": "string"},
    "queue": {"type": "string"},
    "ready": {"type": "integer"},
    "skipped": {"type": "integer"},
    "looked_at": {"type": "integer"},
    "filter": {"type": _OR_NULL["string"]},
    "unknown": {"type": "integer"},
    "marked": {"type": "integer"},
}


def exactly(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    client = redis_server.client()
    yield client
    client.close()


@pytest.fixture
def broker(redis_server: RedisServer) -> str:
    """The URL of a broker with a queue `mail` of each form of message."""
    send_all(redis_server.url(), "mail")
    return redis_server.url()


def state(client: Any) -> dict[bytes, list[bytes]]:
    """All that waits in lists."""
    return {key: client.lrange(key, 0, -1) for key in client.scan_iter(_type="list")}


def test_the_next_messages_are_shown_and_all_of_them_stay(
    ops: OpsCommand, broker: str, client: Redis
) -> None:
    before = state(client)
    done = ops("-b", broker, "queue", "peek", "mail")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[1] == f"mail: all of its {len(FORMS)} messages."
    assert lines[3].split()[:3] == ["#", "TASK", "ID"]
    assert len(lines) == 4 + len(FORMS)
    assert lines[4].split()[:3] == ["1", "shop.mail", "plain"]
    assert lines[-1].split()[:4] == [str(len(FORMS)), "shop.mail", "less", "urgent"]
    assert "hunter2" not in done.out
    assert "'lang': 'de'" in done.out
    assert state(client) == before


def test_it_fits_into_80_columns(ops: OpsCommand, broker: str) -> None:
    done = ops("-b", broker, "queue", "peek", "mail", more={"COLUMNS": "80"})
    assert max(len(line) for line in done.out.splitlines()[1:]) <= 80
    assert "RETRIES" in done.out
    assert "(1, 'ann@" in done.out


def test_the_document_has_the_promised_shape(ops: OpsCommand, broker: str) -> None:
    document = ops("-b", broker, "queue", "peek", "mail", "--json").document
    messages = {"type": "array", "items": exactly(MESSAGE)}
    assert_valid(document, exactly({**HEAD, "messages": messages}))
    found = {one["id"]: one for one in document["messages"]}
    assert found.keys() == FORMS.keys()
    assert found["retried"]["retries"] == 3
    assert found["later"]["eta"].endswith("Z")
    assert found["stamped"]["age"] is not None
    assert found["plain"]["age"] is None
    assert found["plain"]["kwargs"] == "{'password': ***, 'lang': 'de'}"
    assert found["gzip"]["compression"] == "application/x-gzip"
    assert (found["pickle"]["content_type"], found["pickle"]["closed"]) == (
        "application/x-python-serialize",
        None,
    )
    assert [one["place"] for one in document["messages"]] == list(range(1, len(FORMS) + 1))


def test_what_cannot_be_opened_is_said_to_be(ops: OpsCommand, redis_server: RedisServer) -> None:
    send_all(redis_server.url(), "old", protocol=1)
    done = ops("-b", redis_server.url(), "queue", "peek", "old")
    assert "(pickle)" in done.out
    assert "(yaml)" in done.out
    documents = ops("-b", redis_server.url(), "queue", "peek", "old", "--json").document["messages"]
    closed = [one for one in documents if one["closed"] is not None]
    assert [(one["task"], one["args"], one["closed"]) for one in closed] == [
        (None, None, "pickle"),
        (None, None, "yaml"),
    ]


def test_messages_are_counted_by_task(ops: OpsCommand, broker: str, client: Redis) -> None:
    client.lpush("mail", "no message of Celery's")
    done = ops("-b", broker, "queue", "peek", "mail", "--by-task")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[3].split() == ["TASK", "MESSAGES", "SHARE", "RETRIES", "ETA", "SIZE"]
    assert lines[4].split()[:5] == ["shop.mail", str(len(FORMS)), "93%", "1", "1"]
    assert lines[5].split()[:2] == ["?", "1"]
    document = ops("-b", broker, "queue", "peek", "mail", "--by-task", "--json").document
    tasks = {"type": "array", "items": exactly(TASK)}
    assert_valid(document, exactly({**HEAD, "tasks": tasks}))
    assert [one["task"] for one in document["tasks"]] == ["shop.mail", None]


def test_a_filter_shows_what_matches_and_counts_what_cannot_be_told(
    ops: OpsCommand, broker: str, client: Redis
) -> None:
    client.lpush("mail", "no message of Celery's")
    wanted = "task == 'shop.mail' and retries > 2"
    done = ops("-b", broker, "queue", "peek", "mail", "--filter", wanted)
    assert done.code == 0, done.err
    total = len(FORMS) + 1
    assert done.out.splitlines()[1:3] == [
        f"mail: all of its {total} messages looked at: 1 matches.",
        "1 more cannot be judged: task and retries are not known of them.",
    ]
    assert "retried" in done.out
    assert "expiring" not in done.out
    document = ops("-b", broker, "queue", "peek", "mail", "--filter", wanted, "--json").document
    assert (document["filter"], document["unknown"], document["looked_at"]) == (wanted, 1, total)
    assert [one["id"] for one in document["messages"]] == ["retried"]


def test_a_filter_says_where_to_go_on(ops: OpsCommand, broker: str) -> None:
    arguments = ("-b", broker, "queue", "peek", "mail", "--filter", "retries == 0", "--limit", "2")
    lines = ops(*arguments).out.splitlines()
    assert lines[1] == f"mail: the next 2 of {len(FORMS)} messages looked at: 2 match."
    assert lines[2] == f"{len(FORMS) - 2} were not looked at; --skip 2 goes on there."
    lines = ops(*arguments, "--skip", "2").out.splitlines()
    assert (
        lines[1]
        == f"mail: after the first 2, the next 3 of {len(FORMS)} messages looked at: 2 match."
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("retrys > 2", "unknown name 'retrys' (did you mean retries?)"),
        ("worker.online", "worker is not known of a message"),
        ("task ==", "the condition ends too early"),
        ("task > 3", "text cannot be compared with a number"),
        ("", "the condition ends too early"),
    ],
)
def test_a_filter_with_a_mistake_is_refused(
    ops: OpsCommand, broker: str, source: str, says: str
) -> None:
    done = ops("-b", broker, "queue", "peek", "mail", "--filter", source)
    assert done.code == 2
    assert done.out == ""
    assert "The filter cannot be used" in done.err
    assert says in done.err


def test_a_queue_that_does_not_exist_is_no_empty_queue(
    ops: OpsCommand, broker: str, client: Redis
) -> None:
    client.sadd("_kombu.binding.idle", "idle\x06\x16\x06\x16idle")
    done = ops("-b", broker, "queue", "peek", "mial")
    assert (done.code, done.out) == (2, "")
    assert "No queue is called 'mial' (did you mean mail?)." in done.err
    assert "There are: idle, mail." in done.err
    done = ops("-b", broker, "queue", "peek", "idle")
    assert done.code == 0
    assert done.out.splitlines()[1:] == ["idle is empty: no message waits in it."]
    document = ops("-b", broker, "queue", "peek", "idle", "--json").document
    assert (document["ready"], document["messages"]) == (0, [])


def test_where_not_every_key_was_seen_a_queue_may_still_exist(
    ops: OpsCommand, broker: str, client: Redis
) -> None:
    client.mset({f"cache:{number}": "x" for number in range(60_000)})
    done = ops("-b", broker, "queue", "peek", "mial")
    assert done.code == 0
    assert "mial is empty: no message waits in it." in done.out
    assert "It may not exist: The 60002 keys" in done.out


def test_a_broker_without_any_queue_says_so(ops: OpsCommand, redis_server: RedisServer) -> None:
    done = ops("-b", redis_server.url(), "queue", "peek", "mail")
    assert done.code == 2
    assert "This broker has no queue at all." in done.err


def test_what_is_no_queue_is_refused(ops: OpsCommand, broker: str, client: Redis) -> None:
    client.hset("unacked", "tag", "[]")
    done = ops("-b", broker, "queue", "peek", "unacked")
    assert (done.code, done.out) == (7, "")
    assert "'unacked' is not a queue" in done.err


def test_more_can_be_skipped_than_there_is(ops: OpsCommand, broker: str) -> None:
    done = ops("-b", broker, "queue", "peek", "mail", "--skip", "1000")
    assert done.code == 0
    said = f"mail: {len(FORMS)} messages, and --skip passes all of them."
    assert done.out.splitlines()[1:] == [said]


def test_names_of_the_configuration_are_masked_too(
    ops: OpsCommand, broker: str, tmp_path: Path
) -> None:
    file = tmp_path / "celery-ops.yaml"
    file.write_text(f"contexts:\n  a:\n    broker: {broker}\n    mask: [LANG*]\n")
    done = ops("--config", str(file), "queue", "peek", "mail")
    assert done.code == 0, done.err
    assert "'lang': ***" in done.out
    assert "'de'" not in done.out


def test_hostile_messages_reach_no_terminal_and_break_no_document(
    ops: OpsCommand, redis_server: RedisServer, client: Redis
) -> None:
    evil = "\x1b]0;owned\x07\u202e\u2066\x9b31m\r\n"
    headers = {"task": evil, "id": evil * 100, "origin": evil, "argsrepr": evil, "retries": 10**30}
    envelope = {"headers": headers, "body": evil, "content-type": evil, "properties": {}}
    client.lpush("mail", json.dumps(envelope), b"\xff\x00\x1b[2J", "[" * 50_000)
    done = ops("-b", redis_server.url(), "queue", "peek", "mail")
    assert done.code == 0, done.err
    assert not set(done.out) & set("\x1b\x07\u202e\u2066\x9b\r")
    assert len(done.out.splitlines()) == 4 + 3
    document = ops("-b", redis_server.url(), "queue", "peek", "mail", "--json").document
    assert [one["task"] for one in document["messages"]] == [evil, None, None]
    assert document["messages"][0]["retries"] is None


def test_a_peek_writes_nothing(ops: OpsCommand, broker: str, redis_server: RedisServer) -> None:
    def peeked(*more: str) -> Done:
        return ops("-b", broker, "queue", "peek", "mail", *more)

    monitor = Monitor(redis_server)
    for more in ([], ["--by-task"], ["--filter", "retries > 2"], ["--skip", "5"]):
        assert peeked(*more).code == 0
    monitor.stop()
    ours = {line.split("[", 1)[1].split("]")[0].partition(" ")[2] for line in monitor.lines}
    assert len(ours) >= 4
    assert monitor.writes_of(ours) == []
    assert not [line for line in monitor.lines if '"KEYS"' in line.upper()]


def test_the_help_tells_the_shape_of_the_document(ops: OpsCommand) -> None:
    done = ops("queue", "peek", "--help")
    assert done.code == 0
    for key in (*HEAD, *MESSAGE, *TASK):
        assert f'"{key}"' in done.out
