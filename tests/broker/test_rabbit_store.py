"""Messages on a real RabbitMQ: what comes back, what is refused, and what ends in the midst.

What is in the queues is compared by a client of its own (`amqp_queues`).
"""

from __future__ import annotations

import json
import threading
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

import amqp
import pytest

from celery_ops.broker.rabbit import moving as amqp_moving
from celery_ops.broker.rabbit import raw, sending
from celery_ops.broker.rabbit.content import Content
from celery_ops.broker.rabbit.moving import MOST_HELD
from celery_ops.broker.rabbit.transactions import Destination, Transaction
from celery_ops.errors import (
    BrokerUnreachable,
    LeaseLost,
    PreconditionFailed,
    RecordUnreadable,
)
from celery_ops.fleet.peeking import look
from celery_ops.model import Parked, StoredMessage
from celery_ops.ports import Transfer
from tests.broker.amqp_mover import FROM, TICKET, TO, is_even
from tests.broker.amqp_queues import (
    RawClient,
    RawMessage,
    header,
    long_text,
    properties,
    task,
)
from tests.broker.contract import ANN
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.broker.rabbit.adapter import RabbitBroker
    from celery_ops.broker.rabbit.link import Channel, Session
    from celery_ops.ports import Fence
    from tests.broker.conftest import MakeRabbit
    from tests.rig.rabbitmq import RabbitServer

pytestmark = pytest.mark.rig

ASIDE = str(Parked(FROM, "r-1", "1"))
ODD_MESSAGES = [
    RawMessage(b"\x00\x00", b""),
    RawMessage(properties(headers=b""), bytes(range(256)) * 1000),
    RawMessage(
        properties(
            headers=b"".join(
                [
                    header("b", "b", b"\xff"),
                    header("s", "s", b"\xff\xfe"),
                    header("I", "I", b"\xff\xff\xff\xfe"),
                    header("five as 64 bits", "l", b"\x00" * 7 + b"\x05"),
                    header("T", "T", b"\x00" * 7 + b"\x05"),
                    header("f", "f", b"\x3f\x80\x00\x00"),
                    header("d", "d", b"\x3f\xf0\x00\x00\x00\x00\x00\x00"),
                    header("D", "D", b"\x02\x00\x00\x00\x07"),
                    header("t", "t", b"\x01"),
                    header("x", "x", long_text(b"\x00\xff")),
                    header("not utf-8", "S", long_text(b"\xff\xfe")),
                    header("F", "F", long_text(header("in", "A", long_text(b"VV")))),
                    header("twice", "I", b"\x00\x00\x00\x01"),
                    header("twice", "I", b"\x00\x00\x00\x02"),
                ]
            ),
            priority=200,
            correlation_id="x" * 255,
            rest=b"\x02to\x0512345\x02id\x00\x00\x00\x00\x00\x00\x00\x01\x04type\x05guest\x03app\x00",
            rest_flags=0x02FC | 0x0100,
        ),
        b"\x00",
    ),
]


@dataclass
class Lab:
    """A broker of ours with its lease, and a look from outside."""

    broker: RabbitBroker
    fence: Fence
    server: RabbitServer
    vhost: str

    def client(self) -> RawClient:
        return RawClient(self.server.port, self.vhost)

    def declare(self, *queues: str, **arguments: str | int) -> None:
        with self.client() as client:
            for queue in queues:
                client.declare(queue, **arguments)

    def publish(self, queue: str, *messages: RawMessage) -> None:
        with self.client() as client:
            client.publish(queue, *messages)

    def waiting(self, queue: str) -> list[RawMessage]:
        with self.client() as client:
            return client.waiting(queue)

    async def move(
        self, transfer: Transfer, *, at: int = 0, do: Callable[[], None] | None = None
    ) -> int:
        """How many were moved in the end; `at` so many something else is done."""
        done = 0
        async with aclosing(self.broker.store.transfer(transfer, fence=self.fence)) as portions:
            async for portion in portions:
                done = portion.done
                if do is not None and done >= at:
                    do()
                    do = None
        return done

    async def everything(self, queue: str, *, requeue: bool = False) -> list[StoredMessage]:
        async with aclosing(self.broker.messages.read(queue, requeue=requeue)) as portions:
            return [message async for portion in portions for message in portion]

    async def put(self, messages: list[StoredMessage], queue: str) -> bool:
        return await self.broker.store.put(
            messages, queue=queue, ticket=TICKET, done=0, fence=self.fence
        )


