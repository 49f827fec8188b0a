"""Messages are moved, purged and restored by the real command on a real RabbitMQ; compared raw.

Of a classic queue with priorities, and of a quorum queue, which has none before RabbitMQ 4. Twice
an executor is killed in the midst of each; with `--every-death` fifty times:

    python -m pytest -n 0 --every-death tests/promises/test_moving_on_rabbitmq.py
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import signal
import threading
import time
from collections import Counter
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import pytest

from tests.broker.amqp_queues import (
    RawClient,
    RawMessage,
    header,
    properties,
    task,
    without_count,
)
from tests.rig import wait_until
from tests.rig.operator import Operators
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.rig.operator import Operator, Said
    from tests.rig.rabbitmq import RabbitServer
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

AT_ONCE = 5_000
TOP_PRIORITY = 9
ARGUMENTS: dict[str, dict[str, str | int]] = {
    "classic": {"x_max_priority": TOP_PRIORITY},
    "quorum": {"x_queue_type": "quorum"},
}
BACKLOG = 1_500
"""So many messages wait beside workers and producers at full speed."""
A_TASK = 0.003
"""Seconds: so that producers keep up with workers."""
LONGEST_LIFE = 0.7
"""Seconds from an executor's begin to its kill, where that is by chance."""


@pytest.fixture
def deaths(request: pytest.FixtureRequest) -> int:
    return 50 if request.config.getoption("--every-death") else 2


@pytest.fixture
def vhost(rabbit: str) -> str:
    return rabbit.rsplit("/", 1)[1]


@pytest.fixture
def ann(tmp_path: Path, rabbit: str) -> Iterator[Operator]:
    operators = Operators([])
    yield operators.hire(tmp_path, "ann", "-b", rabbit)
    operators.dismiss()


class Queues:
    """Two queues of one kind, seen by a client of their own."""

    def __init__(
        self,
        server: RabbitServer,
        vhost: str,
        kind: str = "classic",
        *,
        declared: Sequence[str] = ("mail", "other"),
    ) -> None:
        self._server = server
        self._vhost = vhost
        self.is_classic = kind == "classic"
        self._watching = self.client()
        for queue in declared:
            self._watching.declare(queue, **ARGUMENTS[kind])

    def close(self) -> None:
        self._watching.close()

    def client(self) -> RawClient:
        return RawClient(self._server.port, self._vhost)

    def fill(self, count: int) -> list[RawMessage]:
        """Messages of mixed priorities, the one that is served first first."""
        priorities = [3, *(number * 7 % 11 for number in range(1, count))]
        odd = RawMessage(properties(headers=header("n", "l", bytes(8)), priority=3), b"\x00\xff")
        names = ("shop.t0", "shop.t1")
        messages = [odd] + [
            task(
                f"id-{number}",
                names[number % 2],
                priority=priorities[number],
                ordered=not self.is_classic,
            )
            for number in range(1, count)
        ]
        with self.client() as client:
            for start in range(0, count, AT_ONCE):
                client.publish("mail", *messages[start : start + AT_ONCE])
        wait_until(lambda: self.count("mail") == count, what="all are there")
        if not self.is_classic:
            return messages
        order = sorted(range(count), key=lambda at: -min(priorities[at], TOP_PRIORITY))
        return [messages[at] for at in order]

    def count(self, queue: str) -> int:
        return self._watching.count(queue)

    def all_taken(self, queue: str) -> list[RawMessage]:
        """What waits there, which is gone by that."""
        return self._watching.taken(queue)

    def check(self, queue: str, wanted: list[RawMessage]) -> None:
        """They are what waits there, to the byte and in order, and gone by that."""
        found = [without_count(one) for one in self.all_taken(queue)]
        assert len(found) == len(wanted)
        assert found == wanted


@pytest.fixture(params=["classic", "quorum"])
def queues(
    request: pytest.FixtureRequest, shared_rabbit: RabbitServer, vhost: str
) -> Iterator[Queues]:
    made = Queues(shared_rabbit, vhost, request.param)
    yield made
    made.close()


