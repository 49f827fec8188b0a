"""Docker, a real daemon with real containers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.errors import CommandFailed
from celery_ops.hosts import HostPool
from celery_ops.hosts.docker import Docker
from celery_ops.hosts.local import LocalShell
from celery_ops.model import ServiceRef, ServiceState
from tests.hosts.contract import DaemonContract, Program, Supervised
from tests.hosts.streaming import why_none
from tests.rig import wait_until
from tests.rig.dockerd import Daemons, dockerd
from tests.rig.sshd import sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery_ops.model import ServiceStatus
    from tests.rig.dockerd import Dockerd

pytestmark = pytest.mark.rig

DOCKER = Docker()
LOOP = 'trap "{}" TERM; while :; do sleep 0.05; done'
POLITE = ("sh", "-c", LOOP.format("exit 0"))
CONTAINERS: dict[Program, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Program.POLITE: ((), POLITE),
    Program.STUBBORN: (("--stop-timeout=1",), ("sh", "-c", LOOP.format(""))),
    Program.SLOW: ((), ("sh", "-c", LOOP.format("sleep 1; exit 0"))),
    Program.GROUP: ((), ("tini", "-g", "--", *POLITE)),
    Program.BROKEN: (("--restart=on-failure:1",), ("false",)),
}


def revive(daemon: Dockerd, names: Mapping[Program, str]) -> None:
    """All that should run do, and none of them is being stopped."""
    lives = [name for program, name in names.items() if program is not Program.BROKEN]
    daemon.do("kill", names[Program.SLOW], check=False)
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


def service(daemon: Dockerd, name: str) -> ServiceRef:
    return ServiceRef("local", "docker", name, server=daemon.server)


@pytest.fixture
def supervised(daemons: Daemons) -> Supervised:
    daemon = daemons.living()
    revive(daemon, {program: program.value for program in CONTAINERS})
    pool = HostPool(only_broker("redis://unused"))
    services = {program: service(daemon, program.value) for program in Program}
    return Supervised(pool.shell("local"), pool.supervisor("docker"), services, daemon.kill)


class TestDocker(DaemonContract):
    """The contract of all supervisors."""

    gives_up = "docker gave up"


WORKER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("a life begins", flush=True)
while True:
    signal.pause()
"""
"""It bears Celery's name, and ends as a worker does."""
CELERY = (sys.executable, "/rig/celery", "-A", "p", "worker", "-n", "w1@%h")


@pytest.fixture(scope="module")
def workers() -> Iterator[Dockerd]:
    """Workers as images start them, all of them running."""
    commands = {
        "plain": CELERY,
        "below-init": ("tini", "--", *CELERY),
        "below-shell": ("sh", "-c", '"$@"; exit $?', "sh", *CELERY),
        "removed": CELERY,
        "always": CELERY,
    }
    options = {"removed": ("--rm",), "always": ("--restart=always",)}
    with dockerd() as daemon:
        program = daemon.folder / "celery"
        program.write_text(WORKER)
        mine = (f"--volume={program}:/rig/celery:ro", "--hostname=c1")
        for name, command in commands.items():
            daemon.make(name, *mine, *options.get(name, ()), command=command)
        daemon.make("idle", *mine, command=CELERY)
        daemon.do("start", *commands)
        for name in commands:
            wait_until(partial(_has_begun, daemon, name), what=name)
        yield daemon


def _has_begun(daemon: Dockerd, name: str) -> bool:
    return "a life begins" in daemon.do("logs", name)


async def told(daemon: Dockerd, name: str) -> ServiceStatus:
    one = service(daemon, name)
    completed = await LocalShell().run(DOCKER.status([one]), timeout=20)
    return DOCKER.read_status([one], completed)[one]


async def until(
    daemon: Dockerd, name: str, holds: Callable[[ServiceStatus], bool]
) -> ServiceStatus:
    async with asyncio.timeout(30):
        while not holds(found := await told(daemon, name)):
            await asyncio.sleep(0.1)
    return found


@pytest.mark.parametrize(
    ("name", "is_first", "reaches"),
    [("plain", True, True), ("below-init", False, True), ("below-shell", False, False)],
)
async def test_the_worker_in_a_container_is_known_by_both_of_its_pids(
    workers: Dockerd, name: str, *, is_first: bool, reaches: bool
) -> None:
    found = await until(workers, name, lambda one: one.reaches_worker is not None)
    first = int(workers.inspect(name, "{{.State.Pid}}"))
    assert (found.pid == first, found.inner_pid == 1) == (is_first, is_first)
    assert (found.reaches_worker, found.cuts_off) == (reaches, not reaches)
    assert found.arguments == CELERY
    assert found.node == "w1@c1"


async def test_a_container_that_its_stop_removes_cannot_be_started_again(
    workers: Dockerd,
) -> None:
    assert (await told(workers, "removed")).startable is False
    assert (await told(workers, "plain")).startable is True


