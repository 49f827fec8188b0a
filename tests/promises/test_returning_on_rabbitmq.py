"""Dead letters of a real RabbitMQ are returned by the real command; compared raw.

What is dead there has really died: rejected, expired, pushed out of a full queue, or delivered too
often.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.amqp_queues import RawClient, RawMessage, header, long_text, properties
from tests.promises.test_moving_on_rabbitmq import Queues, survive
from tests.rig import wait_until
from tests.rig.operator import Operators
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

TO_DEAD = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "dead"}
BODY = b"[[], {}, {}]"
MAPPING = [f"--{name}=kwargs.{name}" for name in ("task", "id", "args", "kwargs")]


@pytest.fixture
def deaths(request: pytest.FixtureRequest) -> int:
    return 25 if request.config.getoption("--every-death") else 2


@pytest.fixture
def ann(tmp_path: Path, rabbit: str) -> Iterator[Operator]:
    operators = Operators([])
    yield operators.hire(tmp_path, "ann", "-b", rabbit)
    operators.dismiss()


class Lab:
    """Queues that dead-letter to `dead`, seen by a client of their own."""

    def __init__(self, server: RabbitServer, vhost: str) -> None:
        self._server = server
        self._vhost = vhost
        self.declare("dead")

    def client(self) -> RawClient:
        return RawClient(self._server.port, self._vhost)

    def declare(self, queue: str, kind: str = "classic", **arguments: str | int) -> None:
        with self.client() as client:
            client.declare(queue, x_queue_type=kind, **arguments)

    def publish(self, queue: str, *messages: RawMessage) -> None:
        with self.client() as client:
            client.publish(queue, *messages)

    def waiting(self, queue: str) -> list[RawMessage]:
        with self.client() as client:
            return client.waiting(queue)

    def count(self, queue: str) -> int:
        with self.client() as client:
            return client.count(queue)

    def until(self, queue: str, count: int) -> None:
        wait_until(lambda: self.count(queue) == count, what=f"{count} in {queue}")

    def reject(self, queue: str, count: int, *, requeue: bool = False) -> None:
        """Take so many, and reject them: for good, or to be delivered again."""
        connection = self._server.client(self._vhost)
        channel: Any = connection.channel()
        for _ in range(count):
            wait_until(lambda: self._rejected(channel, queue, requeue=requeue), what="a message")
        channel.close()
        connection.close()

    def _rejected(self, channel: Any, queue: str, *, requeue: bool) -> bool:
        taken = channel.basic_get(queue)
        if taken is not None:
            channel.basic_reject(taken.delivery_tag, requeue=requeue)
        return taken is not None


@pytest.fixture
def lab(shared_rabbit: RabbitServer, rabbit: str) -> Lab:
    return Lab(shared_rabbit, rabbit.rsplit("/", 1)[1])


def letter(id_: str) -> RawMessage:
    """A task's message with its headers by name: so RabbitMQ sorts them when one dies."""
    headers = b"".join(
        [
            header("eta", "V", b""),
            header("id", "S", long_text(id_)),
            header("retries", "I", b"\x00\x00\x00\x03"),
            header("stamps", "F", long_text(b"")),
            header("task", "S", long_text("shop.mail")),
            header("timelimit", "A", long_text(b"VV")),
        ]
    )
    return RawMessage(properties(headers=headers, priority=0, correlation_id=id_), BODY)


