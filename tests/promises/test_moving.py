"""Messages are moved, purged and restored by the real command on a real Redis; compared raw.

Six times an executor is killed at a random count of moved messages, of a move and of a restore;
with `--every-death` fifty times:

    python -m pytest -n 0 --every-death tests/promises/test_moving.py
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import signal
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.operator import Operators
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator, Said
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

SEED = 20261126
SUFFIXES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
BODY = base64.b64encode(json.dumps([[1, "é漢"], {}, {"callbacks": None}]).encode()).decode()
TICKETS = "celery-ops:tickets"


@pytest.fixture
def ann(tmp_path: Path, redis_server: RedisServer) -> Iterator[Operator]:
    operators = Operators([])
    yield operators.hire(tmp_path, "ann", "-b", redis_server.url())
    operators.dismiss()


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


def message(number: int, priority: int) -> bytes:
    """As kombu pushes it; every seventh is odd in some way."""
    said: dict[str, Any] = {
        "body": BODY,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": f"shop.t{number % 2}", "id": str(uuid.uuid4()),
                    "retries": number % 3, "eta": None, "argsrepr": "(1, 'é漢')",
                    "origin": "gen1@web1", "stamps": {}, "timelimit": [None, None]},
        "properties": {"correlation_id": "x", "reply_to": "", "delivery_mode": 2,
                       "delivery_info": {"exchange": "", "routing_key": "mail"},
                       "priority": priority, "body_encoding": "base64",
                       "delivery_tag": str(uuid.uuid4())},
    }  # fmt: skip
    if number % 7 == 0:
        return json.dumps(said, ensure_ascii=False, separators=(",", ": ")).encode()
    return json.dumps(said).encode()


def fill(redis: Any, count: int) -> None:
    """Messages of mixed priorities; one of each list is no text at all."""
    for start in range(0, count, 2_000):
        with redis.pipeline(transaction=False) as pipe:
            for number in range(start, start + 2_000):
                step = drawn(number, 4)
                pipe.lpush(f"mail{SUFFIXES[step]}", message(number, 3 * step))
            pipe.execute()
    for suffix in SUFFIXES:
        redis.lpush(f"mail{suffix}", b"\x00\xff no text")


def drawn(number: int, below: int) -> int:
    """By chance, and the same each time."""
    digest = hashlib.sha256(f"{SEED} {number}".encode()).digest()
    return int.from_bytes(digest[:8]) % below


def lists(redis: Any, queue: str) -> list[list[bytes]]:
    """What waits, by step, the one that is served next first."""
    return [redis.lrange(queue + suffix, 0, -1)[::-1] for suffix in SUFFIXES]


def waiting(redis: Any) -> int:
    return sum(redis.llen(f"mail{suffix}") for suffix in SUFFIXES)


def number_of(said: str, pattern: str) -> int:
    (found,) = re.findall(pattern, said)
    return int(found)


def test_what_is_purged_and_restored_is_the_same_to_the_byte_and_in_order(
    redis: Any, ann: Operator
) -> None:
    """100,000 messages: backed up, purged, restored; and restored no second time."""
    fill(redis, 100_000)
    before = lists(redis, "mail")
    copied = ann.do("queue", "backup", "mail", "--file", str(ann.home / "copy"))
    assert copied.code == 0, copied.all
    assert lists(redis, "mail") == before
    purged = ann.do("queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes")
    assert purged.code == 0, purged.all
    assert f" queue restore {ann.home / 'taken'}" in purged.out
    assert not any(lists(redis, "mail"))
    assert not [key for key in redis.keys("*") if b"parked" in key]
    messages = (ann.home / "taken").read_bytes().splitlines()[1:-1]
    assert messages == (ann.home / "copy").read_bytes().splitlines()[1:-1]
    restored = ann.do("queue", "restore", "taken", "--yes")
    assert restored.code == 0, restored.all
    assert lists(redis, "mail") == before
    again = ann.do("queue", "restore", "taken", "--yes")
    assert again.code == 7, again.all
    assert lists(redis, "mail") == before


def test_the_short_commands_say_what_they_cannot_do(redis: Any, ann: Operator) -> None:
    redis.lpush("mail", *(message(number, 0) for number in range(10)))
    before = lists(redis, "mail")
    (ann.home / "cut").write_text('{"celery_ops": "backup", "version"')
    for code, command in (
        (2, ("move", "mail")),
        (2, ("move", "mail", "--to", "other", "--filter", "task = 1")),
        (2, ("move", "mail", "--to", "other", "--limit", "some")),
        (2, ("move", "mail", "--to", "other", "-p", "queue=other")),
        (2, ("restore", "none")),
        (2, ("restore", "cut")),
        (7, ("move", "mail", "--to", "mail")),
        (7, ("purge", "empty")),
        (7, ("unpark", "mail")),
    ):
        said = ann.do("queue", *command, "--yes")
        assert said.code == code, said.all
    assert "cut off" in ann.do("queue", "restore", "cut", "--yes").err
    assert ann.do("queue", "park", "mail", "--limit", "3", "--yes").code == 0
    row, *notes = (one for one in ann.do("queues").out.splitlines() if ".parked.mail" in one)
    assert row.split()[1:4] == ["3", "0", "parked"]
    assert any("queue unpark" in note for note in notes)
    (problem,) = (one for one in ann.status()["problems"] if one["rule"] == "parked-messages")
    assert ann.do(*problem["fix"].split()[1:6], "--rate", "100/s", "--yes").code == 0
    assert lists(redis, "mail") == before


# --- killed -------------------------------------------------------------------------------------


@pytest.fixture
def deaths(request: pytest.FixtureRequest) -> int:
    return 50 if request.config.getoption("--every-death") else 6


COUNT = 40_000


@pytest.mark.parametrize("limited", [False, True], ids=["all", "limited"])
def test_a_move_that_is_killed_again_and_again_moves_each_once(
    redis: Any, ann: Operator, deaths: int, limited: bool
) -> None:
    """Of the filtered half; and to an exact limit."""
    fill(redis, COUNT)
    before = lists(redis, "mail")
    meant = [[raw for raw in raws if b'"shop.t0"' in raw] for raws in before]
    total = sum(map(len, meant))
    limit = total - 1_234
    command = ["queue", "move", "mail", "--to", "other", "--filter", "task == 'shop.t0'"]
    command += ["--limit", str(limit)] if limited else []
    killed = survive(redis, ann, [*command, "--yes"], limit if limited else total, deaths)
    assert killed >= deaths // 2
    if limited:
        left = limit
        meant = [raws[: max(0, left - sum(map(len, meant[:step])))]
                 for step, raws in enumerate(meant)]  # fmt: skip
    moved = {raw for raws in meant for raw in raws}
    assert lists(redis, "mail") == [[raw for raw in raws if raw not in moved] for raws in before]
    assert lists(redis, "other") == [[addressed(raw) for raw in raws] for raws in meant]


def test_a_restore_that_is_killed_again_and_again_puts_each_back_once(
    redis: Any, ann: Operator, deaths: int
) -> None:
    fill(redis, COUNT)
    before = lists(redis, "mail")
    purged = ann.do("queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes")
    assert purged.code == 0, purged.all
    killed = survive(redis, ann, ["queue", "restore", "taken", "--yes"], COUNT, deaths)
    assert killed >= deaths // 2
    assert lists(redis, "mail") == before


def addressed(raw: bytes) -> bytes:
    """The same message, with the other queue as its own, and every other byte as it was."""
    for colon in (b'": ', b'":'):
        old = b'"routing_key' + colon + b'"mail"'
        if old in raw:
            info = raw[raw.index(b'{"exchange') : raw.index(b"}", raw.index(b'{"exchange')) + 1]
            return raw.replace(info, b'{"exchange": "", "routing_key": "other"}')
    raise AssertionError(raw)


def survive(redis: Any, ann: Operator, command: list[str], total: int, deaths: int) -> int:
    """Run it, kill its executor at random counts, go on with it until it ends well; how often it
    was killed.
    """
    killed = 0
    said = kill_at(redis, ann, command, total, deaths)
    while said.code != 0:
        assert said.code in {4, 9}, said.all
        killed += 1
        said = kill_at(redis, ann, ["runs", "resume"], total, deaths - killed)
    return killed


def so_far(redis: Any) -> int:
    """What is counted under the tickets of the run: each that was before is forgotten."""
    return sum(int(count) for count in redis.hgetall(TICKETS).values())


def kill_at(redis: Any, ann: Operator, command: list[str], total: int, left: int) -> Said:
    """Run a command whose executor is killed once so many messages have gone."""
    before = len(pids(ann))
    running = ann.start(*command)
    if left > 0:
        done = so_far(redis)
        at = done + 1 + drawn(left, max(1, 2 * (total - done) // (left + 1)))
        while running.process.poll() is None and so_far(redis) < at:
            time.sleep(0.0002)
        found = pids(ann)[before:]
        if found and running.process.poll() is None:
            os.kill(found[-1], signal.SIGKILL)
    return running.wait()


def pids(ann: Operator) -> list[int]:
    """Of all executors, in their order."""
    texts = [path.read_text() for path in ann.journals()]
    return [int(pid) for text in texts for pid in re.findall(r'"intent":"pid (\d+) on', text)]


# --- beside everybody else ----------------------------------------------------------------------


BACKLOG = 4_000
"""While so many wait nobody sends more: each message is to run in the end."""


def test_a_filtered_half_is_moved_beside_workers_and_producers_at_full_speed(
    redis_server: RedisServer, redis: Any, ann: Operator, tmp_path: Path
) -> None:
    """Each task runs once, wherever it was when its message moved."""
    fleet = Fleet(tmp_path / "fleet", redis_server.url(), redis_server.url(1))
    numbers = itertools.count()
    lock, over = threading.Lock(), threading.Event()
    sent: list[int] = []

    def produce() -> None:
        while not over.is_set():
            with lock:
                number = next(numbers)
            while number % 100 == 0 and waiting(redis) > BACKLOG and not over.is_set():
                time.sleep(0.005)
            task = "rig.work" if number % 2 else "rig.work_late"
            fleet.send(number, task=task, queue="mail", priority=number % 10)
            sent.append(number)

    threads = [threading.Thread(target=produce) for _ in range(2)]
    moved = 0
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting(redis) > BACKLOG, what="a backlog", timeout=120)
        fleet.start("m@rig", queues=["mail"], concurrency=4)
        fleet.start("o@rig", queues=["other"], concurrency=4)
        for _ in range(2):
            said = ann.do(
                "queue", "move", "mail", "--to", "other", "--filter", "task == 'rig.work'", "--yes"
            )
            assert said.code == 0, said.all
            moved += number_of(said.out + said.err, r"ended: (\d+) messages? of mail moved")
        over.set()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(fleet.ends()) == len(sent), what="all have ended", timeout=240)
    finally:
        over.set()
        fleet.stop()
    assert moved > 500
    assert Counter(fleet.starts().values()) == {1: len(sent)}
    assert Counter(fleet.ends().values()) == {1: len(sent)}
    assert redis.llen("mail") == redis.llen("other") == 0