def test_what_is_purged_and_restored_is_the_same_to_the_byte_and_in_order(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    """5,000 messages, or 100,000: backed up, purged, restored; and restored no second time."""
    before = queues.fill(100_000 if deaths > 2 else 5_000)
    if queues.is_classic:
        copied = ann.do("queue", "backup", "mail", "--file", str(ann.home / "copy"))
        assert copied.code == 0, copied.all
        assert queues.count("mail") == len(before)
    purged = ann.do("queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes")
    assert purged.code == 0, purged.all
    assert queues.count("mail") == 0
    if queues.is_classic:
        assert raws(ann.home / "taken") == raws(ann.home / "copy")
    for code in (0, 7):
        restored = ann.do("queue", "restore", "taken", "--yes")
        assert restored.code == code, restored.all
        assert queues.count("mail") == len(before)
    queues.check("mail", before)


def raws(file: Path) -> list[bytes]:
    """Of a backup, without the priority at which each waited: where it is parked there is none."""
    return [line.partition(b'"raw"')[2] for line in file.read_bytes().splitlines()[1:-1]]


def test_a_move_that_is_killed_again_and_again_moves_each_once(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    """Of the half that a filter chooses; of a quorum queue that is refused, and all go."""
    before = queues.fill(1_200 * deaths)
    command = ["queue", "move", "mail", "--to", "other", "--yes"]
    moved, stayed = before, []
    if queues.is_classic:
        command += ["--filter", "task == 'shop.t0'"]
        moved = [one for one in before if b"shop.t0" in one.properties]
        stayed = [one for one in before if b"shop.t0" not in one.properties]
    survive(ann, command, deaths, lambda: queues.count("other"), len(moved))
    queues.check("other", moved)
    queues.check("mail", stayed)


def test_a_purge_and_a_restore_that_are_killed_again_and_again_lose_and_double_none(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    before = queues.fill(1_200 * deaths)
    total = len(before)
    command = ["queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes"]
    survive(ann, command, deaths, lambda: total - queues.count("mail"), total)
    assert queues.count("mail") == 0
    command = ["queue", "restore", "taken", "--yes"]
    survive(ann, command, deaths, lambda: queues.count("mail"), total)
    queues.check("mail", before)


def survive(
    ann: Operator, command: list[str], deaths: int, done: Callable[[], int], total: int
) -> None:
    """Run it, kill its executor again and again, and go on with it until it ends well.

    Each kill is at a random count of what is `done` of the `total`, or, every other time, at a
    random moment before that.
    """
    killed = 0
    said = kill(ann, command, done, total // (deaths + 1))
    while said.code != 0:
        assert said.code in {4, 9}, said.all
        killed += 1
        if killed == deaths:
            said = ann.do("runs", "resume")
            break
        before = (killed + 1) * total // (deaths + 1)
        said = kill(ann, ["runs", "resume"], done, before, at_any_moment=killed % 2 == 1)
    assert said.code == 0, said.all
    assert killed >= deaths // 2


def kill(
    ann: Operator,
    command: list[str],
    done: Callable[[], int],
    before: int,
    *,
    at_any_moment: bool = False,
) -> Said:
    """Run a command whose executor is killed once more is done, at the latest when so much is."""
    others = len(pids(ann))
    running = ann.start(*command)
    chance, at_first = SystemRandom(), done()
    at = chance.randint(at_first + 1, max(at_first + 1, before))
    life = chance.uniform(0, LONGEST_LIFE) if at_any_moment else math.inf
    while running.process.poll() is None and not pids(ann)[others:]:
        time.sleep(0.005)
    until = time.monotonic() + life
    while running.process.poll() is None and done() < at and time.monotonic() < until:
        time.sleep(0.001)
    found = pids(ann)[others:]
    if found and running.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(found[-1], signal.SIGKILL)
    return running.wait()


def pids(ann: Operator) -> list[int]:
    """Of all executors, in their order."""
    texts = [path.read_text() for path in ann.journals()]
    return [int(pid) for text in texts for pid in re.findall(r'"intent":"pid (\d+) on', text)]


# --- beside everybody else ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_half_of_a_queue_is_moved_beside_workers_and_producers_at_full_speed(
    kind: str, rabbit: str, redis_server: RedisServer, ann: Operator, tmp_path: Path
) -> None:
    """Each task runs once, wherever it was when its message moved: by a filter, and of a quorum
    queue, which has none, by a limit.
    """
    arguments = {name.replace("_", "-"): value for name, value in ARGUMENTS[kind].items()}
    conf = {"task_queues": {name: {"queue_arguments": arguments} for name in ("mail", "other")}}
    fleet = Fleet(tmp_path / "fleet", rabbit, redis_server.url(1), conf)
    numbers = itertools.count()
    lock, over = threading.Lock(), threading.Event()
    sent: list[int] = []
    counts: Any = redis_server.client(1)

    def produce() -> None:
        """As fast as it can, but for what workers cannot end within the test's time."""
        while not over.is_set():
            if len(sent) - counts.hlen("end") > BACKLOG:
                time.sleep(0.01)
                continue
            with lock:
                number = next(numbers)
            task = "rig.work" if number % 2 else "rig.work_late"
            fleet.send(number, A_TASK, task=task, queue="mail", priority=number % 10)
            sent.append(number)

    threads = [threading.Thread(target=produce) for _ in range(2)]
    try:
        fleet.start("o@rig", queues=["other"], concurrency=2)
        for thread in threads:
            thread.start()
        wait_until(lambda: len(sent) > BACKLOG, what="a backlog", timeout=120)
        fleet.start("m@rig", queues=["mail"], concurrency=2)
        chosen = ["--filter", "task == 'rig.work'"] if kind == "classic" else ["--limit", "500"]
        said = ann.do("queue", "move", "mail", "--to", "other", *chosen, "--yes")
        over.set()
        assert said.code == 0, said.all
        (moved,) = map(int, re.findall(r"ended: (\d+) messages? of mail moved", said.all))
        for thread in threads:
            thread.join()
        wait_until(lambda: len(fleet.ends()) == len(sent), what="all have ended", timeout=240)
    finally:
        over.set()
        fleet.stop()
    assert moved > 100
    assert Counter(fleet.starts().values()) == {1: len(sent)}
    assert Counter(fleet.ends().values()) == {1: len(sent)}
