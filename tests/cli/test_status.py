"""`status`, `workers` and `queues` on a real Redis with simulated nodes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.snapshots import HOSTILE
from tests.cli.test_fleet_json import HOSTS, QUEUES, STATUS, WORKERS, assert_valid
from tests.rig.nodes import Node, SimulatedNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import OpsCommand
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[str]:
    """The URL of a broker with two workers, one with a hostile name, and a queue without any."""
    with redis_server.client() as client:
        client.lpush("mail", "{}")
        client.sadd("_kombu.binding.mail", "mail\x06\x16\x06\x16mail")
    nodes = SimulatedNodes(
        redis_server.url(), [Node("w1@a", queues=("default",)), Node(HOSTILE, queues=("default",))]
    )
    yield redis_server.url()
    nodes.stop()


def test_status_is_a_document_of_the_promised_shape(ops: OpsCommand, fleet: str) -> None:
    done = ops("-b", fleet, "status", "--json")
    assert done.code == 0, done.err
    assert_valid(done.document, STATUS)
    assert done.document["complete"] is True
    worker = next(one for one in done.document["workers"] if one["name"] == "w1@a")
    assert (worker["pool"], worker["concurrency"], worker["active"]) == ("prefork", 8, 2)
    assert worker["queues"] == ["default"]
    queues = {one["name"]: one for one in done.document["queues"]}
    assert queues["default"]["consumers"] == 2
    promised = {
        "name": "mail", "ready": 1, "unacked": 0, "consumers": 0, "oldest": None, "orphans": 0,
    }  # fmt: skip
    assert {key: queues["mail"][key] for key in promised} == promised
    assert queues["default"]["consumed_by"] == [HOSTILE, "w1@a"]
    assert [one["subject"] for one in done.document["problems"] if one["level"] == "error"] == [
        "mail"
    ]
    assert done.document["taken"] == []
    assert done.document["holder"] is None


@pytest.mark.parametrize(
    ("command", "shape"), [("workers", WORKERS), ("queues", QUEUES), ("hosts", HOSTS)]
)
def test_parts_of_it_have_their_own_documents(
    ops: OpsCommand, fleet: str, command: str, shape: dict[str, object]
) -> None:
    done = ops("-b", fleet, command, "--json")
    assert done.code == 0, done.err
    assert_valid(done.document, shape)


def test_this_machine_is_the_host_where_no_other_is_configured(ops: OpsCommand, fleet: str) -> None:
    [host] = ops("-b", fleet, "hosts", "--json").document["hosts"]
    assert (host["name"], host["reachable"]) == ("local", True)
    assert host["memory"] > 0
    assert host["services"] == []


def test_people_read_problems_first_and_no_escape_reaches_them(ops: OpsCommand, fleet: str) -> None:
    done = ops("-b", fleet, "status")
    assert done.code == 0
    assert done.out.index("ERROR: mail") < done.out.index("WORKER")
    assert "w1@a" in done.out
    assert "evil" in done.out
    assert not {"\x1b", "\r", "\u202e"} & set(done.out)


def test_watching_prints_a_document_a_line_until_it_is_stopped(ops: OpsCommand, fleet: str) -> None:
    process = ops.start("-b", fleet, "status", "--json", "--watch")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    for line in lines:
        assert_valid(json.loads(line), STATUS)


def test_a_reader_that_leaves_early_ends_the_watching_quietly(ops: OpsCommand, fleet: str) -> None:
    process = ops.start("-b", fleet, "status", "--json", "--watch")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_a_worker_that_does_not_answer_makes_it_incomplete_and_unknown(
    ops: OpsCommand, redis_server: RedisServer
) -> None:
    nodes = SimulatedNodes(redis_server.url(), [Node("w1@a"), Node("mute@a", answers=())])
    try:
        done = ops("-b", redis_server.url(), "status", "--json")
    finally:
        nodes.stop()
    assert done.code == 0
    assert done.document["complete"] is False
    mute = next(one for one in done.document["workers"] if one["name"] == "mute@a")
    assert mute["state"] == "silent"
    assert {mute[key] for key in ("active", "reserved", "scheduled", "queues", "pid")} == {None}


def test_what_it_leaves_in_the_broker_expires_by_itself(
    ops: OpsCommand, redis_server: RedisServer, fleet: str
) -> None:
    with redis_server.client() as client:
        before = set(client.keys())
        ops("-b", fleet, "status")
        left = set(client.keys()) - before
        assert all(0 < client.ttl(key) <= 120 for key in left), left
