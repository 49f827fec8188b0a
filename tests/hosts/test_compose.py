"""Services of docker compose, made by a real compose in a real daemon."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.model import ServiceRef
from tests.hosts.contract import Program, Supervised, SupervisorContract
from tests.hosts.test_docker import LOOP, POLITE, start_anew
from tests.rig.dockerd import Daemons, compose_file
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.dockerd import Dockerd

pytestmark = pytest.mark.rig

SERVICES: dict[Program, dict[str, object]] = {
    Program.POLITE: {"command": POLITE},
    Program.STUBBORN: {"command": ("sh", "-c", LOOP.format("")), "stop_grace_period": "1s"},
    Program.SLOW: {"command": ("sh", "-c", LOOP.format("sleep 1; exit 0"))},
    Program.GROUP: {"command": ("tini", "-g", "--", *POLITE)},
    Program.BROKEN: {"command": ("false",), "restart": "on-failure:1"},
    Program.IDLE: {"command": POLITE},
}


def make(daemon: Dockerd) -> None:
    if shutil.which("docker-compose") is None:
        missing("docker-compose (Debian: docker-compose)")
    written = compose_file({program.value: keys for program, keys in SERVICES.items()})
    (daemon.folder / "compose.yml").write_text(json.dumps(written))
    compose(daemon, "up", "--no-start")
    compose(daemon, "start", Program.BROKEN.value)


def compose(daemon: Dockerd, *words: str) -> str:
    file = str(daemon.folder / "compose.yml")
    return daemon.run("docker-compose", "--file", file, "--project-name", "shop", *words)


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with Daemons(make) as made:
        yield made


def service(daemon: Dockerd, name: str) -> ServiceRef:
    return ServiceRef("local", "compose", f"shop/{name}", server=daemon.server)


@pytest.fixture
def supervised(daemons: Daemons) -> Supervised:
    daemon = daemons.living()
    start_anew(
        daemon,
        {one: f"shop_{one.value}_1" for one in SERVICES if one is not Program.IDLE},
    )
    pool = HostPool(only_broker("redis://unused"))
    services = {program: service(daemon, program.value) for program in Program}
    return Supervised(pool.shell("local"), pool.supervisor("compose"), services, daemon.kill)


class TestCompose(SupervisorContract):
    """The contract of all supervisors."""

    gives_up = "docker gave up"
    strange = r"a\x20b/c"