async def test_a_worker_that_ends_by_itself_comes_back_as_another_life(workers: Dockerd) -> None:
    before = await told(workers, "always")
    assert before.restarts_itself is True
    assert before.pid is not None
    os.kill(before.pid, signal.SIGTERM)
    after = await until(workers, "always", lambda one: one.restarts == 1 and one.pid is not None)
    assert after.identity != before.identity
    one = service(workers, "always")
    stopping = await LocalShell().run(DOCKER.stop(one, expect=before.identity), timeout=20)
    with pytest.raises(CommandFailed, match="another incarnation"):
        DOCKER.read_effect(one, stopping)


async def test_a_signal_that_a_shell_has_kept_is_no_stop_for_ever(workers: Dockerd) -> None:
    workers.make("deaf", "--stop-timeout=0", command=("sh", "-c", "sleep 1000; exit"))
    workers.do("start", "deaf")
    workers.do("kill", "--signal=TERM", "deaf")
    assert (await told(workers, "deaf")).state is ServiceState.STOPPING
    await until(workers, "deaf", lambda one: one.state is ServiceState.RUNNING)
    one = service(workers, "deaf")
    DOCKER.read_effect(one, await LocalShell().run(DOCKER.start(one), timeout=20))
    DOCKER.read_effect(one, await LocalShell().run(DOCKER.stop(one, expect=None), timeout=20))
    stopped = await until(workers, "deaf", lambda one: one.pid is None)
    assert (stopped.state, stopped.clean_exit) == (ServiceState.FAILED, False)


async def test_a_log_is_followed_into_the_next_life(workers: Dockerd) -> None:
    seen, one = b"", service(workers, "below-init")
    async with asyncio.timeout(30), aclosing(LocalShell().stream(DOCKER.log(one, lines=1))) as log:
        async for data in log:
            seen += data
            if seen.count(b"a life begins") == 1:
                workers.do("restart", "below-init")
            else:
                break
    assert [line.split(" ", 1)[1] for line in seen.decode().splitlines()] == ["a life begins"] * 2
    assert seen.decode().splitlines()[0].partition("T")[0].count("-") == 2


async def test_a_log_of_nothing_says_so(workers: Dockerd) -> None:
    error = await why_none(LocalShell(), DOCKER, service(workers, "nobody"))
    assert "knows no container 'nobody'" in error.says


async def test_a_name_that_is_nearly_right_is_guessed(workers: Dockerd) -> None:
    one = service(workers, "plan")
    completed = await LocalShell().run(DOCKER.start(one), timeout=20)
    with pytest.raises(CommandFailed, match="did you mean plain"):
        DOCKER.read_effect(one, completed)


async def test_who_may_not_ask_docker_is_told_how(workers: Dockerd) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    one = service(workers, "plain")
    asking = (DOCKER.may_act("local", workers.server), DOCKER.stop(one, expect=None))
    for command in asking:
        there = replace(command, argv=(*nobody, *command.argv))
        completed = await LocalShell().run(there, timeout=20)
        with pytest.raises(CommandFailed, match="docker may not be asked") as caught:
            DOCKER.read_may_act(one, completed)
        assert "usermod -aG docker" in (caught.value.fix or "")
    mine = await LocalShell().run(DOCKER.may_act("local", workers.server), timeout=20)
    DOCKER.read_may_act(one, mine)


async def test_workers_in_containers_are_found_with_their_services(
    workers: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", workers.server)
    found = await HostPool(only_broker("redis://unused")).discover("local", [])
    mine = {one.service.name: one for one in found.processes if one.service is not None}
    assert mine.keys() >= {"plain", "below-init", "below-shell", "always"}
    assert (mine["plain"].node, mine["plain"].inner_pid, mine["plain"].says) == ("w1@c1", 1, "")
    assert mine["below-init"].says == ""
    assert "a program around it" in mine["below-shell"].says
    [idle] = [one.service for one in found.idle if one.service.supervisor == "docker"]
    assert (idle.name, idle.worker) == ("idle", "w1@c1")


async def test_over_ssh_a_stop_goes_on_when_the_connection_is_closed(workers: Dockerd) -> None:
    with sshd() as server:
        context = only_broker("redis://unused")
        context = replace(context, hosts=(*context.hosts, server.entry("web1")))
        workers.make("slow", command=("sh", "-c", LOOP.format("sleep 1; exit 0")))
        workers.do("start", "slow")
        pool, one = HostPool(context), ServiceRef("web1", "docker", "slow", server=workers.server)
        adapter, shell = pool.supervisor("docker"), pool.shell("web1")
        completed = await shell.run(adapter.stop(one, expect=None), timeout=20)
        adapter.read_effect(one, completed)
        completed = await shell.run(adapter.status([one]), timeout=20)
        assert adapter.read_status([one], completed)[one].state is ServiceState.STOPPING
        await pool.close()
    found = await until(workers, "slow", lambda seen: seen.state is ServiceState.STOPPED)
    assert found.clean_exit is True
