"""Messages are moved, purged and restored by the real command on a real RabbitMQ; compared raw.

Three times an executor is killed at a random count of messages, of a move and of a restore; with
`--every-death` fifty times:

    python -m pytest -n 0 --every-death tests/promises/test_moving_on_rabbitmq.py
"""

from __future__ import annotations

import os
import re
import signal
import time
from random import SystemRandom
from typing import TYPE_CHECKING

import pytest

from tests.broker.amqp_queues import RawClient, RawMessage, header, properties, task
from tests.rig.operator import Operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.rig.operator import Operator, Said
    from tests.rig.rabbitmq import RabbitServer

pytestmark = pytest.mark.rig

AT_ONCE = 5_000


@pytest.fixture
def deaths(request: pytest.FixtureRequest) -> int:
    return 50 if request.config.getoption("--every-death") else 3


@pytest.fixture
def vhost(rabbit: str) -> str:
    return rabbit.rsplit("/", 1)[1]


@pytest.fixture
def ann(tmp_path: Path, rabbit: str) -> Iterator[Operator]:
    operators = Operators([])
    yield operators.hire(tmp_path, "ann", "-b", rabbit)
    operators.dismiss()


class Queues:
    """Two queues with priorities, seen by a client of their own."""

    def __init__(
        self, server: RabbitServer, vhost: str, *, declared: Sequence[str] = ("mail", "other")
    ) -> None:
        self._server = server
        self._vhost = vhost
        with self.client() as client:
            for queue in declared:
                client.declare(queue, x_max_priority=9)

    def client(self) -> RawClient:
        return RawClient(self._server.port, self._vhost)

    def fill(self, count: int) -> list[RawMessage]:
        """Messages of mixed priorities, the one that is served first first."""
        odd = RawMessage(properties(headers=header("n", "l", bytes(8)), priority=3), b"\x00\xff")
        names = ("shop.t0", "shop.t1")
        messages = [odd] + [
            task(f"id-{number}", names[number % 2], priority=number * 7 % 11)
            for number in range(1, count)
        ]
        with self.client() as client:
            for start in range(0, count, AT_ONCE):
                client.publish("mail", *messages[start : start + AT_ONCE])
        return self.waiting("mail")

    def waiting(self, queue: str) -> list[RawMessage]:
        with self.client() as client:
            return client.waiting(queue)


@pytest.fixture
def queues(shared_rabbit: RabbitServer, vhost: str) -> Queues:
    return Queues(shared_rabbit, vhost)


def test_what_is_purged_and_restored_is_the_same_to_the_byte_and_in_order(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    """5,000 messages, or 100,000: backed up, purged, restored; and restored no second time."""
    before = queues.fill(100_000 if deaths > 3 else 5_000)
    copied = ann.do("queue", "backup", "mail", "--file", str(ann.home / "copy"))
    assert copied.code == 0, copied.all
    assert queues.waiting("mail") == before
    purged = ann.do("queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes")
    assert purged.code == 0, purged.all
    assert queues.waiting("mail") == []
    taken = (ann.home / "taken").read_bytes().splitlines()[1:-1]
    copy = (ann.home / "copy").read_bytes().splitlines()[1:-1]
    assert raws(taken) == raws(copy)
    for code in (0, 7):
        restored = ann.do("queue", "restore", "taken", "--yes")
        assert restored.code == code, restored.all
        assert queues.waiting("mail") == before


def test_a_move_that_is_killed_again_and_again_moves_each_once(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    before = queues.fill(2_000 * deaths)
    command = ["queue", "move", "mail", "--to", "other", "--filter", "task == 'shop.t0'", "--yes"]
    survive(queues, ["other"], ann, command, total=1_000 * deaths, deaths=deaths)
    moved = [one for one in before if b"shop.t0" in one.properties]
    assert queues.waiting("other") == moved
    assert queues.waiting("mail") == [one for one in before if b"shop.t0" not in one.properties]


def test_a_restore_that_is_killed_again_and_again_puts_each_back_once(
    queues: Queues, ann: Operator, deaths: int
) -> None:
    before = queues.fill(2_000 * deaths)
    purged = ann.do("queue", "purge", "mail", "--file", str(ann.home / "taken"), "--yes")
    assert purged.code == 0, purged.all
    command = ["queue", "restore", "taken", "--yes"]
    survive(queues, ["mail"], ann, command, total=2_000 * deaths, deaths=deaths)
    assert queues.waiting("mail") == before


def raws(lines: list[bytes]) -> list[bytes]:
    """Without the priority at which each waited: where it is parked there is none."""
    return [line.partition(b'"raw"')[2] for line in lines]


def survive(
    queues: Queues, to: list[str], ann: Operator, command: list[str], *, total: int, deaths: int
) -> None:
    """Run it, kill its executor at random counts of what is in `to`, go on with it until it ends
    well.
    """
    said = kill(queues, to, ann, command, before=total // (deaths + 1))
    killed = 0
    while said.code != 0:
        assert said.code in {4, 9}, said.all
        killed += 1
        before = (killed + 1) * total // (deaths + 1) if killed < deaths else total + 1
        said = kill(queues, to, ann, ["runs", "resume"], before=before)
    assert killed >= deaths // 2


def kill(queues: Queues, to: list[str], ann: Operator, command: list[str], *, before: int) -> Said:
    """Run a command whose executor is killed once more messages are there, at the latest when so
    many are.
    """
    others = len(pids(ann))
    running = ann.start(*command)
    with queues.client() as client:
        there = sum(map(client.count, to)) + 1
        at = SystemRandom().randint(there, max(there, before))
        while running.process.poll() is None and sum(map(client.count, to)) < at:
            time.sleep(0.001)
    found = pids(ann)[others:]
    if found and running.process.poll() is None:
        os.kill(found[-1], signal.SIGKILL)
    return running.wait()


def pids(ann: Operator) -> list[int]:
    """Of all executors, in their order."""
    texts = [path.read_text() for path in ann.journals()]
    return [int(pid) for text in texts for pid in re.findall(r'"intent":"pid (\d+) on', text)]