@pytest.fixture
async def lab(rabbit: str, shared_rabbit: RabbitServer, make_rabbit: MakeRabbit) -> Lab:
    broker = make_rabbit(rabbit)
    fence = await broker.lease.acquire(ANN)
    return Lab(broker, fence, shared_rabbit, rabbit.rsplit("/", 1)[1])


def numbered(count: int, *, priority: int | None = None) -> list[RawMessage]:
    return [task(f"id-{number}", priority=priority) for number in range(count)]


# --- the same messages --------------------------------------------------------------------------


async def test_moved_and_put_back_they_are_the_same_to_the_byte(lab: Lab) -> None:
    lab.declare(FROM, TO)
    lab.publish(FROM, *ODD_MESSAGES, task("id-1"))
    before = lab.waiting(FROM)
    assert before == [*ODD_MESSAGES, task("id-1")]
    stored = await lab.everything(FROM)
    assert await lab.move(Transfer(TICKET, FROM, ASIDE)) == len(before)
    assert lab.waiting(ASIDE) == before
    assert await lab.broker.store.drop(ASIDE, count=len(before), fence=lab.fence) == len(before)
    assert await lab.put([StoredMessage(one.raw) for one in stored], TO) is False
    await lab.broker.store.forget(TICKET, fence=lab.fence)
    assert await lab.put([StoredMessage(one.raw) for one in stored], TO)
    assert lab.waiting(TO) == before


async def test_which_priorities_a_queue_has_is_what_it_was_declared_with(lab: Lab) -> None:
    lab.declare("ranked", x_max_priority=5)
    lab.declare("plain")
    lab.declare("many", x_queue_type="quorum")
    store = lab.broker.store
    assert (await store.priorities("ranked")).levels == (5, 2, 0)
    said = {name: await store.priorities(name) for name in ("plain", "many", "none")}
    assert {name: one.why for name, one in said.items() if not one.levels} == {
        "plain": "it was declared without x-max-priority",
        "many": "a quorum queue serves in no strict order of priorities",
        "none": "there is no such queue",
    }


@pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
async def test_priorities_and_order_are_kept(lab: Lab, choose: None) -> None:
    lab.declare(FROM, TO, x_max_priority=5)
    sent = [task(f"id-{number}", priority=number % 7) for number in range(1_200)]
    lab.publish(FROM, *sent)
    served = lab.waiting(FROM)
    assert served != sent
    await lab.move(Transfer(TICKET, FROM, ASIDE, choose=choose))
    is_meant = {one: choose is None or is_even(StoredMessage(b"", id=id_of(one))) for one in sent}
    assert lab.waiting(ASIDE) == [one for one in served if is_meant[one]]
    assert lab.waiting(FROM) == [one for one in served if not is_meant[one]]
    await lab.move(Transfer(f"{TICKET} back", ASIDE, TO))
    assert lab.waiting(TO) == [one for one in served if is_meant[one]]
    priorities = {message.priority for message in await lab.everything(TO)}
    assert priorities == ({0, 1, 2, 3, 4, 5})


def id_of(message: RawMessage) -> str:
    return message.properties.rsplit(b"id-", 1)[1].decode().join(["id-", ""])


async def test_many_that_stay_are_held_until_the_end(lab: Lab) -> None:
    lab.declare(FROM, TO)
    sent = numbered(3 * MOST_HELD)
    lab.publish(FROM, *sent)
    left: list[int] = []
    moved = await lab.move(
        Transfer(TICKET, FROM, TO, choose=lambda message: (message.id or "").endswith("7")),
        at=MOST_HELD // 4,
        do=lambda: left.append(len(lab.waiting(FROM))),
    )
    assert moved == 3 * MOST_HELD // 10
    assert left[0] < len(sent) - 2 * MOST_HELD
    assert await lab.broker.messages.count(FROM) == len(sent) - moved
    assert lab.waiting(TO) == sent[7::10]
    assert lab.waiting(FROM) == [one for at, one in enumerate(sent) if at % 10 != 7]


