"""The queue verbs on RabbitMQ: classic and quorum queues, real workers, the real command.

Its queues are as awkward as they get: with priorities, with exchanges and routing keys of their
own, consumed with a priority, and one that a worker's application does not know. With another
argument than before RabbitMQ would end the worker (406). What is shown is compared with what the
server itself says to `rabbitmqctl` and to plain AMQP.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import amqp
import pytest

from celery_ops.cli.deployment import opened
from celery_ops.config import contexts
from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.mortal import Death, When
from tests.rig.operations import Program
from tests.rig.rabbit_operations import RabbitOperations, rabbit_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.model import FleetSnapshot
    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Event, Operator

pytestmark = pytest.mark.rig

CONF = {
    "task_queues": {
        "mail": {
            "exchange": "shop", "exchange_type": "direct", "routing_key": "shop.mail",
            "queue_arguments": {"x-max-priority": 5}, "consumer_arguments": {"x-priority": 4},
        },
        "sure": {
            "exchange": "sure", "exchange_type": "topic", "routing_key": "sure",
            "queue_arguments": {"x-queue-type": "quorum"},
        },
    },
    "task_default_queue": "mail",
    "task_annotations": {"rig.limited": {"rate_limit": None}},
}  # fmt: skip
ODD = {
    "exchange": "odd-ones",
    "exchange_type": "topic",
    "routing_key": "odd.key",
    "options": {"queue_arguments": {"x-max-priority": 7}, "consumer_arguments": {"x-priority": 3}},
}
"""How a worker is told to consume `odd`, of which its application knows nothing."""
PROGRAMS = (
    Program("a", queues=("mail",)),
    Program("b", pool="prefork", queues=("mail", "sure")),
)
WORKERS = ("a", "b")
FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitOperations]:
    with rabbit_operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS, conf=CONF) as made:
        made.fleet.add_consumer("a@rig", "odd", **ODD)
        wait_until(lambda: len(made.consumed_by("a@rig")) == 2, what="a consumes odd")
        yield made


@pytest.fixture
def eve(fleet: RabbitOperations, operator: MakeOperator) -> Operator:
    """Who has nothing but the broker's URL: no management API."""
    return operator("eve", "-b", fleet.url)


def consumed(fleet: RabbitOperations) -> tuple[Any, ...]:
    """Who consumes what, by the words of the workers and of the broker, with every argument."""
    told = {name: fleet.consumed_by(f"{name}@rig") for name in WORKERS}
    consumers = sorted(
        (one["queue"]["name"], json.dumps(one["arguments"]), one["ack_required"])
        for one in json.loads(fleet.rabbit.api("GET", "consumers/%2F"))
        if not one["queue"]["name"].endswith(".pidbox")
    )
    bindings = json.loads(fleet.rabbit.api("GET", "bindings/%2F"))
    routes = {(one["source"], one["routing_key"], one["destination"]) for one in bindings}
    return told, consumers, {route for route in routes if route[2] in {"mail", "odd", "sure"}}


def listed(fleet: RabbitOperations, *queues: str) -> dict[str, tuple[int, int, int]]:
    """Ready and unacked messages, and consumers, as rabbitmqctl says."""
    columns = ("name", "messages_ready", "messages_unacknowledged", "consumers")
    text = fleet.rabbit.control("-q", "list_queues", "--no-table-headers", *columns)
    rows = (line.split("\t") for line in text.splitlines())
    found = {name: (int(ready), int(held), int(count)) for name, ready, held, count in rows}
    return {name: found[name] for name in queues}


def has_settled(fleet: RabbitOperations, *queues: str) -> bool:
    """Nothing is delayed any more, and rabbitmqctl has come to know it: of quorum queues it tells
    what they were five seconds ago at most, while a passive declare asks them.
    """
    delayed = any(fleet.ready(f"celery_delayed_{level}") for level in range(4))
    counted = listed(fleet, *queues)
    return not delayed and all(counted[name][0] == fleet.ready(name) for name in queues)


def shown(operator: Operator) -> dict[str, tuple[int | None, ...]]:
    """The same, as `celery-ops queues` says."""
    said = operator.do("queues", "--json")
    assert said.code == 0, said.all
    return {
        one["name"]: (one["ready"], one["unacked"], one["consumers"]) for one in said.json["queues"]
    }


def by_name(snapshot: FleetSnapshot) -> dict[str, tuple[int | None, ...]]:
    return {one.name: (one.ready, one.unacked, one.consumers) for one in snapshot.queues}


