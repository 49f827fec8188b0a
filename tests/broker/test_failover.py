"""A master that moves, and sentinels that cannot say where to: what the adapter makes of it.

Real servers and real sentinels; see `tests/rig/sentinel.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker import master
from celery_ops.errors import BrokerUnreachable, LeaseLost
from celery_ops.ports import Question
from tests.broker.contract import ANN, BOB, PING, TAKEN
from tests.broker.test_connecting import BEAT, published
from tests.rig import free_port
from tests.rig.nodes import Node, SimulatedNodes, envelope
from tests.rig.redis import RedisServer
from tests.rig.sentinel import LONG, MASTER_NAME, SentinelRig, sentinel_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from celery_ops.broker.redis import RedisBroker
    from celery_ops.model import Heartbeat
    from tests.broker.conftest import MakeBroker
    from tests.rig.redis import Certificates

pytestmark = pytest.mark.rig

CHANNEL = "/0.celeryev/worker.heartbeat"


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelRig]:
    """One that does not fail over; with passwords."""
    folder = tmp_path_factory.mktemp("steady")
    with sentinel_rig(
        folder, down_after=LONG, password="of-redis", sentinel_password="of-sentinels"
    ) as rig:
        yield rig


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[SentinelRig]:
    """One that fails over within seconds, or is told to; of the test's own."""
    with sentinel_rig(tmp_path / "quick") as rig:
        yield rig


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[SentinelRig]:
    """One that fails over only when it is told to; of the test's own."""
    with sentinel_rig(tmp_path / "patient", down_after=LONG) as rig:
        yield rig


@pytest.fixture
def simulate() -> Iterator[Callable[..., SimulatedNodes]]:
    """Starts simulated nodes on the server at a URL."""
    started: list[SimulatedNodes] = []

    def start(url: str, *nodes: Node, **where: str) -> SimulatedNodes:
        started.append(SimulatedNodes(url, nodes, **where))
        return started[-1]

    yield start
    for nodes in started:
        nodes.stop()


async def refused(broker: RedisBroker) -> BrokerUnreachable:
    """The error of a read; it has to come in time."""
    with pytest.raises(BrokerUnreachable) as caught:
        async with asyncio.timeout(20):
            await broker.holder()
    return caught.value


async def until_it_answers(broker: RedisBroker) -> list[str]:
    """Ask until there is an answer; what was said instead, until then."""
    said = []
    async with asyncio.timeout(120):
        while True:
            try:
                await broker.holder()
            except BrokerUnreachable as error:
                said.append(error.says)
                await asyncio.sleep(0.1)
            else:
                return said


def places(rig: SentinelRig) -> list[str]:
    return [f"127.0.0.1:{one.port}" for one in rig.sentinels]


# --- what the sentinels say ---


async def test_a_master_that_they_do_not_know_is_said_with_those_they_know(
    steady: SentinelRig, make_broker: MakeBroker
) -> None:
    options = {**steady.options(), "master_name": "mymaster"}
    error = await refused(make_broker(steady.url(login=":of-redis@"), **options))
    assert error.says.startswith("No sentinel says where the master of mymaster is.")
    for one in places(steady):
        says = f"The sentinel at {one} knows no master called mymaster: it knows {MASTER_NAME}."
        assert says in error.says
    assert error.fix == "Set broker_options: {master_name: NAME} to one that they know."


@pytest.mark.parametrize("kwargs", [None, {"password": "hunter2"}], ids=["none", "wrong"])
async def test_a_password_that_sentinels_do_not_take_is_not_mistaken_for_the_masters(
    steady: SentinelRig, make_broker: MakeBroker, kwargs: dict[str, object] | None
) -> None:
    options: dict[str, Any] = {"master_name": MASTER_NAME, "sentinel_kwargs": kwargs}
    broker = make_broker(steady.url(login=":of-redis@"), **options)
    error = await refused(broker)
    assert "No sentinel says" in error.says
    assert "refuses the user name or the password" in error.says
    assert error.fix is not None
    assert "sentinel_kwargs" in error.fix
    assert "hunter2" not in f"{error}{error!r}{broker!r}"