async def test_large_messages_are_moved_a_few_at_a_time(lab: Lab) -> None:
    lab.declare(FROM, TO)
    sent = [RawMessage(properties(), bytes([number]) * 300_000) for number in range(60)]
    lab.publish(FROM, *sent)
    transfer = Transfer(TICKET, FROM, TO)
    async with aclosing(lab.broker.store.transfer(transfer, fence=lab.fence)) as moving:
        portions = [portion.done async for portion in moving]
    assert portions[-1] == 60
    assert max(after - before for before, after in pairwise(portions)) < 10
    assert lab.waiting(TO) == sent


async def test_those_that_come_meanwhile_do_not_keep_a_transfer_from_its_end(lab: Lab) -> None:
    lab.declare(FROM, TO)
    sent = numbered(300)
    lab.publish(FROM, *sent)
    transfer = Transfer(TICKET, FROM, TO, portion=10)
    async with aclosing(lab.broker.store.transfer(transfer, fence=lab.fence)) as portions:
        async for _ in portions:
            lab.publish(FROM, *numbered(11))
    assert lab.waiting(TO) == sent
    assert len(lab.waiting(FROM)) == 11 * 30


async def test_workers_and_producers_go_on_while_some_are_moved(lab: Lab) -> None:
    lab.declare(FROM, TO)
    consumed: list[bytes] = []
    sent = [task(f"id-{number}") for number in range(6_000)]
    lab.publish(FROM, *sent[:3_000])
    is_over = threading.Event()

    def work() -> None:
        connection = lab.server.client(lab.vhost)
        channel = connection.channel()
        channel.basic_qos(0, 4, a_global=False)

        def take(message: amqp.Message) -> None:
            consumed.append(message.correlation_id)
            channel.basic_ack(message.delivery_tag)

        channel.basic_consume(FROM, callback=take)
        while not is_over.is_set():
            try:
                connection.drain_events(timeout=0.05)
            except TimeoutError:
                continue
        channel.close()
        connection.close()

    def produce() -> None:
        for start in range(3_000, 6_000, 100):
            lab.publish(FROM, *sent[start : start + 100])

    threads = [threading.Thread(target=work), threading.Thread(target=produce)]
    for thread in threads:
        thread.start()
    await lab.move(Transfer(TICKET, FROM, TO, choose=is_even))
    threads[1].join()
    is_over.set()
    threads[0].join()
    moved = lab.waiting(TO)
    everywhere = [*map(id_of, moved), *map(id_of, lab.waiting(FROM)), *map(str, consumed)]
    assert sorted(everywhere) == sorted(map(id_of, sent))
    assert [id_of(one) for one in moved] == sorted(
        map(id_of, moved), key=lambda id_: int(id_.removeprefix("id-"))
    )
    assert len(moved) == await lab.broker.store.counted(TICKET)


