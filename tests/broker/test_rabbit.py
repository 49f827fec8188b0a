"""What is special about RabbitMQ, on a real one, with real workers where they matter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import amqp
import pytest

from celery_ops.broker import records
from celery_ops.broker.rabbit.adapter import RUNS_KEPT
from celery_ops.broker.rabbit.names import RUNS, TAKEN
from celery_ops.errors import (
    BrokerFull,
    BrokerUnreachable,
    LeaseHeld,
    LeaseLost,
    PreconditionFailed,
    RecordUnreadable,
)
from celery_ops.model import HeldMessage, Targets, TaskState
from celery_ops.ports import CancelConsumer, GivenBack, Question
from tests.broker.contract import ANN, BOB, NOW, PING, RUN
from tests.broker.contract import TAKEN as RECORD
from tests.rig import eventually
from tests.rig.amqp_nodes import AmqpNodes, connection, declare
from tests.rig.nodes import Node
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.broker.rabbit.adapter import RabbitBroker
    from tests.broker.conftest import MakeRabbit
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0
SHORT = 2.0
"""A ttl of a lease, in seconds: its connection is given up after two heartbeats of half of it."""


@pytest.fixture
def broker(rabbit: str, make_rabbit: MakeRabbit) -> RabbitBroker:
    return make_rabbit(rabbit)


@pytest.fixture
def worker(rabbit: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """A real worker that announces what becomes of its tasks."""
    fleet = Fleet(tmp_path, rabbit, redis_server.url(1))
    fleet.start("w1@lab", queues=["celery"], arguments=["-E"])
    yield fleet
    fleet.stop()


def publish(url: str, queue: str, *bodies: str) -> None:
    """Messages of somebody who knows nothing of celery-ops."""
    with connection(url) as made:
        channel = made.channel()
        for body in bodies:
            channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2), routing_key=queue)


def everything(server: RabbitServer, url: str) -> dict[str, set[str]]:
    """All queues, exchanges and bindings of a virtual host, by name."""
    vhost = quote(urlsplit(url).path[1:], safe="")
    return {
        kind: {str(one.get("name", one.get("properties_key"))) for one in found}
        for kind in ("queues", "exchanges", "bindings")
        for found in [json.loads(server.api("GET", f"{kind}/{vhost}"))]
    }


# --- queues ---


async def test_ready_is_what_the_broker_has_at_that_moment(
    rabbit: str, broker: RabbitBroker
) -> None:
    declare(rabbit, "mail", "priorities", arguments={"x-max-priority": 9})
    publish(rabbit, "mail", "1", "2", "3")
    reading = await broker.queues(["mail", "priorities", "none"])
    assert [(one.name, one.ready, one.unacked, one.consumers) for one in reading.queues] == [
        ("mail", 3, None, 0), ("none", 0, 0, 0), ("priorities", 0, None, 0),
    ]  # fmt: skip
    assert reading.unacked is None
    assert not reading.keeps_held
    assert "management" in reading.notes[0]


async def test_the_management_api_tells_what_is_held_and_which_queues_there_are(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer
) -> None:
    broker = make_rabbit(rabbit, management=shared_rabbit.management)
    declare(rabbit, "mail", "celery_delayed_3", "celery-ops.taken")
    publish(rabbit, "mail", "1", "2", "3")
    publish(rabbit, "celery_delayed_3", "later")
    with connection(rabbit) as consumer:
        channel = consumer.channel()
        channel.basic_qos(0, 2, a_global=False)
        channel.basic_consume("mail", callback=lambda _: None)
        channel.queue_declare("own", exclusive=True)

        async def is_told() -> bool:
            (mail,) = (await broker.queues([])).queues
            told = (mail.name, mail.ready, mail.unacked, mail.consumers)
            return told == ("mail", 1, 2, 1)

        await eventually(is_told, "what is held")

    async def is_said() -> bool:
        notes = (await broker.queues([])).notes
        return any("the 1 messages in celery_delayed_*" in note for note in notes)

    await eventually(is_said, "what is delayed")


async def test_what_is_delayed_is_counted_without_the_management_api(
    rabbit: str, make_rabbit: MakeRabbit
) -> None:
    before = await make_rabbit(rabbit).queues([])
    assert before.delayed == 0
    assert "management" in before.unlisted
    declare(rabbit, *(f"celery_delayed_{level}" for level in range(28)))
    publish(rabbit, "celery_delayed_3", "later")
    publish(rabbit, "celery_delayed_27", "much later", "later still")
    reading = await make_rabbit(rabbit).queues([])
    assert (reading.delayed, reading.queues) == (3, ())
    assert any("the 3 messages in celery_delayed_*" in note for note in reading.notes)


async def test_a_management_api_that_cannot_be_read_is_said_and_harms_nothing_else(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer
) -> None:
    declare(rabbit, "mail")
    port = shared_rabbit.management_port
    for url, says in (
        (f"http://guest:wr0ng-one@127.0.0.1:{port}", "user or password are wrong"),
        ("http://127.0.0.1:1", "is not there"),
        (f"http://127.0.0.1:{shared_rabbit.port}", "is not there"),
    ):
        broker = make_rabbit(rabbit, management=url)
        reading = await broker.queues(["mail"])
        assert [(one.ready, one.unacked) for one in reading.queues] == [(0, None)]
        assert says in reading.notes[0]
        assert "wr0ng-one" not in reading.notes[0]
        assert await broker.nodes() is None


async def test_a_management_api_that_hangs_is_not_waited_for_at_each_look(
    rabbit: str, make_rabbit: MakeRabbit
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as mute:
        port = mute.getsockname()[1]
        broker = make_rabbit(rabbit, management=f"http://127.0.0.1:{port}")
        assert await broker.nodes() is None
        reading = await broker.queues(["mail"])
        assert "does not answer" in reading.notes[0] or "is not there" in reading.notes[0]
        mute.setblocking(False)
        mute.accept()[0].close()
        with pytest.raises(BlockingIOError):
            mute.accept()  # it was asked once


async def test_watching_takes_no_message_and_marks_none(rabbit: str, broker: RabbitBroker) -> None:
    declare(rabbit, "mail")
    publish(rabbit, "mail", "1", "2")
    for _ in range(3):
        await broker.queues(["mail"])
        await broker.ask([Question.PING], to=None, timeout=1.0)
    with connection(rabbit) as made:
        messages = [made.channel().basic_get("mail") for _ in range(2)]
    assert [one.body for one in messages] == ["1", "2"]
    assert not any(one.delivery_info["redelivered"] for one in messages)


async def test_what_a_dead_worker_held_goes_back_by_itself_and_nobody_gives_it_back_twice(
    rabbit: str, broker: RabbitBroker
) -> None:
    declare(rabbit, "mail")
    publish(rabbit, "mail", "1")
    with connection(rabbit) as dying:
        assert dying.channel().basic_get("mail") is not None
    fence = await broker.lease.acquire(ANN)
    held = HeldMessage("1", "id-1", "app.work", "mail", NOW)
    assert await broker.restore([held, held], fence=fence) == (GivenBack.GONE, GivenBack.GONE)

    async def is_back() -> bool:
        return (await broker.queues(["mail"])).queues[0].ready == 1

    await eventually(is_back, "the message")


async def test_a_task_for_a_queue_that_is_not_there_is_refused(broker: RabbitBroker) -> None:
    fence = await broker.lease.acquire(ANN)
    with pytest.raises(PreconditionFailed, match="no queue 'unconsumed'"):
        await broker.send(PING, fence=fence)


# --- asking ---


async def test_without_workers_a_round_is_over_at_once(rabbit: str, broker: RabbitBroker) -> None:
    asked = await broker.ask([Question.PING], to=None, timeout=600.0)
    assert asked.complete
    assert asked.expected == 0
    with connection(rabbit) as made:
        made.channel().exchange_declare("celery.pidbox", "fanout", auto_delete=False)
    asked = await broker.ask([Question.PING], to=None, timeout=600.0)
    assert asked.complete


async def test_a_known_worker_that_does_not_answer_is_waited_for(
    rabbit: str, broker: RabbitBroker
) -> None:
    nodes = AmqpNodes(rabbit, [Node("a@lab"), Node("deaf@lab", answers=())])
    try:
        told = await broker.ask([Question.STATS], to=None, timeout=1.0, known=["a@lab", "deaf@lab"])
        assert [reply.node for reply in told.replies[Question.STATS]] == ["a@lab"]
        assert not told.complete
        told = await broker.ask([Question.STATS], to=None, timeout=600.0, known=["a@lab"])
        assert told.complete
        assert told.expected is None, "RabbitMQ does not count"
    finally:
        nodes.stop()


async def test_two_processes_under_one_name_are_heard_as_two(
    rabbit: str, broker: RabbitBroker
) -> None:
    """Before Celery 5.7 they share a mailbox, and each question reaches one of them (FACTS 8)."""
    beats = broker.heartbeats()
    with connection(rabbit) as made:
        channel = made.channel()
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        first = asyncio.ensure_future(anext(beats))
        heard = []
        async with asyncio.timeout(PATIENCE):
            for pid in (11, 12):
                while not first.done():
                    event = {"type": "worker-heartbeat", "hostname": "dup@lab", "pid": pid}
                    message = amqp.Message(json.dumps(event), content_type="application/json")
                    channel.basic_publish(message, "celeryev", "worker.heartbeat")
                    await asyncio.sleep(0.05)
                heard.append(first.result())
                first = asyncio.ensure_future(_next_of(beats, pid))
        first.cancel()
    assert {(one.node, one.pid) for one in heard} == {("dup@lab", 11), ("dup@lab", 12)}


async def _next_of(beats: AsyncIterator[Any], not_pid: int) -> Any:
    async for beat in beats:
        if beat.pid != not_pid:
            return beat
    raise AssertionError("it ended")


async def test_a_real_worker_answers_is_heard_and_followed(
    broker: RabbitBroker, worker: Fleet
) -> None:
    beats = broker.heartbeats()
    async with asyncio.timeout(PATIENCE):
        beat = await anext(beats)
    assert (beat.node, beat.pid) == ("w1@lab", worker.workers[0].pid)
    asked = await broker.ask(list(Question), to=None, timeout=10.0, known=["w1@lab"])
    assert asked.complete
    for question in Question:
        (reply,) = asked.replies[question]
        assert (reply.node, reply.error, reply.unreadable) == ("w1@lab", None, None)
    fence = await broker.lease.acquire(ANN)
    message = replace(PING, id=str(uuid.uuid4()), task="rig.ping", queue="celery")
    async with broker.follow(message.id) as followed, asyncio.timeout(PATIENCE):
        await broker.send(message, fence=fence)
        states: list[TaskState] = []
        while TaskState.SUCCESS not in states:
            states += [news.state for news in await followed.news(5.0)]
    assert states == [TaskState.RECEIVED, TaskState.STARTED, TaskState.SUCCESS]
    assert isinstance(beats, AsyncGenerator)
    await beats.aclose()


async def test_a_stopped_consumer_is_stopped_at_once(
    rabbit: str, broker: RabbitBroker, worker: Fleet
) -> None:
    assert worker.workers
    fence = await broker.lease.acquire(ANN)
    (reply,) = await broker.order(
        CancelConsumer("celery"), to=Targets(("w1@lab",)), fence=fence, timeout=30.0
    )
    assert reply.error is None

    async def is_gone() -> bool:
        with connection(rabbit) as made:
            return bool(made.channel().queue_declare("celery", passive=True).consumer_count == 0)

    await eventually(is_gone, "no consumer")


# --- the lease ---


async def test_a_killed_holder_frees_the_lease_at_once_and_leaves_nothing(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer
) -> None:
    broker = make_rabbit(rabbit, lease_ttl=SHORT)
    fence = await broker.lease.acquire(BOB)  # so that the queues that last are there
    await broker.lease.release(fence)
    before = everything(shared_rabbit, rabbit)
    holder = start_holder(rabbit, 600.0)
    assert (await broker.holder()) == ANN
    close(holder)

    async def is_free() -> bool:
        return await broker.holder() is None

    await eventually(is_free, "a free lease")
    await broker.lease.release(await broker.lease.acquire(BOB))
    assert everything(shared_rabbit, rabbit) == before


async def test_a_holder_that_stands_still_loses_the_lease_and_can_do_nothing_afterwards(
    rabbit: str, make_rabbit: MakeRabbit
) -> None:
    broker = make_rabbit(rabbit, lease_ttl=SHORT)
    holder = start_holder(rabbit, SHORT)
    holder.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(LeaseHeld, match="ann@bastion"):
            await broker.lease.acquire(BOB)

        async def is_free() -> bool:
            return await broker.holder() is None

        await eventually(is_free, "a free lease")
        fence = await broker.lease.acquire(BOB)
    finally:
        holder.send_signal(signal.SIGCONT)
    assert holder.stdout is not None
    assert b"lost" in holder.stdout.readline()
    close(holder)
    await broker.lease.renew(fence)
    assert await broker.taken() == ()


def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def close(process: subprocess.Popen[bytes]) -> None:
    """kill -9."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def start_holder(url: str, ttl: float) -> subprocess.Popen[bytes]:
    """Another process with ANN's lease; once it is lost it says so, and ends."""
    process = start("tests.broker.holder", url, str(ttl))
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


