"""The numbers shown of queues are those that the broker has at the same moment, under load too.

Counted again by the test itself with plain commands, as with redis-cli. While workers and producers
are frozen in the middle of their work, both have to be equal; while they work, what only grows is
counted before and after, and rates are compared with what was really sent.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.cli.deployment import opened
from celery_ops.config import contexts
from celery_ops.fleet.clock import SystemClock
from celery_ops.fleet.collector import Collector
from tests.rig import end
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import FleetSnapshot, Queue

pytestmark = pytest.mark.rig

QUEUES = ("alone", "left", "right", "nobody")
"""Consumed by a worker that consumes nothing else; by one that shares them; by nobody."""
EVERY = 0.04
"""Seconds between two messages, which go to the queues in turn."""
WATCHED = 18.0
_STEPS = (0, 3, 6, 9)
_PRODUCER = """
import itertools, sys, time
from celery import Celery
from redis import Redis

broker, counts, every, queues = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
app = Celery("producer", broker=broker)
sent = Redis.from_url(counts)
for number, queue in zip(itertools.count(), itertools.cycle(queues)):
    late = {"countdown": 2} if number % 40 == 0 else {}
    app.send_task("rig.work", args=[number, 0.01], queue=queue, priority=number // 4 % 10, **late)
    sent.hincrby("sent", queue)
    time.sleep(every)
"""


@dataclass
class Load:
    """Workers and a producer on a Redis, which can be frozen in whatever they are doing."""

    server: RedisServer
    fleet: Fleet
    producer: subprocess.Popen[bytes]

    def freeze(self) -> None:
        self.producer.send_signal(SIGSTOP)
        for worker in self.fleet.workers:
            worker.freeze()

    def thaw(self) -> None:
        for worker in self.fleet.workers:
            worker.thaw()
        self.producer.send_signal(SIGCONT)

    def sent(self) -> Counter[str]:
        redis: Any = self.server.client(1)
        return Counter({name.decode(): int(count) for name, count in redis.hgetall("sent").items()})

    def by_step(self, queue: str) -> dict[int, int]:
        redis: Any = self.server.client()
        return {step: redis.llen(_key(queue, step)) for step in _STEPS}

    def bytes(self, queue: str) -> int:
        """Of all its messages, read one by one."""
        redis: Any = self.server.client()
        keys = (_key(queue, step) for step in _STEPS)
        return sum(len(message) for key in keys for message in redis.lrange(key, 0, -1))

    def unacked(self) -> Counter[str]:
        redis: Any = self.server.client()
        return Counter(json.loads(entry)[2] for entry in redis.hvals("unacked"))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    folder = tmp_path_factory.mktemp("queues")
    server = RedisServer(folder / "redis")
    fleet = Fleet(folder / "app", server.url(), server.url(1), {"worker_prefetch_multiplier": 4})
    try:
        fleet.start("alone@rig", queues=("alone",), concurrency=2)
        fleet.start("shared@rig", queues=("left", "right"), concurrency=2)
        argv = (sys.executable, "-c", _PRODUCER, server.url(), server.url(1), str(EVERY), *QUEUES)
        producer = subprocess.Popen(argv)
        try:
            yield Load(server, fleet, producer)
        finally:
            end(producer)
    finally:
        fleet.stop()
        server.stop()


@pytest.fixture
async def surveyor(load: Load) -> AsyncIterator[Surveyor]:
    async with opened(contexts.only_broker(load.server.url())) as deployment:
        deadline = time.monotonic() + 60
        while {one.name for one in (await deployment.surveyor.refresh()).queues} < set(QUEUES):
            assert time.monotonic() < deadline, "the queues are found"
            await asyncio.sleep(0.5)
        yield deployment.surveyor


def queue(snapshot: FleetSnapshot, name: str) -> Queue:
    return next(one for one in snapshot.queues if one.name == name)


async def test_frozen_in_the_middle_of_the_work_all_counts_are_equal(
    load: Load, surveyor: Surveyor
) -> None:
    seen: Counter[str] = Counter()
    for _ in range(8):
        await asyncio.sleep(0.4)
        load.freeze()
        try:
            snapshot = await surveyor.refresh(timeout=0.3)
            held = load.unacked()
            for name in QUEUES:
                one = queue(snapshot, name)
                by_step = load.by_step(name)
                assert (one.ready, one.by_priority) == (
                    sum(by_step.values()),
                    tuple(by_step.items()),
                )
                assert one.unacked == held[name]
                seen[name] += one.ready or one.unacked or 0
        finally:
            load.thaw()
    assert seen["nobody"] > 0
    assert sum(seen[name] for name in ("alone", "left", "right")) > 0, "there was load"


async def test_while_all_work_a_queue_that_only_grows_is_between_two_counts(
    load: Load, surveyor: Surveyor
) -> None:
    for _ in range(20):
        before = sum(load.by_step("nobody").values())
        shown = queue(await surveyor.refresh(), "nobody").ready
        assert shown is not None
        assert before <= shown <= sum(load.by_step("nobody").values())


async def test_rates_are_those_at_which_messages_were_sent(load: Load, surveyor: Surveyor) -> None:
    sent: list[tuple[float, Counter[str]]] = []
    async with Collector(surveyor, clock=SystemClock()) as collector:
        async for _ in collector.snapshots():
            sent.append((time.monotonic(), load.sent()))
            if sent[-1][0] - sent[0][0] >= WATCHED:
                break
    snapshot = collector.latest
    assert snapshot is not None

    def really(name: str, span: float) -> float:
        at, last = sent[-1]
        first = min(sent, key=lambda one: abs(one[0] - (at - span)))
        return (last[name] - first[1][name]) / (at - first[0])

    flows = {name: queue(snapshot, name).flow for name in QUEUES}
    for name, flow in flows.items():
        assert flow.span >= 10, (name, flow)
        assert flow.arrivals is not None
        assert flow.completions is not None
        assert flow.arrivals <= really(name, flow.span) * 1.35 + 1, (name, flow)
    for name in ("alone", "nobody"):
        assert not flows[name].at_least
        assert flows[name].arrivals == pytest.approx(really(name, flows[name].span), rel=0.35)
    assert flows["alone"].completions == pytest.approx(flows["alone"].arrivals, rel=0.35)
    assert flows["nobody"].completions == 0
    assert flows["left"].at_least
    assert "its consumers also consume right, and count all together" in flows["left"].why
    nobody = queue(snapshot, "nobody")
    assert nobody.waits_since is not None
    assert (snapshot.at - nobody.waits_since).total_seconds() > 10
    assert nobody.bytes is not None
    size = load.bytes("nobody")
    assert nobody.bytes == pytest.approx(size, rel=0.25)


def _key(queue: str, step: int) -> str:
    return f"{queue}\x06\x16{step}" if step else queue