async def test_who_moves_slowly_gives_back_what_it_holds_and_passes_it_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is chosen, seen anew or moved because of that."""
    monkeypatch.setattr(amqp_moving, "HELD_FOR", 0.0)
    monkeypatch.setattr(amqp_moving, "_PASSING_AGAIN", 1)
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(400))
    transfer = Transfer(TICKET, FROM, TO, choose=is_even, portion=20)
    async with aclosing(lab.broker.store.transfer(transfer, fence=lab.fence)) as portions:
        told = [(portion.seen, portion.done) async for portion in portions]
    assert len(told) > len(set(told)), "some were passed again"
    assert told == sorted(told)
    assert told[-1] == (400, 200)
    assert lab.waiting(TO) == numbered(400)[::2]
    assert lab.waiting(FROM) == numbered(400)[1::2]


# --- what is refused ----------------------------------------------------------------------------


async def test_what_would_go_elsewhere_too_stays_and_is_not_put(lab: Lab) -> None:
    lab.declare(FROM, TO, "other")
    cc = properties(headers=header("CC", "A", long_text(b"S" + long_text("other"))))
    hindered = [RawMessage(cc, b"1")]
    lab.publish(FROM, task("id-0"), *hindered, task("id-2"))
    assert len(lab.waiting("other")) == 1
    stored = await lab.everything(FROM)
    assert await lab.move(Transfer(TICKET, FROM, ASIDE)) == 2
    assert lab.waiting(FROM) == hindered
    assert lab.waiting(ASIDE) == [task("id-0"), task("id-2")]
    await lab.broker.store.forget(TICKET, fence=lab.fence)
    with pytest.raises(PreconditionFailed, match="header CC"):
        await lab.put(stored, TO)
    assert lab.waiting(TO) == []
    assert len(lab.waiting("other")) == 1


async def test_a_queue_that_is_not_there_is_refused_before_anything_is_moved(lab: Lab) -> None:
    lab.declare(FROM)
    lab.publish(FROM, *numbered(3))
    with pytest.raises(PreconditionFailed, match="no queue 'elsewhere'"):
        await lab.move(Transfer(TICKET, FROM, TO))
    with pytest.raises(PreconditionFailed, match="no queue 'elsewhere'"):
        await lab.put(await lab.everything(FROM), TO)
    assert lab.waiting(FROM) == numbered(3)
    assert await lab.broker.store.counted(TICKET) == 0


async def test_a_queue_that_goes_in_the_midst_takes_nothing_of_the_rest_along(lab: Lab) -> None:
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(100))
    transfer = Transfer(TICKET, FROM, TO, portion=10)
    with pytest.raises(PreconditionFailed, match="'elsewhere' is not there any more"):
        await lab.move(transfer, at=30, do=lambda: remove(lab, TO))
    assert lab.waiting(FROM) == numbered(100)[30:]
    assert await lab.broker.store.counted(TICKET) == 30


@dataclass(frozen=True, slots=True)
class Vanishing(Destination):
    """Is removed after it was looked at and before anything comes."""

    def check_room(self, channel: Channel, count: int) -> None:
        Destination.check_room(self, channel, count)
        channel.connection.channel().queue_delete(self.queue)


@pytest.mark.parametrize("changed", [False, True])
async def test_what_comes_back_undelivered_is_put_back_as_it_was_and_not_counted(
    lab: Lab, changed: bool
) -> None:
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(5))

    def work(session: Session) -> None:
        transaction = Transaction(session, Vanishing(TO), TICKET, source=FROM)
        taken = transaction.take(3)
        contents, tags = [one.content for one in taken], [one.tag for one in taken]
        new = [Content(one.encoded, b"new " + one.body) if changed else one for one in contents]
        try:
            transaction.commit(new, tags, back_to=FROM, before=contents)
        finally:
            transaction.close()

    with pytest.raises(PreconditionFailed, match="is not there any more"):
        await lab.broker.lease.under(lab.fence, work)
    assert lab.waiting(FROM) == [*numbered(5)[3:], *numbered(3)]
    assert await lab.broker.store.counted(TICKET) == 0


def remove(lab: Lab, queue: str) -> None:
    connection = lab.server.client(lab.vhost)
    connection.channel().queue_delete(queue)
    connection.close()


async def test_a_queue_with_a_limit_takes_no_more_than_fits(lab: Lab) -> None:
    lab.declare(FROM)
    lab.declare(TO, x_max_length=10, x_overflow="reject-publish")
    lab.declare("bytes", x_max_length_bytes=1_000_000)
    lab.publish(FROM, *numbered(12))
    with pytest.raises(PreconditionFailed, match="at most 10 messages"):
        await lab.move(Transfer(TICKET, FROM, TO))
    with pytest.raises(PreconditionFailed, match="max-length-bytes"):
        await lab.move(Transfer(TICKET, FROM, "bytes"))
    assert lab.waiting(FROM) == numbered(12)
    assert await lab.move(Transfer(TICKET, FROM, TO, limit=10)) == 10
    assert lab.waiting(TO) == numbered(10)


async def test_looks_at_a_quorum_queue_have_to_be_asked_for(lab: Lab) -> None:
    lab.declare(FROM, x_queue_type="quorum")
    lab.declare(TO)
    lab.publish(FROM, *numbered(3))
    with pytest.raises(PreconditionFailed, match="quorum queue") as refused:
        await lab.broker.messages.peek(FROM, skip=0, count=1)
    assert "--requeue" in str(refused.value.fix)
    with pytest.raises(PreconditionFailed, match="quorum queue"):
        await lab.everything(FROM)
    with pytest.raises(PreconditionFailed, match="cannot be chosen"):
        await lab.move(Transfer(TICKET, FROM, TO, choose=is_even))
    assert lab.waiting(TO) == []
    found = await lab.broker.messages.peek(FROM, skip=1, count=5, requeue=True)
    assert [message.id for message in found] == ["id-1", "id-2"]
    assert not any(b"x-delivery-count" in message.raw for message in found)
    assert await lab.move(Transfer(TICKET, FROM, TO, choose=lambda _: True)) == 3
    assert [message.id for message in await lab.everything(TO)] == ["id-0", "id-1", "id-2"]
    assert not any(b"x-delivery-count" in one.properties for one in lab.waiting(TO))


async def test_of_a_quorum_queue_no_more_is_taken_than_goes(lab: Lab) -> None:
    lab.declare(FROM, x_queue_type="quorum")
    lab.declare(TO)
    lab.publish(FROM, *numbered(9))
    assert await lab.move(Transfer(TICKET, FROM, TO, choose=lambda _: True, limit=4)) == 4
    assert [message.id for message in await lab.everything(TO)] == [f"id-{n}" for n in range(4)]
    stayed = await lab.broker.messages.peek(FROM, skip=0, count=9, requeue=True)
    assert [message.id for message in stayed] == [f"id-{n}" for n in range(4, 9)]


async def test_what_is_looked_at_in_a_quorum_queue_goes_back_in_order(lab: Lab) -> None:
    """More than are taken at once: each of them comes back by itself."""
    lab.declare(FROM, x_queue_type="quorum")
    lab.declare(TO)
    lab.publish(FROM, *numbered(1_200))
    wanted = [f"id-{number}" for number in range(1_200)]
    for _ in range(2):
        assert [one.id for one in await lab.everything(FROM, requeue=True)] == wanted
    assert await lab.move(Transfer(TICKET, FROM, TO)) == 1_200
    assert [one.id for one in await lab.everything(TO)] == wanted


async def test_a_quorum_queue_that_serves_one_consumer_alone_says_so(lab: Lab) -> None:
    lab.declare(TO)
    connection = lab.server.client(lab.vhost)
    channel = connection.channel()
    how = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    channel.queue_declare(FROM, durable=True, auto_delete=False, arguments=how)
    channel.basic_qos(0, 1, a_global=False)
    channel.basic_consume(FROM, callback=lambda _: None)
    lab.publish(FROM, *numbered(5))
    with pytest.raises(PreconditionFailed, match="serves somebody else only"):
        await lab.move(Transfer(TICKET, FROM, TO))
    connection.close()
    with lab.client() as client:
        wait_until(lambda: client.count(FROM) == 5, what="all of them wait")
    assert await lab.move(Transfer(TICKET, FROM, TO)) == 5


async def test_a_stream_is_no_queue_of_messages(lab: Lab) -> None:
    lab.declare("stream", x_queue_type="stream")
    lab.declare(FROM)
    lab.publish(FROM, *numbered(3))
    with pytest.raises(PreconditionFailed, match="is a stream"):
        await lab.broker.messages.peek("stream", skip=0, count=1, requeue=True)
    with pytest.raises(PreconditionFailed, match="is a stream"):
        await lab.move(Transfer(TICKET, FROM, "stream"))
    with pytest.raises(PreconditionFailed, match="is a stream"):
        await lab.move(Transfer(TICKET, "stream", FROM))
    assert lab.waiting(FROM) == numbered(3)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x_queue_type": "classic"},
        {"x_max_priority": 10, "x_message_ttl": 600_000, "x_dead_letter_exchange": "dead"},
        {"x_queue_mode": "lazy", "x_max_priority": 255, "x_expires": 600_000},
    ],
    ids=["plain", "classic", "celerys", "lazy"],
)
async def test_queues_of_any_arguments_are_looked_at(
    lab: Lab, arguments: dict[str, str | int]
) -> None:
    lab.declare(FROM, **arguments)
    lab.publish(FROM, *numbered(3))
    assert [message.id for message in await lab.everything(FROM)] == ["id-0", "id-1", "id-2"]


async def test_a_queue_of_one_connection_alone_is_refused(lab: Lab) -> None:
    lab.declare(TO)
    connection = lab.server.client(lab.vhost)
    connection.channel().queue_declare("private", exclusive=True)
    with pytest.raises(PreconditionFailed, match="one connection alone"):
        await lab.broker.messages.peek("private", skip=0, count=1)
    with pytest.raises(PreconditionFailed, match="one connection alone"):
        await lab.move(Transfer(TICKET, "private", TO))
    with pytest.raises(PreconditionFailed, match="one connection alone"):
        await lab.move(Transfer(TICKET, TO, "private"))
    connection.close()


async def test_a_message_of_another_broker_is_not_put(lab: Lab) -> None:
    lab.declare(TO)
    with pytest.raises(PreconditionFailed, match="cannot be put into RabbitMQ"):
        await lab.put([StoredMessage(b'{"body": "x", "headers": {}}')], TO)
    assert lab.waiting(TO) == []


# --- looks --------------------------------------------------------------------------------------


async def test_a_look_says_how_many_it_has_marked(lab: Lab) -> None:
    lab.declare(FROM)
    lab.publish(FROM, *numbered(30))
    found = await look(lab.broker.messages, FROM, skip=2, limit=3)
    assert [one.message.id for one in found.wanted] == ["id-2", "id-3", "id-4"]
    assert (found.ready, found.looked_at, found.marked) == (30, 3, 5)
    marks = [message.redelivered for message in await lab.everything(FROM)]
    assert marks == [True] * 5 + [False] * 25


async def test_a_filter_takes_each_message_out_once(lab: Lab) -> None:
    lab.declare(FROM)
    lab.publish(FROM, *numbered(1_200))
    found = await look(lab.broker.messages, FROM, skip=700, limit=100, wants=is_even)
    assert [one.message.id for one in found.wanted] == [f"id-{n}" for n in range(700, 900, 2)]
    assert [one.place for one in found.wanted][:2] == [701, 703]
    assert found.looked_at == 199
    assert found.marked == sum(one.redelivered or False for one in await lab.everything(FROM))
    assert {one.message.redelivered for one in found.wanted} == {False}
    everything = await look(lab.broker.messages, FROM, skip=0, limit=5_000, wants=is_even)
    assert (len(everything.wanted), everything.looked_at, everything.left) == (600, 1_200, 0)
    assert everything.marked == 1_200
    assert await lab.broker.messages.count(FROM) == 1_200


# --- the lease ----------------------------------------------------------------------------------


def close_lease(lab: Lab) -> None:
    """As `rabbitmqctl close_connection` does."""

    def names() -> list[str]:
        found = json.loads(lab.server.api("GET", f"vhosts/{lab.vhost}/connections"))
        return [
            one["name"]
            for one in found
            if "lease" in one.get("client_properties", {}).get("connection_name", "")
        ]

    wait_until(lambda: bool(names()), what="the connection of the lease")
    for name in names():
        lab.server.api("DELETE", f"connections/{quote(name, safe='')}")


@pytest.mark.parametrize("choose", [None, is_even], ids=["all", "some"])
async def test_a_lease_that_is_lost_in_the_midst_ends_it_between_two_messages(
    lab: Lab, make_rabbit: MakeRabbit, rabbit: str, choose: None
) -> None:
    lab.declare(FROM, TO)
    sent = numbered(1_000)
    lab.publish(FROM, *sent)
    transfer = Transfer(TICKET, FROM, TO, choose=choose, portion=50)
    with pytest.raises((LeaseLost, BrokerUnreachable)):
        await lab.move(transfer, at=200, do=lambda: close_lease(lab))
    with pytest.raises(LeaseLost):
        await lab.move(transfer)
    wanted = [one for one in sent if choose is None or is_even(StoredMessage(b"", id=id_of(one)))]
    moved = lab.waiting(TO)
    assert 200 <= len(moved) < len(wanted)
    assert moved == wanted[: len(moved)]
    gone = set(moved)
    assert lab.waiting(FROM) == [one for one in sent if one not in gone]
    other = make_rabbit(rabbit)
    lab = Lab(other, await other.lease.acquire(ANN), lab.server, lab.vhost)
    assert await lab.move(transfer) == len(wanted)
    assert lab.waiting(TO) == wanted


async def test_a_count_waits_for_the_end_of_who_counted_before(lab: Lab) -> None:
    """What an earlier holder of the lease has sent may still be carried out."""
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(5))
    await lab.move(Transfer(TICKET, FROM, TO, limit=2))
    connection = lab.server.client(lab.vhost)
    channel = connection.channel()
    channel.basic_consume(f"celery-ops.counts.{TICKET}", exclusive=True)
    threading.Timer(0.5, partial(connection.transport.sock.shutdown, 2)).start()
    assert await lab.broker.store.counted(TICKET) == 2
    assert await lab.move(Transfer(TICKET, FROM, TO)) == 5
    connection.collect()


@pytest.mark.parametrize("bodies", [[b"x"], [b"1", b"2"], [b""], ["\u0663".encode()]], ids=repr)
async def test_what_is_no_count_stops_everything_under_its_ticket(
    lab: Lab, bodies: list[bytes]
) -> None:
    counts = f"celery-ops.counts.{TICKET}"
    lab.declare(FROM, TO, counts, x_queue_type="classic")
    lab.publish(FROM, *numbered(3))
    lab.publish(counts, *(RawMessage(properties(), body) for body in bodies))
    with pytest.raises(RecordUnreadable, match="something else than a count"):
        await lab.broker.store.counted(TICKET)
    with pytest.raises(RecordUnreadable, match="something else than a count"):
        await lab.move(Transfer(TICKET, FROM, TO))
    with pytest.raises(RecordUnreadable, match="something else than a count"):
        await lab.put(await lab.everything(FROM), TO)
    assert lab.waiting(FROM) == numbered(3)
    assert lab.waiting(TO) == []


async def test_a_ticket_may_be_longer_than_a_queues_name(lab: Lab) -> None:
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(3))
    tickets = [f"{'t' * 300}{number}" for number in range(2)]
    assert await lab.move(Transfer(tickets[0], FROM, TO)) == 3
    assert [await lab.broker.store.counted(ticket) for ticket in tickets] == [3, 0]


# --- what is sent only once ---------------------------------------------------------------------

SENT_QUEUE = "celery-ops.sent"


async def test_what_was_to_go_to_a_queue_that_vanishes_is_not_noted_as_sent(lab: Lab) -> None:
    lab.declare(FROM, TO)
    lab.publish(FROM, *numbered(2))
    (message, _) = await lab.everything(FROM)
    send = partial(
        sending.send_once,
        contents={"name": Content(*raw.read(message.raw))},
        to=Vanishing(TO),
    )
    with pytest.raises(PreconditionFailed, match="not there any more"):
        await lab.broker.lease.under(lab.fence, send)
    assert await lab.broker.store.sent(["name"]) == frozenset()
    lab.declare(TO)
    sent = await lab.broker.store.send_once({"name": message}, queue=TO, fence=lab.fence)
    assert sent == {"name"}
    assert len(lab.waiting(TO)) == 1


async def test_what_was_sent_once_is_forgotten_in_the_end(lab: Lab) -> None:
    lab.declare(FROM, TO, SENT_QUEUE, x_queue_type="classic")
    lab.publish(FROM, *numbered(1))
    old = [json.dumps({"names": [str(at)], "at": at}).encode() for at in (1.0, 4e9)]
    lab.publish(SENT_QUEUE, *(RawMessage(properties(), body) for body in old))
    store = lab.broker.store
    (message,) = await lab.everything(FROM)
    assert await store.sent(["1.0", "new"]) == {"1.0"}
    assert await store.send_once({"new": message}, queue=TO, fence=lab.fence) == {"new"}
    assert await store.sent(["1.0", "4000000000.0", "new"]) == {"4000000000.0", "new"}


async def test_nothing_is_sent_beside_what_cannot_be_read(lab: Lab) -> None:
    lab.declare(FROM, TO, SENT_QUEUE, x_queue_type="classic")
    lab.publish(FROM, *numbered(1))
    lab.publish(SENT_QUEUE, RawMessage(properties(), b"[]"))
    (message,) = await lab.everything(FROM)
    with pytest.raises(RecordUnreadable, match="something else"):
        await lab.broker.store.send_once({"new": message}, queue=TO, fence=lab.fence)
    assert lab.waiting(TO) == []