# --- records ---


async def test_no_record_is_lost_when_many_read_and_write_at_once(
    rabbit: str, make_rabbit: MakeRabbit
) -> None:
    operators = [make_rabbit(rabbit) for _ in range(3)]
    fence = await operators[0].lease.acquire(ANN)
    await operators[0].take(RECORD, fence=fence)
    seen: list[int] = []

    async def work(number: int, broker: RabbitBroker) -> None:
        for index in range(5):
            await broker.note_run(replace(RUN, run=f"r-{number}-{index}"))
            assert await broker.taken() == (RECORD,)
            seen.append(len(await broker.noted_runs()))

    await asyncio.gather(*(work(number, broker) for number, broker in enumerate(operators)))
    assert len(await operators[0].noted_runs()) == 15
    assert min(seen) > 0


async def test_the_oldest_runs_give_way(rabbit: str, broker: RabbitBroker) -> None:
    await broker.note_run(replace(RUN, run="r-a"))
    encoded = (records.encode_run(replace(RUN, run=f"r-b{n:03}")) for n in range(RUNS_KEPT))
    publish(rabbit, RUNS, *encoded)
    await broker.note_run(replace(RUN, run="r-c"))
    runs = [record.run for record in await broker.noted_runs()]
    assert (len(runs), runs[0], runs[-1]) == (RUNS_KEPT, "r-c", "r-b001")


