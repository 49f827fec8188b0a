"""Logins, TLS, sockets, losses: what the adapter makes of a real server's moods."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from redis.exceptions import ResponseError

from celery_ops.broker import heartbeats, names, refusals
from celery_ops.broker.address import RedisAddress
from celery_ops.broker.wire import Wire
from celery_ops.config.secret import Secret
from celery_ops.errors import BrokerFull, BrokerUnreachable, OpsError
from celery_ops.model import Targets
from celery_ops.ports import Control, Question
from tests.broker.contract import ANN, RUN, TAKEN
from tests.rig import free_port
from tests.rig.nodes import Node, SimulatedNodes, envelope
from tests.rig.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.broker.redis import RedisBroker
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import Certificates

PASSWORD = "p@ss:w/o#r?d%41;&é漢"
BEAT = {"type": "worker-heartbeat", "hostname": "w1@lab", "pid": 1, "freq": 2.0}


async def refused(broker: RedisBroker, what: str = "") -> BrokerUnreachable:
    """The error of a first question; every way of asking has to give one of ours."""
    with pytest.raises(BrokerUnreachable) as caught:
        async with asyncio.timeout(20):
            await broker.ask([Question.PING], to=None, timeout=1.0)
    assert what in caught.value.says
    return caught.value


async def published(server: RedisServer, channel: str, message: bytes) -> None:
    """Publish it as soon as somebody listens."""
    with server.client() as client:
        for _ in range(1000):
            if client.publish(channel, message):
                return
            await asyncio.sleep(0.01)
    raise TimeoutError("nobody listens")


def port_of_a_node() -> int:
    """The nodes of a cluster talk to each other on the port that is 10,000 above it."""
    for _ in range(1000):
        port = free_port()
        with contextlib.suppress(OSError, OverflowError), socket.socket() as other:
            other.bind(("127.0.0.1", port + 10_000))
            return port
    raise TimeoutError("no two such ports are free")


@pytest.mark.parametrize("db", [0, 1])
async def test_a_node_of_a_cluster_is_refused_by_its_name(
    tmp_path: Path, make_broker: MakeBroker, db: int
) -> None:
    """It knows of no transport that could use it, whether it has all the slots or none."""
    arguments = ("--cluster-enabled", "yes")
    server = RedisServer(tmp_path / "cluster", arguments=arguments, port=port_of_a_node())
    try:
        error = await refused(make_broker(server.url(db)), "is a node of a Redis Cluster")
        assert "kombu has no transport for it" in error.says
        with server.client() as client:
            rules: Any = client
            rules.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await refused(make_broker(server.url(db)), "is a node of a Redis Cluster")
    finally:
        server.stop()


@dataclass(frozen=True)
class Guarded:
    """A server that wants a login."""

    server: RedisServer

    def url(self, user: str, password: str) -> str:
        return f"redis://{quote(user)}:{quote(password, safe='')}@127.0.0.1:{self.server.port}/0"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = RedisServer(tmp_path_factory.mktemp("guarded"))
    with server.client() as client:
        rules: Any = client
        rules.execute_command("ACL", "SETUSER", "ann", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        rules.execute_command(
            "ACL", "SETUSER", "blind", "on", ">x", "~*", "&*", "+@all", "-publish"
        )
        rules.execute_command(
            "ACL", "SETUSER", "evalless", "on", ">x", "~*", "&*", "+@all", "-eval"
        )
        rules.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "~app:*", "&*", "+@all")
        rules.execute_command("ACL", "SETUSER", "deaf", "on", ">x", "~*", "resetchannels", "+@all")
        rules.execute_command(
            "ACL", "SETUSER", "unscanning", "on", ">x", "~*", "&*", "+@all", "-scan"
        )
        rules.execute_command("ACL", "SETUSER", "default", f">{PASSWORD}")
    yield Guarded(server)
    server.stop()


@pytest.mark.parametrize("user", ["ann", ""], ids=["acl-user", "default-user"])
async def test_a_password_of_any_characters_is_understood(
    guarded: Guarded, make_broker: MakeBroker, user: str
) -> None:
    broker = make_broker(guarded.url(user, PASSWORD))
    assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete
    fence = await broker.lease.acquire(ANN)
    await broker.lease.release(fence)


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("bob", "x"), ("", "wrong")])
async def test_a_wrong_login_is_said_without_the_password(
    guarded: Guarded, make_broker: MakeBroker, user: str, password: str
) -> None:
    broker = make_broker(guarded.url(user, f"{password}-hunter2"))
    error = await refused(broker, "refuses the user name or the password")
    assert "hunter2" not in f"{error}{error!r}{error.fix}{broker!r}"


async def test_no_login_where_one_is_needed(guarded: Guarded, make_broker: MakeBroker) -> None:
    broker = make_broker(guarded.server.url())
    error = await refused(broker, "refuses the user name or the password")
    assert error.fix is not None


@pytest.mark.parametrize(
    ("user", "says", "fix"),
    [
        ("blind", "may not run one of the commands that are needed", "+publish"),
        ("evalless", "user evalless may not run EVAL", "ACL SETUSER evalless +eval"),
        ("narrow", "user narrow may not use the keys", "ACL SETUSER narrow ~*"),
        ("deaf", "user deaf may not use the channels", "ACL SETUSER deaf &*"),
    ],
)
async def test_a_missing_right_is_named_with_the_way_to_give_it(
    guarded: Guarded, make_broker: MakeBroker, user: str, says: str, fix: str
) -> None:
    error = await refused(make_broker(guarded.url(user, "x")), says)
    assert error.fix is not None
    assert fix in error.fix


async def test_heartbeats_that_may_not_be_heard_are_said(
    guarded: Guarded, make_broker: MakeBroker
) -> None:
    with pytest.raises(BrokerUnreachable, match="may not use the channels"):
        await anext(make_broker(guarded.url("deaf", "x")).heartbeats())


async def test_without_the_right_to_scan_the_known_queues_are_still_counted(
    guarded: Guarded, make_broker: MakeBroker
) -> None:
    reading = await make_broker(guarded.url("unscanning", "x")).queues(["mail"])
    assert [queue.name for queue in reading.queues] == ["mail"]
    assert any("may not run SCAN" in note for note in reading.notes)


async def test_the_rights_that_are_named_are_all_that_is_needed(
    guarded: Guarded, make_broker: MakeBroker
) -> None:
    rights = [f"+{command}" for command in refusals.NEEDED]
    with guarded.server.client(password=PASSWORD) as client:
        client.execute_command("ACL", "SETUSER", "exact", "on", ">x", "~*", "&*", *rights)
    broker = make_broker(guarded.url("exact", "x").removesuffix("0") + "1")
    fence = await broker.lease.acquire(ANN)
    await broker.lease.renew(fence)
    await broker.take(TAKEN, fence=fence)
    assert await broker.taken() == (TAKEN,)
    await broker.clear_taken(TAKEN, fence=fence)
    assert await broker.holder() == ANN
    to = Targets(("nobody@lab",))
    assert await broker.order(Control("ping"), to=to, fence=fence, timeout=0.1) == ()
    await broker.lease.release(fence)
    assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete
    assert await broker.nodes() == frozenset()
    with guarded.server.client(db=1, password=PASSWORD) as client:
        client.hset("unacked", "t", '[{}, "", "mail"]')
        client.zadd("unacked_index", {"t": 1})
        client.lpush("found", envelope({}, {}))
        client.sadd("_kombu.binding.x", "x\x06\x16\x06\x16x")
    reading = await broker.queues(["mail"])
    assert ({queue.name for queue in reading.queues}, reading.notes) == ({"mail", "found", "x"}, ())
    beats = broker.heartbeats()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await anext(beats)
    await broker.close()


async def test_a_unix_socket(redis_server: RedisServer, make_broker: MakeBroker) -> None:
    broker = make_broker(f"redis+socket://{redis_server.socket}?virtual_host=3")
    await broker.lease.acquire(ANN)
    with redis_server.client(db=3) as client:
        assert client.exists("celery-ops:lease")
    missing = make_broker("redis+socket:///nowhere/redis.sock")
    await refused(missing, "/nowhere/redis.sock")


@pytest.fixture(scope="module")
def tls_redis(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("tls"), certificates=certificates)
    yield server
    server.stop()


async def test_tls(
    tls_redis: RedisServer, certificates: Certificates, make_broker: MakeBroker
) -> None:
    place = f"localhost:{tls_redis.port}/1"
    authority = f"ssl_ca_certs={certificates.authority}"
    for query in ("", "?ssl_cert_reqs=none", f"?ssl_cert_reqs=required&{authority}"):
        broker = make_broker(f"rediss://{place}{query}")
        assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete
        assert "rediss://localhost" in broker.address
    untrusted = make_broker(f"rediss://{place}?ssl_cert_reqs=required")
    error = await refused(untrusted, "is not trusted")
    assert error.fix is not None
    assert "ssl_ca_certs" in error.fix
    await refused(make_broker(f"rediss://{place}?ssl_ca_certs=/nowhere/ca.crt"), "There is no")


async def test_a_certificate_for_another_name_is_not_trusted(
    tls_redis: RedisServer, certificates: Certificates, make_broker: MakeBroker
) -> None:
    query = f"ssl_cert_reqs=required&ssl_ca_certs={certificates.authority}"
    other_name = "127.1"  # inet_aton(3): it leads to 127.0.0.1, and is not what is certified
    await refused(make_broker(f"rediss://{other_name}:{tls_redis.port}?{query}"), "is not trusted")


async def test_plain_and_tls_are_told_apart(
    tls_redis: RedisServer, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    await refused(make_broker(f"redis://127.0.0.1:{tls_redis.port}/0"))
    error = await refused(make_broker(f"rediss://127.0.0.1:{redis_server.port}/0"))
    assert "TLS" in str(error)


async def test_nobody_there(make_broker: MakeBroker) -> None:
    error = await refused(make_broker(f"redis://127.0.0.1:{free_port()}/0"), "Nothing listens at")
    assert error.fix is not None
    await refused(
        make_broker("redis://no-such-host.invalid/0"), "no-such-host.invalid is not known"
    )


async def test_a_host_that_swallows_everything_is_given_up_in_time(make_broker: MakeBroker) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        await refused(make_broker(f"redis://127.0.0.1:{port}/0"), "does not answer")


async def test_a_database_that_is_not_there(
    redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    await refused(make_broker(redis_server.url(db=9999)), "DB index is out of range")


async def test_a_full_broker_can_still_be_read(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    fence = await broker.lease.acquire(ANN)
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
    with pytest.raises(BrokerFull, match="OOM"):
        await broker.ask([Question.PING], to=None, timeout=1.0)
    await broker.lease.renew(fence, replace(ANN, step="2.1"))
    assert [queue.ready for queue in (await broker.queues(["mail"])).queues] == [0]
    assert await broker.holder() == replace(ANN, step="2.1")
    await broker.lease.release(fence)
    with pytest.raises(BrokerFull, match="OOM"):
        await broker.lease.acquire(ANN)


async def test_a_full_broker_lets_a_lease_be_broken(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    await broker.lease.acquire(ANN)
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
    assert await broker.break_lease(ANN, RUN)
    assert await broker.holder() is None
    assert await broker.noted_runs() == (RUN,)


async def test_a_replica_is_no_place_to_write(
    own_redis: RedisServer, redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    with own_redis.client() as client:
        client.replicaof("127.0.0.1", redis_server.port)
    with pytest.raises(BrokerFull, match="READONLY") as refusing:
        await make_broker(own_redis.url()).ask([Question.PING], to=None, timeout=1.0)
    assert "master" in str(refusing.value.fix)


async def test_a_restarted_broker_is_used_again_without_a_word(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    await broker.ask([Question.PING], to=None, timeout=1.0)
    await broker.queues(["mail"])
    own_redis.kill()
    await refused(broker, "Nothing listens")
    own_redis.start()
    assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete
    assert (await broker.queues(["mail"])).queues != ()


async def test_connections_that_were_cut_are_made_anew(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    await broker.lease.acquire(ANN)
    with own_redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert await broker.holder() == ANN
    with own_redis.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete


async def test_a_frozen_broker_is_given_up_in_time(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    await broker.ask([Question.PING], to=None, timeout=1.0)
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        await refused(broker, "does not answer")
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    assert (await broker.ask([Question.PING], to=None, timeout=1.0)).complete


async def test_heartbeats_end_with_an_error_when_the_broker_dies(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    beats = make_broker(own_redis.url()).heartbeats()
    first = asyncio.ensure_future(anext(beats))
    await published(own_redis, "/0.celeryev/worker.heartbeat", envelope(BEAT, {}))
    assert (await first).node == "w1@lab"
    own_redis.kill()
    with pytest.raises(BrokerUnreachable):
        async with asyncio.timeout(10):
            await anext(beats)


async def test_heartbeats_end_with_an_error_when_the_connection_is_half_dead(
    own_redis: RedisServer,
) -> None:
    wire = Wire(RedisAddress("127.0.0.1", own_redis.port, 0))
    beats = heartbeats.heartbeats(wire, names.Names(0), quiet=0.1, patience=0.1)
    waiting = asyncio.ensure_future(anext(beats))
    await published(own_redis, "/0.celeryev/worker.none", b"nothing")
    await asyncio.sleep(0.5)
    assert not waiting.done(), "a quiet broker that answers is not dead"
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BrokerUnreachable, match="gone silent"):
            async with asyncio.timeout(10):
                await waiting
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
        await wire.close()


async def test_heartbeats_pass_what_is_not_one(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    beats = make_broker(own_redis.url(), fanout_patterns=False).heartbeats()
    waiting = asyncio.ensure_future(anext(beats))
    for message in (b"not JSON", envelope({"type": "task-sent"}, {}), envelope(BEAT, {})):
        await published(own_redis, "/0.celeryev", message)
    assert (await waiting).pid == 1


@pytest.mark.parametrize(
    ("options", "channel", "binding", "db"),
    [
        ({}, "/3.celery.pidbox", "_kombu.binding.celery.pidbox", 3),
        (
            {"global_keyprefix": "p*:"},
            "p\\*:/0.celery.pidbox",
            "p*:_kombu.binding.celery.pidbox",
            0,
        ),
        ({"control_exchange": "ctl"}, "/0.ctl.pidbox", "_kombu.binding.ctl.pidbox", 0),
        ({"fanout_prefix": False}, "celery.pidbox", "_kombu.binding.celery.pidbox", 0),
        ({"priority_steps": [1, 5]}, "/0.celery.pidbox", "_kombu.binding.celery.pidbox", 0),
    ],
    ids=["database", "prefix", "exchange", "fanout", "steps"],
)
async def test_the_fleet_of_these_options_answers(
    redis_server: RedisServer,
    make_broker: MakeBroker,
    options: dict[str, Any],
    channel: str,
    binding: str,
    db: int,
) -> None:
    suffix = "\x06\x165" if "priority_steps" in options else ""
    nodes = SimulatedNodes(
        redis_server.url(db), [Node("w1@lab")], channel=channel, binding=binding, suffix=suffix
    )
    try:
        broker = make_broker(redis_server.url(db), **options)
        asked = await broker.ask([Question.PING], to=None, timeout=10.0)
        assert [reply.node for reply in asked.replies[Question.PING]] == ["w1@lab"]
        assert await broker.nodes() == {"w1@lab"}
    finally:
        nodes.stop()


async def test_closing_does_not_need_the_broker(
    own_redis: RedisServer, make_broker: MakeBroker
) -> None:
    broker = make_broker(own_redis.url())
    await broker.ask([Question.PING], to=None, timeout=1.0)
    own_redis.kill()
    await broker.close()
    await broker.close()


async def test_nothing_is_left_open(own_redis: RedisServer, make_broker: MakeBroker) -> None:
    broker = make_broker(own_redis.url())
    beats = broker.heartbeats()
    waiting = asyncio.ensure_future(anext(beats))
    await broker.ask([Question.PING], to=None, timeout=1.0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await broker.close()
    gc.collect()
    with own_redis.client() as client:
        for _ in range(200):
            if len(client.client_list()) == 1:
                return
            await asyncio.sleep(0.01)
    raise AssertionError("a connection is still open")


def test_a_server_that_knows_no_auth_does_not_make_us_tell_the_password() -> None:
    place = RedisAddress("h", 1, 0, password=Secret("hunter2"))
    text = "unknown command 'AUTH', with args beginning with: 'hunter2'"
    error: OpsError = refusals.refusal(ResponseError(text), place)
    assert "unknown command" in error.says
    assert "hunter2" not in str(error)
    assert "hunter2" not in str(refusals.refusal(OSError("cannot reach hunter2"), place))


def test_no_file_name_is_made_up(tmp_path: Path) -> None:
    place = RedisAddress("h", 1, 0)
    missing = FileNotFoundError(2, "No such file", str(tmp_path / "ca.crt"))
    assert str(tmp_path / "ca.crt") in refusals.refusal(missing, place).says
