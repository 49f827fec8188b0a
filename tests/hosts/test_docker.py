"""Docker, a real daemon with real containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.model import ServiceRef
from tests.hosts.contract import Program, Supervised, SupervisorContract
from tests.rig.dockerd import Daemons

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.rig.dockerd import Dockerd

pytestmark = pytest.mark.rig

LOOP = 'trap "{}" TERM; while :; do sleep 0.05; done'
POLITE = ("sh", "-c", LOOP.format("exit 0"))
CONTAINERS: dict[Program, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Program.POLITE: ((), POLITE),
    Program.STUBBORN: (("--stop-timeout=1",), ("sh", "-c", LOOP.format(""))),
    Program.SLOW: ((), ("sh", "-c", LOOP.format("sleep 1; exit 0"))),
    Program.GROUP: ((), ("tini", "-g", "--", *POLITE)),
    Program.BROKEN: (("--restart=on-failure:1",), ("false",)),
}


def start_anew(daemon: Dockerd, names: Mapping[Program, str]) -> None:
    """New lives for all that run, and are not given up."""
    lives = [name for program, name in names.items() if program is not Program.BROKEN]
    daemon.do("kill", *lives, check=False)
    daemon.do("start", *lives)


def make(daemon: Dockerd) -> None:
    for program, (options, command) in CONTAINERS.items():
        daemon.make(program.value, *options, command=command)
    daemon.make(Program.IDLE.value, command=POLITE)
    daemon.do("start", Program.BROKEN.value)


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with Daemons(make) as made:
        yield made


@pytest.fixture
def supervised(daemons: Daemons) -> Supervised:
    daemon = daemons.living()
    start_anew(daemon, {program: program.value for program in CONTAINERS})
    pool = HostPool(only_broker("redis://unused"))
    services = {
        program: ServiceRef("local", "docker", program.value, server=daemon.server)
        for program in Program
    }
    return Supervised(pool.shell("local"), pool.supervisor("docker"), services, daemon.kill)


class TestDocker(SupervisorContract):
    """The contract of all supervisors."""

    gives_up = "docker gave up"
