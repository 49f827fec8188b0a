"""A process that moves messages on RabbitMQ is killed at any moment: none lost, none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from random import SystemRandom
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker.rabbit import raw
from tests.broker.amqp_mover import FROM, TO
from tests.broker.amqp_queues import RawClient, task
from tests.rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.broker.amqp_queues import RawMessage
    from tests.rig.rabbitmq import RabbitServer

pytestmark = pytest.mark.rig

KILLS = int(os.environ.get("CELERY_OPS_KILLS", "4"))
MESSAGES = 500 * KILLS
LONGEST_LIFE = 0.3
"""Seconds from the lease to the kill."""


class Place:
    """Two queues in a virtual host of their own."""

    def __init__(self, server: RabbitServer, url: str, **arguments: str | int) -> None:
        self._server = server
        self.url = url
        self._vhost = url.rsplit("/", 1)[1]
        with self.client() as client:
            client.declare(FROM, **arguments)
            client.declare(TO, **arguments)

    def client(self) -> RawClient:
        return RawClient(self._server.port, self._vhost)

    def both(self) -> tuple[list[RawMessage], list[RawMessage]]:
        """What waits in each."""
        with self.client() as client:
            return client.waiting(FROM), client.waiting(TO)

    def all_are_there(self, wanted: list[RawMessage]) -> bool:
        """Each once: what a killed process has held comes back within moments."""
        first, second = self.both()
        found = [*first, *second]
        assert len(found) <= len(wanted), f"{len(found) - len(wanted)} are there twice"
        return sorted(found, key=repr) == sorted(wanted, key=repr)


def killed_until_done(place: Place, what: tuple[str, ...], check: Callable[[], None]) -> None:
    """Start it again and again, and kill it, until it comes to its end."""
    kills = 0
    while True:
        argv = [sys.executable, "-m", "tests.broker.amqp_mover", place.url, *what]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            if kills < KILLS:
                time.sleep(SystemRandom().uniform(0, LONGEST_LIFE))
                child.kill()
            code = child.wait()
        if code == 0:
            return
        assert code == -signal.SIGKILL
        kills += 1
        check()


def ids(messages: list[RawMessage]) -> list[str]:
    return [raw.read_properties(one.properties)["correlation_id"] for one in messages]


@pytest.mark.parametrize(
    ("what", "queues"),
    [("all", "classic"), ("even", "classic"), ("all", "quorum")],
    ids=["all", "some", "quorum"],
)
def test_what_is_moved_is_in_one_queue_or_the_other(
    shared_rabbit: RabbitServer, rabbit: str, what: str, queues: str
) -> None:
    place = Place(shared_rabbit, rabbit, x_queue_type=queues)
    sent = [task(f"id-{number}") for number in range(MESSAGES)]
    with place.client() as client:
        client.publish(FROM, *sent)

    def check() -> None:
        if queues == "classic":  # a look would wear the others out
            wait_until(lambda: place.all_are_there(sent), what="all messages")

    killed_until_done(place, (what,), check)
    first, second = place.both()
    if queues == "quorum":
        # It sorts the headers of what it delivers once more.
        assert first == []
        assert ids(second) == ids(sent)
        return
    assert second == (sent if what == "all" else sent[::2])
    assert first == ([] if what == "all" else sent[1::2])


def test_what_is_put_is_there_once(
    shared_rabbit: RabbitServer, rabbit: str, tmp_path: Path
) -> None:
    place = Place(shared_rabbit, rabbit)
    sent = [task(f"id-{number}") for number in range(MESSAGES)]
    file = tmp_path / "raws"
    file.write_bytes(b"\n".join(raw.written(one.properties, one.body) for one in sent))

    def check() -> None:
        _, there = place.both()
        assert there == sent[: len(there)]

    killed_until_done(place, ("put", str(file)), check)
    assert place.both() == ([], sent)
