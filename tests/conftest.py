"""Real parts that tests in several directories use, the order in which modules are begun, and how
many examples hypothesis tries: `HYPOTHESIS_PROFILE=thorough` is for a long night.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.rig.rabbitmq import RabbitServer
from tests.rig.redis import RedisServer, make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.redis import Certificates

settings.register_profile("default", max_examples=200, deadline=None)
settings.register_profile("thorough", max_examples=100_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


LONGEST = (
    "promises/test_host_faults.py",
    "runbook/test_resume.py",
    "promises/test_faults_in_a_run.py",
    "demo/test_settle.py",
    "promises/test_rolling_restart.py",
    "promises/test_moving.py",
    "promises/test_rollback_broken.py",
    "cli/test_real_runs.py",
    "promises/test_rollback.py",
    "runbook/test_abort.py",
    "promises/test_multi_rolling_restart.py",
    "promises/test_hosts_rolling_restart.py",
    "promises/test_orphans.py",
    "promises/test_tasks.py",
    "promises/test_probe.py",
    "promises/test_older_celeries.py",
)
"""Modules that take two minutes or more. Hosts are first: they need a file system that the first
test with one makes, and others wait for; so no others of these are among the first.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process is given a module at a time (`--dist loadfile`): those first that take long, then
    the other promises. What is begun last is then over soon, and no process waits for another.
    """

    def rank(item: pytest.Item) -> int:
        name = item.nodeid.partition("::")[0].partition("tests/")[2]
        if name in LONGEST:
            return LONGEST.index(name)
        return len(LONGEST) + (not name.startswith("promises/"))

    items.sort(key=rank)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-death",
        action="store_true",
        help="Kill executors at every point on the real rig, not only at some of them.",
    )


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that neither stop nor configure it; see `redis_server`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """An empty Redis that runs."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """An empty Redis that the test may stop, kill and fill."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_rabbit(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RabbitServer]:
    """One RabbitMQ for all tests that neither stop nor configure it; see `rabbit`."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"), certificates=certificates)
    yield server
    server.stop()


@pytest.fixture
def rabbit(shared_rabbit: RabbitServer) -> Iterator[str]:
    """The URL of an empty virtual host on a RabbitMQ that runs."""
    name = f"test-{uuid.uuid4().hex}"
    yield shared_rabbit.new_vhost(name)
    shared_rabbit.remove_vhost(name)


@pytest.fixture
def own_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ that the test may stop, kill and fill."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
