"""systemd, the real one, in a container."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.config.contexts import HostEntry, SshSettings, only_broker
from celery_ops.errors import CommandFailed
from celery_ops.hosts import HostPool
from celery_ops.hosts.systemd import Systemd, sudoers_line
from celery_ops.model import Retry, ServiceRef, ServiceState, ServiceStatus
from tests.hosts.contract import TIMEOUT, DaemonContract, Program, Supervised
from tests.rig.sshd import make_key
from tests.rig.systemd_hosts import systemd_hosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.rig.systemd_hosts import SystemdHost

pytestmark = pytest.mark.rig

HOST = "web1"

LOOP = """/bin/sh -c 'trap "{}" TERM; while :; do sleep 0.05; done'"""
ALWAYS_ON = {"WantedBy": "multi-user.target", "KillMode": "mixed", "TimeoutStopSec": "10"}
POLITE = ALWAYS_ON | {"ExecStart": LOOP.format("exit 0")}
UNITS: dict[str, dict[str, str]] = {
    Program.POLITE: POLITE,
    Program.STUBBORN: ALWAYS_ON | {"ExecStart": LOOP.format(""), "TimeoutStopSec": "1"},
    Program.SLOW: ALWAYS_ON | {"ExecStart": LOOP.format("sleep 1; exit 0")},
    Program.GROUP: POLITE | {"KillMode": "control-group"},
    Program.BROKEN: ALWAYS_ON | {"ExecStart": "false"},
    Program.IDLE: {"ExecStart": "sleep 1000"},
}


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with systemd_hosts(HOST, units=UNITS) as [host]:
        services = {program: ServiceRef(HOST, "systemd", program.value) for program in Program}
        adapter = HostPool(only_broker("redis://unused")).supervisor("systemd")
        yield Supervised(host.shell(), adapter, services, host.mute_systemd)


class TestSystemd(DaemonContract):
    """The contract of all supervisors."""

    gives_up = "ended with exit code 1"


class TestSystemdOverSsh(DaemonContract):
    """The same for a user who may do no more than start and stop these services."""

    gives_up = "ended with exit code 1"

    @pytest_asyncio.fixture
    async def supervised(self, tmp_path: Path) -> AsyncIterator[Supervised]:
        services = {program: ServiceRef(HOST, "systemd", program.value) for program in Program}
        sudoers = "\n".join(sudoers_line(one) for one in services.values()).replace("USER", "ops")
        key = make_key(tmp_path / "key")
        public = key.with_suffix(".pub").read_text().strip()
        with systemd_hosts(HOST, units=UNITS, key=public, sudoers=sudoers) as [host]:
            known = tmp_path / "known_hosts"
            host_key = (host.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
            known.write_text(f"{host.address} {host_key}")
            config = tmp_path / "config"
            config.touch()
            settings = SshSettings("ops", known_hosts=known, keys=(key,), config=config, sudo=True)
            context = only_broker("redis://unused")
            entry = HostEntry(HOST, host.address, HOST, settings)
            pool = HostPool(replace(context, hosts=(*context.hosts, entry)))
            adapter = pool.supervisor("systemd")
            yield Supervised(pool.shell(HOST), adapter, services, host.mute_systemd)
            await pool.close()


SERVICES: dict[str, dict[str, str]] = {
    "polite": POLITE,
    "always": POLITE | {"Restart": "always", "RestartSec": "0"},
    "no-command": ALWAYS_ON | {"ExecStart": "/nowhere/celery"},
    "looping": ALWAYS_ON | {"ExecStart": "false", "Restart": "always", "RestartSec": "0"},
    "forking": ALWAYS_ON
    | {"Type": "forking", "GuessMainPID": "no", "ExecStart": "sh -c 'sleep 1000 &'"},
    "never-killed": POLITE | {"TimeoutStopSec": "infinity", "KillSignal": "SIGQUIT"},
    "forgotten": {key: value for key, value in POLITE.items() if key != "WantedBy"},
    "allowed": POLITE,
}


def service(name: str) -> ServiceRef:
    return ServiceRef(HOST, "systemd", name)


@pytest.fixture(scope="module")
def host() -> Iterator[SystemdHost]:
    sudoers = sudoers_line(service("allowed")).replace("USER", "ops")
    with systemd_hosts(HOST, units=SERVICES, sudoers=sudoers) as [one]:
        yield one


def on(host: SystemdHost, *, user: str = "root", sudo: bool = False) -> Supervised:
    adapter = Systemd(frozenset({HOST}) if sudo else frozenset())
    return Supervised(host.shell(user), adapter, {}, host.mute_systemd)


async def statuses(rig: Supervised, *names: str) -> list[ServiceStatus]:
    asked = [service(name) for name in names]
    done = await rig.shell.run(rig.supervisor.status(asked), timeout=TIMEOUT)
    return list(rig.supervisor.read_status(asked, done).values())


async def act(rig: Supervised, verb: str, name: str, *, expect: str | None = None) -> None:
    one, supervisor = service(name), rig.supervisor
    command = supervisor.start(one) if verb == "start" else supervisor.stop(one, expect=expect)
    supervisor.read_effect(one, await rig.shell.run(command, timeout=TIMEOUT))


async def until(rig: Supervised, name: str, *states: ServiceState) -> ServiceStatus:
    async with asyncio.timeout(20):
        while True:
            [status] = await statuses(rig, name)
            if status.state in states:
                return status
            await asyncio.sleep(0.05)


async def test_a_service_that_was_killed_comes_back_as_another_life(host: SystemdHost) -> None:
    rig = on(host)
    first = await until(rig, "always", ServiceState.RUNNING)
    host.run("kill", "-KILL", str(first.pid))
    async with asyncio.timeout(20):
        [second] = await statuses(rig, "always")
        while second.state is not ServiceState.RUNNING or second.pid == first.pid:
            await asyncio.sleep(0.05)
            [second] = await statuses(rig, "always")
    assert first.identity != second.identity
    assert second.restarts_itself is True
    assert "restarted by systemd: 1x" in second.says


async def test_what_cannot_be_executed_is_failed_and_says_why(host: SystemdHost) -> None:
    failed = await until(on(host), "no-command", ServiceState.FAILED)
    assert failed.says == "ended with exit code 203 (its command cannot be executed)"
    assert failed.clean_exit is False
    await act(on(host), "stop", "no-command", expect="another life")


async def test_a_restart_loop_that_systemd_gave_up_is_failed(host: SystemdHost) -> None:
    failed = await until(on(host), "looping", ServiceState.FAILED)
    assert (failed.pid, failed.identity, failed.clean_exit) == (None, None, False)
    assert "ended with exit code 1; restarted by systemd: " in failed.says
    assert failed.retry is Retry.GAVE_UP
    assert failed.restarts == int(host.run("systemctl", "show", "-P", "NRestarts", "looping"))


async def test_a_masked_unit_says_so_and_cannot_be_started(host: SystemdHost) -> None:
    host.run("systemctl", "mask", "--runtime", "masked.service")
    [status] = await statuses(on(host), "masked")
    with pytest.raises(CommandFailed, match="is masked") as caught:
        await act(on(host), "start", "masked")
    assert "masked: it cannot be started" in status.says
    assert caught.value.fix == "systemctl unmask masked"


async def test_a_unit_whose_file_is_gone_is_still_seen_and_stopped(host: SystemdHost) -> None:
    file = "/run/systemd/system/passing.service"
    host.run("sh", "-c", f"printf '[Service]\\nExecStart=sleep 1000\\n' > {file}")
    host.run("systemctl", "daemon-reload")
    await act(on(host), "start", "passing")
    await until(on(host), "passing", ServiceState.RUNNING)
    host.run("rm", file)
    host.run("systemctl", "daemon-reload")
    [running] = await statuses(on(host), "passing")
    assert (running.state, running.pid is None) == (ServiceState.RUNNING, False)
    assert "its unit file is gone" in running.says
    await act(on(host), "stop", "passing")
    await until(on(host), "passing", ServiceState.UNKNOWN)


async def test_a_forking_unit_without_a_main_process_runs(host: SystemdHost) -> None:
    running = await until(on(host), "forking", ServiceState.RUNNING)
    assert running.pid is None
    assert running.identity is not None
    assert running.started_at is not None


async def test_a_unit_that_systemd_forgot_has_no_proof_of_its_end(host: SystemdHost) -> None:
    rig = on(host)
    await act(rig, "start", "forgotten")
    await until(rig, "forgotten", ServiceState.RUNNING)
    await act(rig, "stop", "forgotten")
    stopped = await until(rig, "forgotten", ServiceState.STOPPED)
    assert stopped.clean_exit is not False


async def test_a_grace_without_end_and_another_signal_are_read(host: SystemdHost) -> None:
    [status] = await statuses(on(host), "never-killed")
    assert (status.stop_grace, status.stop_signal) == (None, "SIGQUIT")


async def test_sudo_reaches_what_its_line_allows_and_nothing_else(host: SystemdHost) -> None:
    rig = on(host, user="ops", sudo=True)
    await until(rig, "allowed", ServiceState.RUNNING)
    await act(rig, "stop", "allowed")
    await until(rig, "allowed", ServiceState.STOPPED)
    await act(rig, "start", "allowed")
    await until(rig, "allowed", ServiceState.RUNNING)
    with pytest.raises(CommandFailed, match="sudo was refused") as caught:
        await act(rig, "stop", "polite")
    assert sudoers_line(service("polite")) in str(caught.value.fix)
    [polite] = await statuses(rig, "polite")
    assert polite.state is ServiceState.RUNNING


async def test_root_needs_no_sudo_even_if_it_is_asked_for(host: SystemdHost) -> None:
    rig = on(host, sudo=True)
    host.run("mv", "/usr/bin/sudo", "/usr/bin/away")
    try:
        await act(rig, "start", "allowed")
        with pytest.raises(CommandFailed, match="sudo was refused"):
            await act(on(host, user="ops", sudo=True), "start", "allowed")
    finally:
        host.run("mv", "/usr/bin/away", "/usr/bin/sudo")


async def test_hosts_have_an_address_and_services_of_their_own() -> None:
    with systemd_hosts("web1", "web2", units={"polite": POLITE}) as hosts:
        pids = [(await statuses(on(host), "polite"))[0].pid for host in hosts]
        hosts[0].run("systemctl", "stop", "polite")
        states = [(await statuses(on(host), "polite"))[0].state for host in hosts]
        names = [host.run("hostname").strip() for host in hosts]
        greetings = []
        for host in hosts:
            with socket.create_connection((host.address, 22), timeout=10) as connection:
                greetings.append(connection.recv(8))
    assert None not in pids
    assert states == [ServiceState.STOPPED, ServiceState.RUNNING]
    assert names == ["web1", "web2"]
    assert greetings == [b"SSH-2.0-"] * 2


async def test_without_rights_it_is_seen_and_not_changed(host: SystemdHost) -> None:
    rig = on(host, user="ops")
    with pytest.raises(CommandFailed, match="systemd refused") as caught:
        await act(rig, "stop", "polite")
    [polite] = await statuses(rig, "polite")
    assert polite.state is ServiceState.RUNNING
    assert "Set `sudo: true`" in str(caught.value.fix)


async def test_a_stop_for_good_is_taken_back_as_it_was(host: SystemdHost) -> None:
    rig, one = on(host), service("always")
    first = await until(rig, "always", ServiceState.RUNNING)
    assert (first.at_boot, first.comes_back) == ("enabled", "")
    command = Systemd().stop_for_good(one, expect=first.identity)
    rig.supervisor.read_effect(one, await rig.shell.run(command, timeout=TIMEOUT))
    assert (await until(rig, "always", ServiceState.STOPPED)).at_boot == ""
    command = Systemd().start_for_good(one, at_boot="enabled")
    rig.supervisor.read_effect(one, await rig.shell.run(command, timeout=TIMEOUT))
    assert (await until(rig, "always", ServiceState.RUNNING)).at_boot == "enabled"


async def test_what_could_not_be_enabled_again_is_left_alone(host: SystemdHost) -> None:
    rig, one = on(host), service("forgotten")
    units = "/etc/systemd/system"
    link = f"{units}/multi-user.target.wants/forgotten.service"
    host.run("ln", "-s", f"{units}/forgotten.service", link)
    host.run("systemctl", "daemon-reload")
    [status] = await statuses(rig, "forgotten")
    assert status.at_boot == "enabled"
    done = await rig.shell.run(Systemd().stop_for_good(one, expect=None), timeout=TIMEOUT)
    with pytest.raises(CommandFailed, match=r"no \[Install\] section"):
        rig.supervisor.read_effect(one, done)
    [status] = await statuses(rig, "forgotten")
    assert status.at_boot == "enabled"
    host.run("rm", link)
    host.run("systemctl", "daemon-reload")
