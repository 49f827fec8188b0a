"""Promise 3, and the rest of the adapter, with real Celery workers: watching changes nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.fleet import replies
from celery_ops.model import Targets
from celery_ops.ports import AddConsumer, CancelConsumer, Control, Question
from tests.broker.contract import ANN
from tests.rig import end, wait_until
from tests.rig.monitor import Monitor
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_ops.broker.redis import RedisBroker
    from tests.broker.conftest import MakeBroker

pytestmark = pytest.mark.rig

WATCHING = 10.0
"""Seconds of watching in which every command is looked at."""
TWELVE_HOURS = {"broker_transport_options": {"visibility_timeout": 43200}}
COUNTS_DB = 9
ALL = tuple(Question)
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Lab:
    """A server with a fleet on it."""

    server: RedisServer
    fleet: Fleet

    @property
    def url(self) -> str:
        return self.server.url()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three workers whose tasks may take twelve hours."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    directory = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(directory, server.url(), server.url(COUNTS_DB), TWELVE_HOURS)
    try:
        fleet.start("w1@lab", "w2@lab", "w3@lab")
        yield Lab(server, fleet)
    finally:
        fleet.stop()
        server.stop()


@pytest.fixture
def watching(lab: Lab, make_broker: MakeBroker) -> RedisBroker:
    return make_broker(lab.url)


def ours(lab: Lab) -> set[str]:
    """The keys of ours that are there."""
    with lab.server.client() as client:
        keys: Any = client.keys("*celery-ops*")
        return {key.decode() for key in keys}


async def until(condition: Callable[[], bool], *, what: str) -> None:
    """Wait for a real part without holding the event loop up."""
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(what)


async def test_every_question_is_answered_by_real_workers(watching: RedisBroker) -> None:
    asked = await watching.ask(ALL, to=None, timeout=10.0)
    assert asked.complete
    assert asked.expected == 3
    assert {len(found) for found in asked.replies.values()} == {3}
    stats = [replies.stats(reply) for reply in asked.replies[Question.STATS]]
    assert {it.pool for it in stats if it is not None} == {"threads"}
    (first, *_) = asked.replies[Question.REGISTERED]
    tasks = {task.name: task for task in replies.registered(first) or ()}
    assert tasks["rig.limited"].rate_limit == "1/h"
    assert tasks["rig.work_late"].acks_late is True
    assert await watching.nodes() == {"w1@lab", "w2@lab", "w3@lab"}


async def test_heartbeats_are_heard(watching: RedisBroker) -> None:
    heard = set()
    async with asyncio.timeout(10):
        async for beat in watching.heartbeats():
            heard.add((beat.node, beat.pid is not None, beat.version))
            if len(heard) == 3:
                break
    assert {node for node, _, _ in heard} == {"w1@lab", "w2@lab", "w3@lab"}


async def test_running_and_held_tasks_are_seen(lab: Lab, watching: RedisBroker) -> None:
    sent = {lab.fleet.send(number, 2.0, task="rig.work_late") for number in range(100, 103)}
    for _ in range(500):
        asked = await watching.ask([Question.ACTIVE], to=None, timeout=10.0)
        found = [replies.tasks(reply) or () for reply in asked.replies[Question.ACTIVE]]
        if {task.id for tasks in found for task in tasks} == sent:
            break
    reading = await watching.queues([])
    assert reading.unacked is not None
    assert {entry.task_id for entry in reading.unacked} == sent
    assert {(it.name, it.unacked) for it in reading.queues} == {("celery", 3)}
    await until(lambda: lab.fleet.ends().keys() >= {100, 101, 102}, what="the tasks' ends")


async def test_consumers_are_taken_away_and_given_back(watching: RedisBroker) -> None:
    to = Targets(("w1@lab",))
    fence = await watching.lease.acquire(ANN)

    async def consumed() -> tuple[Any, ...]:
        asked = await watching.ask([Question.ACTIVE_QUEUES], to=to, timeout=10.0)
        (reply,) = asked.replies[Question.ACTIVE_QUEUES]
        return replies.consumed(reply) or ()

    before = await consumed()
    (reply,) = await watching.order(CancelConsumer("celery"), to=to, fence=fence, timeout=10.0)
    assert reply.value == {"ok": "no longer consuming from celery"}
    assert await consumed() == ()
    (reply,) = await watching.order(AddConsumer(before[0]), to=to, fence=fence, timeout=10.0)
    assert reply.error is None
    assert await consumed() == before
    (reply,) = await watching.order(Control("nonsense"), to=to, fence=fence, timeout=10.0)
    assert reply.error == "KeyError('nonsense')"
    await watching.lease.release(fence)


async def test_all_that_is_written_while_watching_is_our_own_and_expires(
    lab: Lab, make_broker: MakeBroker
) -> None:
    with lab.server.client() as client:
        client.execute_command("ACL", "SETUSER", "ops", "on", ">pw", "~*", "&*", "+@all")
        broker = make_broker(lab.url.replace("redis://", "redis://ops:pw@"))
        monitor = Monitor(lab.server)
        beats: Counter[str] = Counter()

        async def listen() -> None:
            async for beat in broker.heartbeats():
                beats[beat.node] += 1

        listening = asyncio.create_task(listen())
        addresses: set[str] = set()
        until = time.monotonic() + WATCHING
        rounds = 0
        while time.monotonic() < until:
            asked = await broker.ask(ALL, to=None, timeout=10.0)
            assert asked.complete
            await broker.queues(["celery", "mail"])
            await broker.nodes()
            await broker.taken()
            await broker.holder()
            rounds += 1
            connected: Any = client.client_list()
            addresses |= {entry["addr"] for entry in connected if entry["user"] == "ops"}
            await asyncio.sleep(0.05)
        listening.cancel()
        monitor.stop()
        writes = monitor.writes_of(addresses)
        keys = {key for _, key in writes}
        assert rounds > 10
        assert beats.total() > 6
        assert {name for name, _ in writes} <= {"SADD", "PEXPIRE", "RPUSH", "LTRIM"}
        assert len(keys) == 2
        assert all("celery-ops" in key for key in keys)
        for key in keys:
            assert 0 < int(client.pttl(key)) <= 60_000
        assert not any('"KEYS"' in line for line in monitor.lines)


async def test_a_two_hour_old_task_survives_us_and_not_celery_inspect(
    lab: Lab, watching: RedisBroker
) -> None:
    held = {
        "body": "W1tdLCB7fSwge31d",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "old", "task": "rig.work"},
        "properties": {"delivery_info": {"exchange": "", "routing_key": "parked"}, "priority": 0},
    }
    with lab.server.client() as client:
        client.hset("unacked", "old", json.dumps([held, "", "parked"]))
        client.zadd("unacked_index", {"old": time.time() - 7200})
        listening = asyncio.ensure_future(anext(watching.heartbeats()))
        for _ in range(30):
            await watching.ask(ALL, to=None, timeout=10.0)
            reading = await watching.queues(["parked"])
        await listening
        await watching.close()
        assert client.hexists("unacked", "old")
        assert client.llen("parked") == 0
        assert {(it.name, it.ready, it.unacked) for it in reading.queues} >= {("parked", 0, 1)}

        done = lab.fleet.command("inspect", "ping", "-t", "1")
        assert "3 nodes online" in done.stdout, done.stderr
        assert not client.hexists("unacked", "old"), "this Celery no longer restores: good news"
        assert client.llen("parked") == 1
        client.delete("parked")


@pytest.fixture
def watcher(lab: Lab) -> Iterator[Callable[[float], subprocess.Popen[bytes]]]:
    """Starts processes that watch, with that expiry."""
    started: list[subprocess.Popen[bytes]] = []

    def start(expiry: float) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.broker.watcher", lab.url, str(expiry)]
        started.append(subprocess.Popen(argv, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        end(process)


async def test_nothing_is_left_of_a_watcher_that_was_killed_not_even_late_replies(
    lab: Lab, make_broker: MakeBroker, watcher: Callable[[float], subprocess.Popen[bytes]]
) -> None:
    frozen = lab.fleet.workers[0]
    await until(lambda: not ours(lab), what="the keys of the tests before")
    for thawed_early in (True, False):
        # Frozen while it is idle: see the next test but one for a worker in the middle of a reply.
        frozen.freeze()
        process = watcher(2.0)
        await until(lambda: len(ours(lab)) == 2, what="a watcher")
        await asyncio.sleep(0.2)
        process.kill()
        process.wait()
        assert len(ours(lab)) == 2
        if thawed_early:
            frozen.thaw()
        await until(lambda: not ours(lab), what="the expiry")
        frozen.thaw()
        other = make_broker(lab.url, reply_expiry=1.0)
        asked = await other.ask([Question.PING], to=Targets((frozen.name,)), timeout=30.0)
        assert asked.complete, "the worker has answered everything that it was asked before"
        await other.close()
        await until(lambda: not ours(lab), what="the expiry of the other")


async def test_a_late_reply_to_the_dead_leaves_nothing_while_others_watch(
    lab: Lab, make_broker: MakeBroker, watcher: Callable[[float], subprocess.Popen[bytes]]
) -> None:
    frozen = lab.fleet.workers[0]
    await until(lambda: not ours(lab), what="the keys of the tests before")
    frozen.freeze()
    process = watcher(2.0)
    await until(lambda: len(ours(lab)) == 2, what="a watcher")
    await asyncio.sleep(0.2)
    process.kill()
    process.wait()
    (dead,) = (key for key in ours(lab) if "binding" not in key)
    other = make_broker(lab.url, reply_expiry=2.0)
    deadline = time.monotonic() + 4.0
    while time.monotonic() < deadline:
        await other.ask([Question.PING], to=Targets(("w2@lab",)), timeout=1.0)
        await asyncio.sleep(0.1)
    assert dead not in ours(lab)
    assert len(ours(lab)) == 2, "the other one's list, and the binding that it prolonged"
    frozen.thaw()
    asked = await other.ask([Question.PING], to=Targets((frozen.name,)), timeout=30.0)
    assert asked.complete
    assert dead not in ours(lab)
    await other.close()
    await until(lambda: not ours(lab), what="the expiry of the other")


async def test_a_list_that_a_worker_made_anew_expires_once_somebody_watches(
    lab: Lab, make_broker: MakeBroker
) -> None:
    await until(lambda: not ours(lab), what="the keys of the tests before")
    left_over = "0123.reply.celery-ops.pidbox"
    with lab.server.client() as client:
        client.lpush(left_over, "what a worker that was stopped in the middle of a reply pushes")
        other = make_broker(lab.url, reply_expiry=1.0)
        await other.queues([])
        assert 0 < int(client.pttl(left_over)) <= 1000
    await other.close()
    await until(lambda: not ours(lab), what="the expiry")


async def test_a_frozen_worker_is_missed_and_heard_again(lab: Lab, watching: RedisBroker) -> None:
    names = ("w1@lab", "w2@lab", "w3@lab")
    frozen = lab.fleet.workers[2]
    frozen.freeze()
    try:
        asked = await watching.ask([Question.PING], to=None, timeout=0.5, known=names)
        assert not asked.complete
        assert {reply.node for reply in asked.replies[Question.PING]} == {"w1@lab", "w2@lab"}
    finally:
        frozen.thaw()
    asked = await watching.ask([Question.PING], to=None, timeout=30.0, known=names)
    assert asked.complete
    assert len(asked.replies[Question.PING]) == 3


async def test_two_real_workers_under_one_name_both_answer(lab: Lab, watching: RedisBroker) -> None:
    first, second = lab.fleet.start("twin@lab", "twin@lab", queues=("twins",))
    try:
        for to in (None, Targets(("twin@lab",))):
            asked = await watching.ask([Question.STATS], to=to, timeout=10.0)
            pids = [
                stats.pid
                for reply in asked.replies[Question.STATS]
                if reply.node == "twin@lab" and (stats := replies.stats(reply)) is not None
            ]
            assert sorted(pids) == sorted([first.pid, second.pid])
    finally:
        for worker in (first, second):
            worker.stop()


async def test_a_killed_worker_is_not_waited_for(lab: Lab, watching: RedisBroker) -> None:
    (doomed,) = lab.fleet.start("doomed@lab", queues=("doomed",))
    assert len((await watching.ask([Question.PING], to=None, timeout=10.0)).replies) == 1
    doomed.kill()
    async with asyncio.timeout(10):
        asked = await watching.ask([Question.STATS], to=None, timeout=60.0)
    assert asked.complete
    assert len(asked.replies[Question.STATS]) == 3
    assert "doomed@lab" in (await watching.nodes()), "kombu leaves its binding"


async def test_a_fleet_with_options_of_its_own(
    lab: Lab, tmp_path: Path, make_broker: MakeBroker
) -> None:
    transport: dict[str, Any] = {
        "global_keyprefix": "our*app:",
        "priority_steps": [0, 5],
        "sep": ":",
        "visibility_timeout": 43200,
    }
    conf = {"broker_transport_options": transport, "control_exchange": "steering"}
    fleet = Fleet(tmp_path, lab.server.url(3), lab.server.url(COUNTS_DB), conf)
    try:
        (worker,) = fleet.start("own@lab")
        broker = make_broker(lab.server.url(3), control_exchange="steering", **transport)
        asked = await broker.ask(ALL, to=None, timeout=10.0)
        assert asked.complete
        assert [reply.node for reply in asked.replies[Question.STATS]] == ["own@lab"]
        assert await broker.nodes() == {"own@lab"}
        async with asyncio.timeout(10):
            assert (await anext(broker.heartbeats())).node == "own@lab"
        fence = await broker.lease.acquire(ANN)
        to = Targets(("own@lab",))
        await broker.order(CancelConsumer("celery"), to=to, fence=fence, timeout=10.0)
        await broker.lease.release(fence)
        await asyncio.sleep(1.5)
        fleet.send(1, priority=9)
        fleet.send(2, priority=0)
        fleet.send(3, queue="unheard")
        reading = await broker.queues([])
        assert {it.name: it.by_priority for it in reading.queues} == {
            "celery": ((0, 1), (5, 1)),
            "unheard": ((0, 1), (5, 0)),
        }
        with lab.server.client(db=3) as client:
            keys: Any = client.keys("*")
            assert all(key.startswith(b"our*app:") for key in keys)
        assert worker.process.poll() is None
    finally:
        fleet.stop()


def test_the_rig_counts_what_workers_do(lab: Lab) -> None:
    lab.fleet.send(1000)
    wait_until(lambda: 1000 in lab.fleet.ends(), what="task 1000")
    assert lab.fleet.starts()[1000] == lab.fleet.ends()[1000] == 1


def test_neither_celery_nor_kombu_is_imported_to_watch() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, celery_ops.broker;"
            "print([it for it in ('celery', 'kombu', 'textual', 'paramiko') if it in sys.modules])",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
