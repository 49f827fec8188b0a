"""`celery-ops queue peek` of a queue of a million messages: `python -m tests.benchmarks.peek`.

Beside what else there is: `redis-cli LRANGE` of the same messages, which shows raw envelopes, and
kombu's own way, which takes them with `basic_get` and requeues them: at the end of the queue, so it
comes after all others. Each is a cold start of a whole process. The server logs whatever keeps it
busy for 10 ms. To reach: 0.5 s, and an empty slow log.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests.rig.redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

QUEUE = "mail"
SHOWN = 20
TO_REACH = 0.5
SLOW = 10_000
"""Microseconds."""
_AT_A_TIME = 1_000
_KOMBU = f"""
import sys
from kombu import Connection
with Connection(sys.argv[1]) as connection:
    channel = connection.channel()
    messages = [channel.basic_get({QUEUE!r}) for _ in range({SHOWN})]
    for message in messages:
        print(message.headers["task"], message.headers["id"], message.headers["argsrepr"])
    for message in reversed(messages):
        message.requeue()
"""


def fill(server: RedisServer, count: int) -> None:
    """Messages of a real producer, each with an id of its own."""
    client: Any = server.client()  # redis-py is typed only in part
    with Celery("shop", broker=server.url()) as app:
        id_ = "0" * 36
        arguments = {"address": "ann@example.com", "password": "hunter2"}
        app.send_task("shop.mail", (1, "welcome"), arguments, queue=QUEUE, task_id=id_)
    template: bytes = client.rpop(QUEUE)
    for start in range(0, count, _AT_A_TIME):
        numbers = range(start, min(start + _AT_A_TIME, count))
        some = [template.replace(id_.encode(), f"{number:036}".encode()) for number in numbers]
        client.lpush(QUEUE, *some)
    if client.llen(QUEUE) != count:
        raise RuntimeError("the queue is not as long as it should be")
    client.config_set("slowlog-log-slower-than", SLOW)
    client.slowlog_reset()
    client.close()


def cases(server: RedisServer, count: int) -> dict[str, tuple[tuple[str, ...], int]]:
    """Commands by name, each with the number of a message that it has to show."""
    here = f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
    client = shutil.which("redis-cli", path=here)
    peek = (sys.executable, "-m", "celery_ops", "-b", server.url(), "queue", "peek", QUEUE)
    last = (*peek, "--skip", str(count - SHOWN))
    one = (*peek, "--filter", f"retries == 0 and id == '{2_000:036}'")
    found = {
        "queue peek": (peek, SHOWN - 1),
        "queue peek, the last ones": (last, count - 1),
        "queue peek, one of 10,000": (one, 2_000),
    }
    if client is not None:
        argv = (client, "-p", str(server.port), "LRANGE", QUEUE, str(-SHOWN), "-1")
        found["redis-cli LRANGE"] = (argv, SHOWN - 1)
    return found


def wall_time(argv: Sequence[str], shows: int) -> float:
    """Seconds of one cold start; raise if it did not show that message."""
    began = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    took = time.perf_counter() - began
    if f"{shows:036}" not in done.stdout:
        raise RuntimeError(f"{argv} did not show message {shows}:\n{done.stdout[:2_000]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--messages", type=int, default=1_000_000)
    asked = parser.parse_args()
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory) / "redis")
        try:
            fill(server, asked.messages)
            for _ in range(asked.rounds):
                for name, (argv, shows) in cases(server, asked.messages).items():
                    took.setdefault(name, []).append(wall_time(argv, shows))
            kombu = (sys.executable, "-c", _KOMBU, server.url())
            took["kombu, take and requeue"] = [
                wall_time(kombu, SHOWN * (number + 1) - 1) for number in range(asked.rounds)
            ]
            client: Any = server.client()
            slow = client.slowlog_get()
            client.close()
        finally:
            server.stop()
    for name, seconds in took.items():
        sys.stdout.write(
            f"{name:27} {median(seconds):.3f} s"
            f"  (best {min(seconds):.3f}, worst {max(seconds):.3f})\n"
        )
    sys.stdout.write(
        f"{asked.messages:,} messages, {asked.rounds} rounds; to reach: {TO_REACH} s\n"
        f"slow log at {SLOW // 1000} ms: {[entry['command'][:60] for entry in slow] or 'empty'}\n"
    )


if __name__ == "__main__":
    main()