async def test_a_record_that_cannot_be_read_is_named_and_stays(
    rabbit: str, broker: RabbitBroker
) -> None:
    fence = await broker.lease.acquire(ANN)
    publish(rabbit, TAKEN, '{"v": 99}')
    await broker.take(RECORD, fence=fence)
    with pytest.raises(RecordUnreadable, match="version 99"):
        await broker.taken()
    await broker.clear_taken(RECORD, fence=fence)
    with pytest.raises(RecordUnreadable, match="version 99"):
        await broker.taken()


# --- what goes wrong ---


async def test_a_restarted_broker_is_found_again_and_what_was_lost_is_said(
    own_rabbit: RabbitServer, make_rabbit: MakeRabbit
) -> None:
    broker = make_rabbit(own_rabbit.url())
    with own_rabbit.client() as made:
        made.channel().exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
    fence = await broker.lease.acquire(ANN)
    await broker.take(RECORD, fence=fence)
    listening = asyncio.ensure_future(anext(broker.heartbeats()))
    await broker.ask([Question.PING], to=None, timeout=1.0)
    own_rabbit.kill()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(BrokerUnreachable):
            await listening
    with pytest.raises(BrokerUnreachable):
        await broker.queues(["mail"])
    own_rabbit.start()
    assert [one.ready for one in (await broker.queues(["mail"])).queues] == [0]
    with pytest.raises(LeaseLost):
        await broker.lease.renew(fence)
    assert await broker.taken() == (RECORD,)
    await broker.lease.acquire(ANN, takes_over=True)


