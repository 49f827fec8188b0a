"""How long the sizes of 10,000 queues take: `python -m tests.benchmarks.queues`.

Every queue has its four steps; half of them hold messages, and workers hold some too. Beside it,
on the same server: `redis-cli` fed with an LLEN for each of the same lists, and a call for each of
them, one after the other, as Flower's queue lengths are read. Sizes have to be the same. To reach:
under a second, and nothing above 10 ms in Redis's slow log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery_ops.broker import connect
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from tests.rig.nodes import envelope
from tests.rig.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.ports import Broker

STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
HELD = 2_000
SLOW = 10_000
"""Microseconds."""
_MESSAGE = envelope([[1], {}, {}], {"id": "00000000-0000-4000-8000-000000000000", "task": "a.b"})


def fill(redis: Any, queues: Sequence[str]) -> int:
    """Put messages into every second queue, and let workers hold some; how many are ready."""
    total = 0
    with redis.pipeline(transaction=False) as pipe:
        for number, queue in enumerate(queues):
            pipe.sadd(f"_kombu.binding.{queue}", f"{queue}\x06\x16\x06\x16{queue}")
            for step in STEPS[: number % 2 and 1 + number % 4]:
                pipe.lpush(queue + step, *[_MESSAGE] * (1 + number % 20))
                total += 1 + number % 20
        for number in range(HELD):
            held = [{"headers": {"id": str(number)}, "properties": {}}, "", queues[number]]
            pipe.hset("unacked", str(number), json.dumps(held))
            pipe.zadd("unacked_index", {str(number): time.time()})
        pipe.execute()
    return total


async def ours(url: str, queues: Sequence[str], rounds: int) -> tuple[int, list[float], float]:
    """The sum of all that is ready; ms of each reading; ms of CPU of our own for one of them."""
    broker = await connect(Secret(url), {}, clock=SystemClock())
    try:
        first, total = await reading(broker, queues)
        began = time.process_time()
        took = [first, *[(await reading(broker, queues))[0] for _ in range(rounds)]]
        return total, took, (time.process_time() - began) * 1000 / rounds
    finally:
        await broker.close()


async def reading(broker: Broker, queues: Sequence[str]) -> tuple[float, int]:
    began = time.perf_counter()
    found = await broker.queues(queues)
    took = (time.perf_counter() - began) * 1000
    if len(found.queues) < len(queues) or found.unacked is None:
        raise RuntimeError(f"{len(found.queues)} of {len(queues)} queues; {found.notes}")
    return took, sum(queue.ready for queue in found.queues)


def redis_cli(server: RedisServer, queues: Sequence[str]) -> tuple[int, float] | None:
    program = shutil.which("redis-cli")
    if program is None:
        return None
    asked = "".join(f'LLEN "{queue + step}"\n' for queue in queues for step in STEPS)
    asked = asked.replace("\x06", "\\x06").replace("\x16", "\\x16")
    began = time.perf_counter()
    argv = (program, "-s", str(server.socket))
    done = subprocess.run(argv, input=asked, capture_output=True, text=True, check=True)
    return sum(map(int, done.stdout.split())), (time.perf_counter() - began) * 1000


def one_call_each(redis: Any, queues: Sequence[str]) -> tuple[int, float]:
    began = time.perf_counter()
    total = sum(redis.llen(queue + step) for queue in queues for step in STEPS)
    return total, (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queues", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    queues = [f"queue{number}" for number in range(chosen.queues)]
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        try:
            redis: Any = server.client()
            total = fill(redis, queues)
            redis.config_set("slowlog-log-slower-than", SLOW)
            redis.slowlog_reset()
            read, took, cpu = asyncio.run(ours(server.url(), queues, chosen.rounds))
            slow = redis.slowlog_get(10)
            peers = {
                "redis-cli, an LLEN for each list": redis_cli(server, queues),
                "one call a list, as Flower": one_call_each(redis, queues),
            }
        finally:
            server.stop()
    print(f"{chosen.queues} queues of {len(STEPS)} steps, {total} messages ready, {HELD} held")
    print(f"celery-ops: first {took[0]:.0f} ms, then median {statistics.median(took[1:]):.0f} ms,")
    print(f"            worst {max(took):.0f} ms, {cpu:.0f} ms of CPU each; counted {read}")
    for name, found in peers.items():
        told = "not there" if found is None else f"{found[1]:.0f} ms; counted {found[0]}"
        print(f"{name}: {told}")
    commands = [one["command"].split()[0].decode() for one in slow]
    print(f"above {SLOW / 1000:.0f} ms in the slow log: {commands or 'nothing'}")


if __name__ == "__main__":
    main()
