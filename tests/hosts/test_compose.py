"""Services of docker compose, made by a real compose in a real daemon."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.errors import CommandFailed
from celery_ops.hosts import HostPool
from celery_ops.hosts.compose import Compose
from celery_ops.hosts.local import LocalShell
from celery_ops.model import ServiceRef, ServiceState
from tests.hosts.contract import DaemonContract, Program, Supervised
from tests.hosts.streaming import why_none
from tests.hosts.test_docker import LOOP, POLITE, revive
from tests.rig.dockerd import Daemons, compose_file, dockerd
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery_ops.model import ServiceStatus
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


def container(daemon: Dockerd, program: Program) -> str:
    """What compose called it: each generation has its own way."""
    label = f"label=com.docker.compose.service={program.value}"
    return daemon.do("ps", "--all", "--filter", label, "--format", "{{.Names}}").strip()


@pytest.fixture
def supervised(daemons: Daemons) -> Supervised:
    daemon = daemons.living()
    names: dict[Program, str] = {
        one: container(daemon, one) for one in SERVICES if one is not Program.IDLE
    }
    revive(daemon, names)
    pool = HostPool(only_broker("redis://unused"))
    services = {program: service(daemon, program.value) for program in Program}
    return Supervised(pool.shell("local"), pool.supervisor("compose"), services, daemon.kill)


class TestCompose(DaemonContract):
    """The contract of all supervisors."""

    gives_up = "docker gave up"
    strange = r"a\x20b/c"


PLUGIN = """#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{"SchemaVersion": "0.1.0", "Vendor": "rig", "Version": "2"}'
    exit
fi
echo "$@" >> "$0.asked"
shift
exec docker-compose "$@"
"""
"""`docker compose`, as docker finds and runs it; what it is asked, the first generation does."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Dockerd]:
    if shutil.which("docker-compose") is None:
        missing("docker-compose (Debian: docker-compose)")
    with dockerd() as started:
        file = started.folder / "compose.yml"
        file.write_text(json.dumps(compose_file({"worker": {"command": POLITE}})))
        yield started


async def told(daemon: Dockerd, *names: str) -> list[ServiceStatus]:
    services = [ServiceRef("local", "compose", name, server=daemon.server) for name in names]
    completed = await LocalShell().run(Compose().status(services), timeout=20)
    read = Compose().read_status(services, completed)
    return [read[one] for one in services]


async def start(one: ServiceRef, adapter: Compose) -> None:
    adapter.read_effect(one, await LocalShell().run(adapter.start(one), timeout=60))


@pytest.mark.parametrize("generation", [1, 2])
async def test_a_container_that_is_gone_is_made_where_the_files_are_known(
    daemon: Dockerd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, generation: int
) -> None:
    if generation == 2:
        plugin = tmp_path / "cli-plugins" / "docker-compose"
        plugin.parent.mkdir()
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    name = f"made{generation}/worker"
    one = ServiceRef("local", "compose", name, server=daemon.server)
    with pytest.raises(CommandFailed, match="no container of compose's") as caught:
        await start(one, Compose())
    assert f"docker compose -p made{generation} up -d worker" in (caught.value.fix or "")
    await start(one, Compose(files={one: (f"{daemon.folder}/compose.yml",)}))
    [found] = await told(daemon, name)
    assert (found.state, found.inner_pid) == (ServiceState.RUNNING, 1)
    asked = tmp_path / "cli-plugins" / "docker-compose.asked"
    assert asked.exists() == (generation == 2)


async def test_a_start_leaves_the_image_as_it_is_when_the_file_has_changed(
    daemon: Dockerd,
) -> None:
    file = daemon.folder / "changing.yml"
    changing = ("docker-compose", "--file", str(file), "--project-name", "changing")
    file.write_text(json.dumps(compose_file({"worker": {"command": POLITE}})))
    daemon.run(*changing, "run", "--detach", "worker")  # of its own: no part of the service
    daemon.run(*changing, "up", "--detach")
    [before] = await told(daemon, "changing/worker")
    daemon.run(*changing, "stop", "--timeout", "1")
    file.write_text(json.dumps(compose_file({"worker": {"command": ["false"]}})))
    one = ServiceRef("local", "compose", "changing/worker", server=daemon.server)
    await start(one, Compose(files={one: (str(file),)}))
    [after] = await told(daemon, "changing/worker")
    assert after.state is ServiceState.RUNNING
    assert after.identity != before.identity
    assert (after.identity or "").partition(":")[0] == (before.identity or "").partition(":")[0]


async def test_replicas_are_named_by_their_numbers(daemon: Dockerd) -> None:
    file = str(daemon.folder / "compose.yml")
    twins = ("docker-compose", "--file", file, "--project-name", "twins")
    daemon.run(*twins, "up", "--detach", "--scale", "worker=2")
    both, first, second, third = await told(
        daemon, "twins/worker", "twins/worker/1", "twins/worker/2", "twins/worker/3"
    )
    assert (both.state, third.state) == (ServiceState.UNKNOWN, ServiceState.UNKNOWN)
    assert "Write an entry for each: twins/worker/1" in both.says
    assert first.pid != second.pid
    several = ServiceRef("local", "compose", "twins/worker", server=daemon.server)
    for command in (Compose().start(several), Compose().stop(several, expect=None)):
        completed = await LocalShell().run(command, timeout=20)
        with pytest.raises(CommandFailed, match="is several containers"):
            Compose().read_effect(several, completed)
    error = await why_none(LocalShell(), Compose(), several)
    assert "is several containers" in error.says


def test_a_name_without_a_project_is_refused() -> None:
    with pytest.raises(CommandFailed, match="is not a service of compose") as caught:
        Compose().status([ServiceRef("local", "compose", "worker")])
    assert "project/service" in (caught.value.fix or "")