async def test_a_broker_with_an_alarm_is_full_and_can_still_be_read(
    own_rabbit: RabbitServer, make_rabbit: MakeRabbit
) -> None:
    broker = make_rabbit(own_rabbit.url())
    with own_rabbit.client() as made:
        made.channel().queue_declare("mail", durable=True, auto_delete=False)
    fence = await broker.lease.acquire(ANN)
    own_rabbit.control("set_vm_memory_high_watermark", "0.00001")

    async def is_full() -> bool:
        try:
            await broker.note_run(RUN)
        except BrokerFull:
            return True
        return False

    await eventually(is_full, "an alarm")
    assert [one.ready for one in (await broker.queues(["mail"])).queues] == [0]
    assert await broker.holder() == ANN
    with pytest.raises(BrokerFull, match="alarm"):
        await broker.ask([Question.PING], to=None, timeout=1.0)
    own_rabbit.control("set_vm_memory_high_watermark", "0.9")

    async def is_over() -> bool:
        with contextlib.suppress(BrokerUnreachable):
            await broker.note_run(RUN)
            return True
        return False

    await eventually(is_over, "no alarm")
    await broker.lease.release(fence)


async def test_nothing_is_left_of_a_watcher_that_has_ended(
    rabbit: str, make_rabbit: MakeRabbit, shared_rabbit: RabbitServer
) -> None:
    nodes = AmqpNodes(rabbit, [Node("a@lab")])
    try:
        before = everything(shared_rabbit, rabbit)
        broker = make_rabbit(rabbit)
        await broker.ask([Question.PING], to=None, timeout=10.0)
        await broker.queues(["mail"])
        assert (await broker.taken(), await broker.noted_runs(), await broker.holder()) == (
            (), (), None,
        )  # fmt: skip
        await broker.close()

        async def is_gone() -> bool:
            return everything(shared_rabbit, rabbit) == before

        await eventually(is_gone, "nothing left")
    finally:
        nodes.stop()


async def test_nothing_is_left_of_a_watcher_that_was_killed(
    rabbit: str, shared_rabbit: RabbitServer
) -> None:
    nodes = AmqpNodes(rabbit, [Node("a@lab")])
    try:
        with connection(rabbit) as made:
            made.channel().exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        before = everything(shared_rabbit, rabbit)
        process = start("tests.broker.watcher", rabbit, "60")

        async def has_begun() -> bool:
            return len(everything(shared_rabbit, rabbit)["queues"]) > len(before["queues"])

        await eventually(has_begun, "a watcher")
        close(process)

        async def is_gone() -> bool:
            return everything(shared_rabbit, rabbit) == before

        await eventually(is_gone, "nothing left")
    finally:
        nodes.stop()


async def test_the_address_shows_no_password_and_the_identity_has_none(
    make_rabbit: MakeRabbit,
) -> None:
    broker = make_rabbit("amqp://ops:s3cret@localhost:1/x%2Fy")
    assert broker.address == "amqp://ops:***@localhost:1/x%2Fy"
    assert broker.identity == "rabbitmq 127.0.0.1:1 vhost='x/y'"