async def test_a_password_that_the_master_does_not_take_is_the_masters(
    steady: SentinelRig, make_broker: MakeBroker
) -> None:
    error = await refused(make_broker(steady.url(login=":hunter2@"), **steady.options()))
    where = f"127.0.0.1:{steady.master.port}, master of {MASTER_NAME}"
    assert error.says.startswith(f"The broker at {where} refuses the user name or the password.")
    assert "hunter2" not in f"{error}{error!r}"


async def test_a_user_who_may_not_ask_whether_it_is_the_master_is_told_so(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    with patient.client() as client:
        rules: Any = client
        rules.execute_command("ACL", "SETUSER", "ann", "on", ">x", "~*", "&*", "+@all", "-role")
    error = await refused(make_broker(patient.url(login="ann:x@"), **patient.options()))
    assert error.says == "The broker's user ann may not run ROLE."
    assert error.fix == "Give it that right: ACL SETUSER ann +role"


async def test_without_the_right_to_wait_it_is_written_all_the_same(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    with patient.client() as client:
        rules: Any = client
        rules.execute_command("ACL", "SETUSER", "ann", "on", ">x", "~*", "&*", "+@all", "-wait")
    broker = make_broker(patient.url(login="ann:x@"), **patient.options())
    assert await broker.holder() is None
    await broker.lease.acquire(ANN)
    assert await broker.holder() == ANN


async def test_sentinels_that_nobody_reaches_are_named(make_broker: MakeBroker) -> None:
    one, other = free_port(), free_port()
    url = f"sentinel://127.0.0.1:{one};sentinel://127.0.0.1:{other}/0"
    error = await refused(make_broker(url, master_name="m"))
    assert error.says.startswith("No sentinel says where the master of m is.")
    for port in (one, other):
        assert f"Nothing listens at 127.0.0.1:{port}." in error.says


async def test_a_server_is_not_taken_for_a_sentinel(
    redis_server: RedisServer, make_broker: MakeBroker
) -> None:
    error = await refused(make_broker(f"sentinel://127.0.0.1:{redis_server.port}", master_name="m"))
    assert f"The server at 127.0.0.1:{redis_server.port} is no sentinel." in error.says


async def test_one_sentinel_of_several_is_enough(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    gone, silent, _ = patient.sentinels
    gone.stop()
    os.kill(silent.pid, signal.SIGSTOP)
    broker = make_broker(patient.url(), **patient.options())
    assert await broker.holder() is None
    await broker.lease.acquire(ANN)
    wants_two = make_broker(patient.url(), **patient.options(), min_other_sentinels=5)
    error = await refused(wants_two)
    assert "knows 2 others, and min_other_sentinels demands 5" in error.says


async def test_a_connection_outlives_its_sentinels(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(patient.url(), **patient.options())
    await broker.lease.acquire(ANN)
    for one in patient.sentinels:
        one.stop()
    await asyncio.sleep(2.5)  # by then it asks them again
    for _ in range(3):
        assert await broker.holder() == ANN
    patient.servers[0].kill()
    error = await refused(broker)
    for place in places(patient):
        assert f"Nothing listens at {place}." in error.says
    assert MASTER_NAME in error.says


async def test_a_sentinel_that_watches_something_else_is_not_followed(
    patient: SentinelRig, make_broker: MakeBroker, own_redis: RedisServer
) -> None:
    stray, good, _ = patient.sentinels
    stray.ask("REMOVE", MASTER_NAME)
    stray.ask("MONITOR", MASTER_NAME, "127.0.0.1", own_redis.port, 1)
    await make_broker(patient.url(), **patient.options()).lease.acquire(ANN)
    with own_redis.client() as other, patient.client(patient.servers[0]) as right:
        assert not other.exists("celery-ops:lease")
        assert right.exists("celery-ops:lease")
    two = ";".join(f"sentinel://127.0.0.1:{one.port}" for one in (stray, good))
    error = await refused(make_broker(two, **patient.options()))
    assert error.says.startswith(f"The sentinels disagree about the master of {MASTER_NAME}.")
    for port, sentinel in ((own_redis.port, stray), (patient.servers[0].port, good)):
        assert f"master is 127.0.0.1:{port} (127.0.0.1:{sentinel.port})" in error.says


async def test_what_they_call_a_master_has_to_say_so_itself(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    first, second = patient.servers
    patient.swap()
    error = await refused(make_broker(patient.url(), **patient.options()))
    assert f"127.0.0.1:{first.port} is no master by its own word" in error.says
    assert f"master is 127.0.0.1:{first.port}" in error.says
    with patient.client(second) as client:
        assert client.role()[0] == b"master"


# --- fail-over ---


async def test_reads_follow_the_master_and_what_was_written_is_there(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    broker, rival = (make_broker(quick.url(), **quick.options()) for _ in range(2))
    fence = await broker.lease.acquire(ANN)
    await broker.take(TAKEN, fence=fence)
    old = quick.master
    old.kill()
    said = await until_it_answers(broker)
    assert said
    for one in said:
        assert MASTER_NAME in one
        assert f"127.0.0.1:{old.port}" in one
    await broker.lease.renew(fence)
    assert await rival.holder() == ANN
    assert await rival.taken() == (TAKEN,)
    assert (await broker.ask([Question.PING], to=None, timeout=5.0)).complete


async def test_a_master_that_is_replaced_while_it_lives_is_left_at_once(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(quick.url(), **quick.options())
    fence = await broker.lease.acquire(ANN)
    quick.hand_over()
    await until_it_answers(broker)
    await broker.lease.renew(fence)
    assert await broker.holder() == ANN


async def test_an_old_master_that_was_started_again_is_not_asked_on_an_old_word(
    quick: SentinelRig, make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty, and calls itself a master, until its sentinels have told it otherwise."""
    monkeypatch.setattr(master, "FRESH", LONG)
    monkeypatch.setattr(master, "CHECKED_EVERY", LONG)
    broker = make_broker(quick.url(), **quick.options())
    with quick.client() as client:
        client.lpush("mail", envelope([[], {}, {}], {"id": "1", "task": "a"}))
        client.execute_command("WAIT", 1, 0)
    assert await broker.store.count("mail") == 1
    old = quick.master
    old.kill()
    await refused(broker)
    quick.wait_for_master(old)
    old.start()
    assert await broker.store.count("mail") == 1


async def test_a_replica_that_refuses_to_write_is_left_for_the_master(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(patient.url(), **patient.options())
    assert await broker.holder() is None
    patient.swap()
    for sentinel in patient.sentinels:
        sentinel.ask("REMOVE", MASTER_NAME)
        sentinel.ask("MONITOR", MASTER_NAME, "127.0.0.1", patient.servers[1].port, 2)
    await broker.lease.acquire(ANN)
    assert await broker.holder() == ANN
    with patient.client(patient.servers[1]) as client:
        assert client.exists("celery-ops:lease")


async def test_nothing_is_read_from_a_master_that_was_replaced_while_it_hung(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    """Between its waking up and its being told, it would answer as if nothing had happened."""
    broker = make_broker(quick.url(), **quick.options())
    await broker.lease.acquire(ANN)
    old = quick.master
    os.kill(old.pid, signal.SIGSTOP)
    quick.wait_for_master(old)
    with quick.client() as client:
        client.delete("celery-ops:lease")
    os.kill(old.pid, signal.SIGCONT)
    assert await broker.holder() is None


async def test_a_write_whose_fate_is_unknown_is_not_repeated(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(quick.url(), **quick.options())
    fence = await broker.lease.acquire(ANN)
    old = quick.master
    os.kill(old.pid, signal.SIGSTOP)
    with pytest.raises(BrokerUnreachable):
        await broker.send(PING, fence=fence)
    new = quick.wait_for_master(old)
    await until_it_answers(broker)
    with quick.client(new) as client:
        assert client.llen(PING.queue) == 0
    await broker.send(PING, fence=fence)
    with quick.client(new) as client:
        assert client.llen(PING.queue) == 1


async def test_a_lease_that_the_new_master_does_not_know_is_lost(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    broker, rival = (make_broker(quick.url(), **quick.options()) for _ in range(2))
    fence = await broker.lease.acquire(ANN)
    quick.fail_over()
    with quick.client() as client:
        client.delete("celery-ops:lease")
    await until_it_answers(broker)
    for attempt in (broker.lease.renew(fence), broker.take(TAKEN, fence=fence)):
        with pytest.raises(LeaseLost):
            await attempt
    await rival.lease.acquire(BOB)
    assert await rival.taken() == ()


async def test_a_lease_and_a_record_reach_the_replica_before_they_are_believed(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    """What follows at once is what matters: an order, and the master's death."""
    broker = make_broker(patient.url(), **patient.options())
    assert await broker.holder() is None
    (replica,) = patient.replicas
    with patient.client(replica) as client:
        for _ in range(20):
            fence = await broker.lease.acquire(ANN)
            assert client.exists("celery-ops:lease")
            await broker.take(TAKEN, fence=fence)
            assert client.hexists("celery-ops:taken", TAKEN.key)
            await broker.clear_taken(TAKEN, fence=fence)
            assert not client.exists("celery-ops:taken")
            await broker.lease.release(fence)


async def test_a_replica_that_hangs_keeps_nobody_from_writing(
    patient: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(patient.url(), **patient.options())
    assert await broker.holder() is None
    (replica,) = patient.replicas
    os.kill(replica.pid, signal.SIGSTOP)
    fence = await broker.lease.acquire(ANN)
    await broker.take(TAKEN, fence=fence)
    assert await broker.taken() == (TAKEN,)


async def test_heartbeats_are_heard_of_the_new_master(
    quick: SentinelRig, make_broker: MakeBroker
) -> None:
    broker = make_broker(quick.url(), **quick.options())
    old = quick.master
    stream = broker.heartbeats()
    assert (await next_beat(stream, old)).node == "w1@lab"
    os.kill(old.pid, signal.SIGSTOP)
    listening = asyncio.ensure_future(anext(stream))
    new = quick.wait_for_master(old)
    with pytest.raises(BrokerUnreachable):
        await asyncio.wait_for(listening, 30)
    assert (await next_beat(broker.heartbeats(), new)).node == "w1@lab"


async def test_a_question_reaches_those_who_moved_with_the_master(
    quick: SentinelRig, make_broker: MakeBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    broker = make_broker(quick.url(), **quick.options())
    before = simulate(quick.master.url(), Node("w1@lab"))
    asked = await broker.ask([Question.PING], to=None, timeout=10.0)
    assert [one.node for one in asked.replies[Question.PING]] == ["w1@lab"]
    before.stop()
    new = quick.fail_over()
    simulate(new.url(), Node("w2@lab"))
    await until_it_answers(broker)
    asked = await broker.ask([Question.PING], to=None, timeout=10.0)
    assert [one.node for one in asked.replies[Question.PING]] == ["w2@lab"]


async def test_workers_of_older_releases_are_asked_and_heard_too(
    patient: SentinelRig, make_broker: MakeBroker, simulate: Callable[..., SimulatedNodes]
) -> None:
    """Before kombu 5.4 they listen, and speak, on channels that begin with `/{db}.` literally."""
    url = patient.master.url()
    simulate(url, Node("old@lab"), channel="/{db}.celery.pidbox")
    simulate(url, Node("new@lab"))
    broker = make_broker(patient.url(), **patient.options())
    asked = await broker.ask([Question.PING], to=None, timeout=20.0)
    assert asked.complete
    assert asked.expected == 2
    assert sorted(one.node for one in asked.replies[Question.PING]) == ["new@lab", "old@lab"]
    stream = broker.heartbeats()
    for channel in (CHANNEL, "/{db}.celeryev/worker.heartbeat"):
        assert (await next_beat(stream, patient.master, channel)).node == "w1@lab"


async def test_a_master_is_found_and_followed_under_tls(
    tmp_path: Path, certificates: Certificates, make_broker: MakeBroker
) -> None:
    ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(certificates.authority)}
    with sentinel_rig(tmp_path / "tls", certificates=certificates) as rig:
        broker = make_broker(rig.url(), **rig.options(), ssl=ssl)
        await broker.lease.acquire(ANN)
        rig.fail_over()
        await until_it_answers(broker)
        assert await broker.holder() == ANN
        blind = make_broker(rig.url(), **rig.options(), ssl={"ssl_cert_reqs": "required"})
        error = await refused(blind)
        assert "is not trusted" in error.says
        assert error.fix is not None
        assert "broker_options: {ssl: {ssl_ca_certs" in error.fix


async def next_beat(
    stream: AsyncIterator[Heartbeat], server: RedisServer, channel: str = CHANNEL
) -> Heartbeat:
    heard = asyncio.ensure_future(anext(stream))
    await published(server, channel, envelope(BEAT, {}))
    return await asyncio.wait_for(heard, 30)
