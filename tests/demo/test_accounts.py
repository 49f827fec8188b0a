"""The books, on a real Redis without a fleet: what counts as what, at every point of a crash."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from celery_ops import demo as demos
from celery_ops.config.secret import Secret
from celery_ops.demo import attempts as books
from celery_ops.demo import layout as files
from celery_ops.demo import registry
from celery_ops.demo.attempts import Attempts
from celery_ops.demo.processes import identify
from celery_ops.demo.servers import redis_server
from celery_ops.errors import BrokerUnreachable
from tests.demo.conftest import ROOT, addresses, eventually, require_servers

KILLED_WHILE_IT_WORKS = """
import os, sys
from pathlib import Path
from celery_ops.demo.attempts import Attempts
from celery_ops.demo.layout import Addresses, Layout
with Attempts(Addresses.read(Layout(Path(sys.argv[1]))).ledger).run(sys.argv[2]):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demos.Demo]:
    """A demo's Redis and its directory; nothing else runs. This process stands for its keeper."""
    require_servers()
    layout = files.Layout(tmp_path_factory.mktemp("demo"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files.write(layout, "demo-0001", files.Addresses(port, Secret("a-password")))
    me = identify(os.getpid())
    assert me is not None
    demo = demos.Demo("demo-0001", layout.directory, layout.config, me, None, registry.now())
    with subprocess.Popen([redis_server(), layout.redis_config]) as redis:
        try:
            eventually(lambda: answers(demo), "Redis answers")
            yield demo
        finally:
            redis.kill()


@pytest.fixture
def demo(server: demos.Demo) -> demos.Demo:
    """With empty books and an empty broker."""
    with broker(server) as redis:
        redis.flushall()
    return server


@pytest.fixture
def attempts(demo: demos.Demo) -> Iterator[Attempts]:
    with Attempts(addresses(demo).ledger) as attempts:
        yield attempts


def broker(demo: demos.Demo) -> Redis:
    return Redis.from_url(addresses(demo).broker.reveal())


def answers(demo: demos.Demo) -> bool:
    with broker(demo) as redis:
        try:
            return bool(redis.ping())
        except RedisError:
            return False


def settled(demo: demos.Demo) -> None:
    with Redis.from_url(addresses(demo).ledger.reveal()) as redis:
        redis.set(books.SETTLED, 1)


def message(task_id: str, retries: int = 0) -> str:
    headers = {"task": "shop.send_mail", "id": task_id, "retries": retries}
    return json.dumps({"body": "W10=", "headers": headers, "properties": {}})


def killed_while_running(demo: demos.Demo, attempt: str) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_IT_WORKS, str(demo.directory), attempt]
    ended = subprocess.run(command, check=False, cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGKILL


async def test_an_attempt_is_waiting_then_running_then_done(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.announce("a/0")
    attempts.confirm("a/0")
    ledger = await demos.ledger(demo)
    assert (ledger.sent, ledger.waiting, ledger.running, ledger.done) == (1, 1, 0, 0)
    with attempts.run("a/0"):
        ledger = await demos.ledger(demo)
        assert (ledger.sent, ledger.waiting, ledger.running, ledger.done) == (1, 0, 1, 0)
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 1, "done": 1, "running": 0, "lost": 0, "twice": 0}


async def test_a_server_that_does_not_answer_for_a_while_costs_no_entry(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.confirm("a/0")
    with broker(demo) as redis:
        redis.client_pause(6000, all=True)  # longer than the timeout that redis-py has by default
    with Attempts(addresses(demo).ledger) as newly_connected, newly_connected.run("a/0"):
        pass
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 1, "done": 1, "running": 0, "lost": 0, "twice": 0}


async def test_a_publisher_killed_before_it_published_has_lost_nothing(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.announce("a/0")
    settled(demo)
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 0, "done": 0, "running": 0, "lost": 0, "twice": 0}
    assert ledger.unconfirmed == 1


async def test_a_publisher_killed_after_it_published_has_sent_once(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.announce("a/0")
    with attempts.run("a/0"):
        pass
    ledger = await demos.ledger(demo)
    assert (ledger.sent, ledger.done, ledger.unconfirmed) == (1, 1, 0)


@pytest.mark.parametrize("moment", ["while it runs", "after it ended"])
async def test_a_worker_faster_than_the_confirmation_is_counted_once(
    demo: demos.Demo, attempts: Attempts, moment: str
) -> None:
    attempts.announce("a/0")
    with attempts.run("a/0"):
        if moment == "while it runs":
            attempts.confirm("a/0")
    attempts.confirm("a/0")
    ledger = await demos.ledger(demo)
    assert (ledger.sent, ledger.done, ledger.waiting, ledger.unconfirmed) == (1, 1, 0, 0)


async def test_a_failed_attempt_has_ended_and_its_retry_is_another(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.announce("a/1")
    attempts.confirm("a/1")
    with pytest.raises(LookupError), attempts.run("a/0"):
        raise LookupError
    with attempts.run("a/1"):
        pass
    assert (await demos.ledger(demo)).as_json() == {
        "sent": 2,
        "done": 2,
        "running": 0,
        "lost": 0,
        "twice": 0,
    }


async def test_an_attempt_whose_process_was_killed_is_lost(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.confirm("a/0")
    killed_while_running(demo, "a/0")
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 1, "done": 0, "running": 0, "lost": 1, "twice": 0}


@pytest.mark.parametrize("where", ["in its queue", "in a priority step", "parked", "unacked"])
async def test_an_attempt_that_the_broker_still_has_is_not_lost(
    demo: demos.Demo, attempts: Attempts, where: str
) -> None:
    attempts.confirm("a/0")
    killed_while_running(demo, "a/0")
    with broker(demo) as redis:
        match where:
            case "in its queue":
                redis.lpush("mail", message("a"))
            case "in a priority step":
                redis.lpush("mail\x06\x163", message("a"))
            case "parked":
                redis.lpush("somewhere:else", message("a"))
            case _:
                redis.hset("unacked", "tag", f'[{message("a")}, "", "mail"]')
    ledger = await demos.ledger(demo)
    assert (ledger.lost, ledger.waiting) == (0, 1)
    settled(demo)
    assert (await demos.ledger(demo)).lost == 0


async def test_another_retry_in_the_broker_does_not_hide_a_lost_one(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.confirm("a/0")
    killed_while_running(demo, "a/0")
    with broker(demo) as redis:
        redis.lpush("mail", message("a", retries=1))
    assert (await demos.ledger(demo)).lost == 1


async def test_a_lost_attempt_that_is_run_again_is_done_and_twice(
    demo: demos.Demo, attempts: Attempts
) -> None:
    killed_while_running(demo, "a/0")
    with attempts.run("a/0"):
        assert (await demos.ledger(demo)).lost == 0
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 1, "done": 1, "running": 0, "lost": 0, "twice": 1}


async def test_an_attempt_run_three_times_counts_as_twice_once(
    demo: demos.Demo, attempts: Attempts
) -> None:
    with attempts.run("a/0"), attempts.run("a/0"), attempts.run("a/0"):
        pass
    ledger = await demos.ledger(demo)
    assert ledger.as_json() == {"sent": 1, "done": 1, "running": 0, "lost": 0, "twice": 1}


async def test_what_was_purged_is_told_lost_only_after_the_demo_settled(
    demo: demos.Demo, attempts: Attempts
) -> None:
    attempts.confirm("a/0")
    before = await demos.ledger(demo)
    assert (before.lost, before.waiting, before.settled) == (0, 1, False)
    settled(demo)
    after = await demos.ledger(demo)
    assert (after.lost, after.waiting, after.settled) == (1, 0, True)


async def test_a_new_task_ends_the_settled_state(demo: demos.Demo, attempts: Attempts) -> None:
    settled(demo)
    attempts.confirm("a/0")
    ledger = await demos.ledger(demo)
    assert (ledger.lost, ledger.waiting, ledger.settled) == (0, 1, False)


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff\x00",
        b"null",
        b"[]",
        b'{"headers": 1}',
        b'{"headers": {"task": [], "id": {}}}',
        b"9" * 9,
    ],
)
async def test_junk_in_the_broker_is_neither_a_task_nor_an_error(
    demo: demos.Demo, attempts: Attempts, junk: bytes
) -> None:
    attempts.confirm("a/0")
    killed_while_running(demo, "a/0")
    with broker(demo) as redis:
        redis.lpush("mail", junk)
        redis.hset("unacked", "tag", junk.decode("latin-1"))
    assert (await demos.ledger(demo)).lost == 1


async def test_a_demo_that_is_gone_is_said_to_have_ended(demo: demos.Demo, tmp_path: Path) -> None:
    gone = demos.Demo("demo-0002", tmp_path, tmp_path, demo.keeper, None, demo.started_at)
    with pytest.raises(BrokerUnreachable, match="demo-0002 has ended"):
        await demos.ledger(gone)


async def test_a_redis_that_does_not_answer_is_named_without_its_password(
    demo: demos.Demo, tmp_path: Path
) -> None:
    (tmp_path / "addresses.json").write_text('{"port": 1, "password": "a-password"}')
    deaf = demos.Demo("demo-0002", tmp_path, tmp_path, demo.keeper, None, demo.started_at)
    with pytest.raises(BrokerUnreachable, match="demo-0002 does not answer") as caught:
        await demos.ledger(deaf)
    assert "a-password" not in str(caught.value)