@contextlib.contextmanager
def frozen(fleet: RabbitOperations) -> Iterator[None]:
    pids = [fleet.pid(name) for name in WORKERS]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def publish(fleet: RabbitOperations, queue: str, count: int, **arguments: str) -> list[str]:
    """Declare a queue, and put so many tasks in it, of two names in turn; the messages' ids."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with fleet.rabbit.client() as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
        for number, id_ in enumerate(ids):
            headers = {"task": f"shop.t{number % 2}", "id": id_, "lang": "py", "retries": 0}
            message = amqp.Message(
                json.dumps([[number], {}, {}]), content_type="application/json", priority=0,
                content_encoding="utf-8", delivery_mode=2, application_headers=headers,
                correlation_id=id_,
            )  # fmt: skip
            channel.basic_publish(message, routing_key=queue)
    wait_until(lambda: fleet.ready(queue) == count, what=f"{count} messages in {queue}")
    return ids


def ids_in(fleet: RabbitOperations, queue: str) -> list[str]:
    """The ids of all messages of a queue, which are taken out for good."""
    found = []
    with fleet.rabbit.client() as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message.properties["correlation_id"])
    return found


@pytest.mark.parametrize(("queue", "when"), [("mail", When.DURING), ("odd", When.AFTER)])
def test_what_a_killed_pause_took_is_adopted_to_the_last_argument(
    queue: str, when: When, fleet: RabbitOperations, ann: Operator, bob: Operator
) -> None:
    wait_until(lambda: len(consumed(fleet)[1]) == 4, what="the broker has counted consumers")
    before, pids = consumed(fleet), [fleet.pid(name) for name in WORKERS]
    assert {json.loads(one)["x-priority"] for name, one, _ in before[1] if name == "mail"} == {4}
    death = Death("pause queue", when).variables(ann.home / "mortal")
    killed = ann.do("queue", "pause", queue, "--yes", **death)
    assert killed.code == 4, killed.all
    wait_until(lambda: listed(fleet, queue)[queue][2] == 0, what="nobody consumes it")
    run = ann.journals()[-1].stem
    adopted = bob.do("runs", "adopt", run, "--yes")
    assert adopted.code == 0, adopted.all
    wait_until(lambda: consumed(fleet) == before, what="all is as it was")
    assert [fleet.pid(name) for name in WORKERS] == pids
    assert not any("PRECONDITION" in fleet.rig.log(name) for name in WORKERS)
    assert fleet.nothing_is_taken()


def says(text: str, event: Event) -> bool:
    """Whether it is a wait of which this is told."""
    return event["event"] == "progress" and text in event["outcome"]["says"]


def test_a_drain_waits_for_retries_and_etas(fleet: RabbitOperations, ann: Operator) -> None:
    first = next(FIRSTS)
    numbers = range(first, first + 12)
    fleet.fleet.send(numbers[0], task="rig.hold_late")
    for number in numbers[1:6]:
        fleet.fleet.send(number, 0.2, task="rig.work_late")
    for number in numbers[6:9]:
        fleet.fleet.send(number, 0.1, countdown=5)
    for number in numbers[9:]:
        fleet.fleet.send_with([number, 1, 4], task="rig.again")
    draining = ann.start("queue", "drain", "mail", "-p", "timeout=2m")
    ann.until(partial(says, "held by workers"), "a task that is held")
    fleet.fleet.release(numbers[0])
    drained = draining.wait()
    ends, starts = fleet.fleet.ends(), fleet.fleet.starts()
    assert drained.code == 0, drained.all
    assert [ends.get(number) for number in numbers] == [1] * 12
    assert [starts.get(number) for number in numbers] == [1] * 9 + [2] * 3
    assert listed(fleet, "mail") == {"mail": (0, 0, 2)}
    assert "held by workers" in drained.all


def test_a_drain_of_a_quorum_queue_waits_for_delayed_delivery_and_takes_the_workers_word(
    fleet: RabbitOperations, eve: Operator
) -> None:
    first = next(FIRSTS)
    numbers = range(first, first + 7)
    fleet.fleet.send(numbers[6], task="rig.hold_late", queue="sure")
    draining = eve.start("queue", "drain", "sure", "-p", "timeout=2m")
    eve.until(partial(says, ""), "a drain that waits")
    for number in numbers[:3]:
        fleet.fleet.send(number, 0.2, queue="sure", countdown=6)
    for number in numbers[3:6]:
        fleet.fleet.send_with([number, 1, 5], task="rig.again", queue="sure")
    eve.until(partial(says, "delayed delivery"), "tasks that are delayed")
    fleet.fleet.release(numbers[6])
    drained = draining.wait()
    ends = fleet.fleet.ends()
    assert drained.code == 0, drained.all
    assert [ends.get(number) for number in numbers] == [1] * 7
    assert listed(fleet, "sure") == {"sure": (0, 0, 1)}
    assert re.search(r"\d messages? in the queues for delayed delivery", drained.all)
    assert "by the word of b@rig: the broker counts no other consumer" in drained.all
    plan = eve.do("queue", "drain", "sure", "--plan")
    assert "the broker does not tell how many messages of sure are held" in plan.all


def test_what_a_stranger_holds_is_not_called_drained(
    fleet: RabbitOperations, eve: Operator
) -> None:
    """Somebody who is no worker takes a message of `odd`, and holds it."""
    with fleet.rabbit.client() as connection, frozen(fleet):
        channel = connection.channel()
        channel.basic_qos(0, 1, a_global=False)
        channel.basic_consume("odd", callback=lambda _: None, arguments={"x-priority": 9})
        channel.basic_publish(amqp.Message("{}"), routing_key="odd")
        wait_until(lambda: listed(fleet, "odd")["odd"] == (0, 1, 2), what="it is held")
        os.kill(fleet.pid("a"), signal.SIGCONT)
        os.kill(fleet.pid("b"), signal.SIGCONT)
        refused = eve.do("queue", "drain", "odd", "-p", "timeout=6s")
        assert refused.code == 1, refused.all
        assert "1 consumer of it is no worker that answered, and may hold some" in refused.all
        channel.queue_purge("odd")
        channel.close()
    with fleet.rabbit.client() as connection, contextlib.suppress(Exception):
        connection.channel().queue_purge("odd")


async def test_the_numbers_are_those_of_rabbitmqctl(fleet: RabbitOperations, ann: Operator) -> None:
    """Right now for what waits and who consumes; what is held, as soon as the API has counted it.
    Without the API nobody can tell that, nor that there is a queue which nobody consumes.
    """
    queues = ("mail", "sure", "nobody")
    async with contextlib.AsyncExitStack() as stack:
        without = await stack.enter_async_context(opened(contexts.only_broker(fleet.url)))
        with Load(fleet.fleet, *queues, first=next(FIRSTS), every=0.05) as load:
            wait_until(lambda: fleet.ready("nobody") > 5, what="some load")
            wait_until(lambda: "nobody" in shown(ann), what="the API has found it")
            assert {"mail", "sure"} <= by_name(await without.surveyor.refresh()).keys()
            for _ in range(3):
                before = fleet.ready("nobody")
                ready = shown(ann)["nobody"][0]
                assert ready is not None
                assert before <= ready <= fleet.ready("nobody")
            stack.enter_context(frozen(fleet))
            sent = load.sent
            wait_until(lambda: load.sent > sent + 15, what="messages that wait")
        wait_until(lambda: has_settled(fleet, *queues), what="what was delayed has come")
        exact = listed(fleet, *queues)
        assert all(exact[name][0] and exact[name][1] for name in ("mail", "sure")), exact
        seen = by_name(await without.surveyor.refresh())
        assert "nobody" not in seen
        assert {name: seen[name] for name in ("mail", "sure")} == {
            name: (exact[name][0], None, exact[name][2]) for name in ("mail", "sure")
        }
        wait_until(
            lambda: shown(ann).items() >= listed(fleet, *queues).items(),
            what="the API has counted what is held",
        )
    with fleet.rabbit.client() as connection:
        for name in queues:
            connection.channel().queue_purge(name)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_messages_are_moved_parked_purged_and_restored_by_the_command(
    kind: str, fleet: RabbitOperations, ann: Operator
) -> None:
    source, other = f"{kind}-from", f"{kind}-to"
    ids = publish(fleet, source, 12, **{"x-queue-type": kind})
    publish(fleet, other, 0, **{"x-queue-type": kind})
    some = ann.do("queue", "move", source, "--to", other, "--filter", "task == 'shop.t1'", "--yes")
    if kind == "quorum":
        assert some.code == 7, some.all
        assert "is a quorum queue: it counts each look" in some.all
        backup = ann.do("queue", "backup", source)
        assert backup.code == 7, backup.all
        assert "queue park" in backup.all
        assert ann.journals() == [], "refused before a run begins"
        some = ann.do("queue", "move", source, "--to", other, "--limit", "6", "--yes")
        moved, stayed = ids[:6], ids[6:]
    else:
        moved, stayed = ids[1::2], ids[::2]
    assert some.code == 0, some.all
    assert (fleet.ready(source), fleet.ready(other)) == (6, 6)
    parked = ann.do("queue", "park", source, "--limit", "2", "--yes")
    assert parked.code == 0, parked.all
    assert fleet.ready(source) == 4
    unparked = ann.do("queue", "unpark", source, "--yes")
    assert unparked.code == 0, unparked.all
    purged = ann.do("queue", "purge", source, "--yes")
    assert purged.code == 0, purged.all
    assert fleet.ready(source) == 0
    (file,) = set(re.findall(r"queue restore (\S+\.backup)", purged.all))
    restored = ann.do("queue", "restore", file, "--yes")
    assert restored.code == 0, restored.all
    again = ann.do("queue", "restore", file, "--yes")
    assert again.code == 7, again.all
    assert ids_in(fleet, source) == stayed[2:] + stayed[:2], "unparked ones go behind the others"
    assert ids_in(fleet, other) == moved