def expiring(id_: str) -> RawMessage:
    """One that expires of itself, in 50 ms."""
    encoded = properties(correlation_id=id_, rest=b"\x0250", rest_flags=0x0100)
    return RawMessage(encoded, BODY)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_however_it_died_each_goes_back_to_its_queue_as_it_was_and_may_die_again(
    lab: Lab, ann: Operator, kind: str
) -> None:
    """Also after two automatic deaths, which RabbitMQ would take for a cycle with their notes."""
    lab.declare("rejecting", kind, **TO_DEAD)
    lab.declare("full", kind, x_max_length=3, **TO_DEAD)
    lab.declare("slow", kind, x_message_ttl=300, x_dead_letter_exchange="",
                x_dead_letter_routing_key="between")  # fmt: skip
    lab.declare("between", kind, x_message_ttl=300, **TO_DEAD)
    lab.declare("own", kind, **TO_DEAD)
    sent = {
        name: [letter(f"{name}-{n}") for n in range(4)] for name in ("rejecting", "full", "slow")
    }
    for name, messages in sent.items():
        lab.publish(name, *messages)
    lab.publish("own", expiring("own-1"))
    lab.publish("dead", letter("never-died"))
    lab.reject("rejecting", 4)
    lab.until("dead", 11)
    with lab.client() as client:
        client.waiting("full", taking=True)
    planned = ann.do("queue", "return", "dead", "--plan").out
    assert "1 message of dead will stay there: they do not say where they came from" in planned
    assert "1 message had an expiration that the broker removed" in planned
    assert "are taken from 10 messages" in planned
    returned = ann.do("queue", "return", "dead", "--yes")
    assert returned.code == 0, returned.all
    lab.until("dead", 5)  # those that are slow have died again
    found = [one.properties for one in lab.waiting("dead")]
    assert sum(b"slow-" in one and b"x-death" in one for one in found) == 4
    assert sum(b"never-died" in one for one in found) == 1
    assert [lab.count(name) for name in ("rejecting", "full", "own")] == [4, 1, 1]
    if kind == "classic":  # a quorum queue writes into what it delivers
        assert lab.waiting("rejecting") == sent["rejecting"]
        assert lab.waiting("full") == sent["full"][:1]
        own = RawMessage(properties(correlation_id="own-1"), BODY)
        assert lab.waiting("own") == [own]


def test_what_is_in_a_quorum_queue_is_parked_before_it_is_looked_at(
    lab: Lab, ann: Operator
) -> None:
    """Delivered once too often: it died in a consumer's hands, and not of an age."""
    lab.declare("limited", "quorum", x_delivery_limit=1, x_dead_letter_exchange="",
                x_dead_letter_routing_key="graves")  # fmt: skip
    lab.declare("graves", "quorum")
    lab.publish("limited", *(letter(f"id-{n}") for n in range(3)))
    for _ in range(2):
        lab.reject("limited", 3, requeue=True)
    lab.until("graves", 3)
    refused = ann.do("queue", "return", "graves", "--yes")
    assert refused.code == 7
    assert "queue park" in refused.all
    parked = ann.do("queue", "park", "graves", "--yes")
    assert parked.code == 0, parked.all
    (place,) = set(re.findall(r"celery-ops\.parked\.graves\.[\w-]+", parked.out))
    returned = ann.do("queue", "return", place, "--yes")
    assert returned.code == 0, returned.all
    assert (lab.count("limited"), lab.count("graves")) == (3, 0)


def test_each_is_returned_once_however_often_the_executor_is_killed(
    lab: Lab, ann: Operator, deaths: int, shared_rabbit: RabbitServer, rabbit: str
) -> None:
    names = ("mail", "other")
    sent = {}
    for name in names:
        lab.declare(name, **TO_DEAD)
        sent[name] = [letter(f"{name}-{n}") for n in range(500 * deaths)]
        lab.publish(name, *sent[name])
    for _ in range(deaths):
        for name in names:
            lab.reject(name, 500)
    lab.publish("dead", letter("never-died"))
    before = lab.waiting("dead")
    queues = Queues(shared_rabbit, rabbit.rsplit("/", 1)[1], declared=())
    command = ["queue", "return", "dead", "--yes"]
    survive(ann, command, deaths, lambda: sum(map(queues.count, names)), 1_000 * deaths)
    queues.close()
    assert {name: lab.waiting(name) for name in names} == sent
    assert lab.count("dead") == 1
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    assert Counter(lab.waiting("dead")) == Counter(before)


def test_a_real_worker_runs_the_originals_of_wrappers_once(
    ann: Operator, rabbit: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", rabbit, redis_server.url(1))
    try:
        for number in range(20):
            said = {"task": "rig.work", "id": f"id-{number}", "args": [number], "kwargs": {}}
            fleet.send_with([], task="dead_letter.store", kwargs=said, queue="wrapped")
        fleet.start("m@rig", queues=["mail"], concurrency=2)
        unwrapped = ann.do("queue", "unwrap", "wrapped", *MAPPING, "--to", "mail", "--yes")
        assert unwrapped.code == 0, unwrapped.all
        wait_until(lambda: len(fleet.ends()) == 20, what="all have ended", timeout=120)
    finally:
        fleet.stop()
    assert Counter(fleet.starts().values()) == Counter(fleet.ends().values()) == {1: 20}
