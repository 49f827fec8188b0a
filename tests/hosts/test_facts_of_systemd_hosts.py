"""A real systemd host over SSH: what we say of it beside what it says itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import pytest_asyncio

from celery_ops.config.contexts import HostEntry, SshSettings, only_broker
from celery_ops.fleet.clock import SystemClock
from celery_ops.fleet.matching import rivals
from celery_ops.fleet.statuses import FACTS_INTERVAL, Statuses
from celery_ops.hosts import HostPool
from celery_ops.model import Host, ServiceRef, ServiceState
from tests.rig.sshd import make_key
from tests.rig.systemd_hosts import SystemdHost, systemd_hosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.model import Service

pytestmark = pytest.mark.rig

ON = {"WantedBy": "multi-user.target", "KillMode": "mixed"}
UNITS: dict[str, dict[str, str]] = {
    "forks": ON | {"ExecStart": "sh -c 'sleep 1000 & sleep 1000 & wait'", "User": "celery"},
    "burns": ON | {"ExecStart": "sh -c 'while :; do :; done'", "CPUQuota": "50%"},
    "loops": ON | {"ExecStart": "sh -c 'sleep 0.2; exit 3'", "Restart": "always",
                   "RestartSec": "200ms", "StartLimitBurst": "1000"},
    "stopped": {"ExecStart": "sleep 1000"},
    "named": ON | {"ExecStart": "python3 -c 'import time; time.sleep(1000)' worker -n w1@prod"},
}  # fmt: skip
REFS = {name: ServiceRef("web1", "systemd", f"{name}.service") for name in UNITS}
SAME = ServiceRef("web2", "systemd", "named.service")


class Rig(NamedTuple):
    """Two hosts with the same units, and the keys to them."""

    web1: SystemdHost
    web2: SystemdHost
    folder: Path


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("keys")
    key = make_key(folder / "key")
    public = key.with_suffix(".pub").read_text().strip()
    with systemd_hosts("web1", "web2", units=UNITS, key=public) as hosts:
        keys = [(one.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text() for one in hosts]
        lines = [f"{one.address} {key}" for one, key in zip(hosts, keys, strict=True)]
        (folder / "known_hosts").write_text("".join(lines))
        (folder / "config").touch()
        web1, web2 = hosts
        yield Rig(web1, web2, folder)


@pytest_asyncio.fixture
async def statuses(rig: Rig) -> AsyncIterator[Statuses]:
    """As a user without any rights."""
    folder = rig.folder
    settings = SshSettings(
        "ops", known_hosts=folder / "known_hosts", keys=(folder / "key",), config=folder / "config"
    )
    hosts = (rig.web1, rig.web2)
    entries = tuple(HostEntry(one.name, one.address, one.name, settings) for one in hosts)
    pool = HostPool(replace(only_broker("redis://unused"), hosts=entries))
    machines = [Host(one.name, one.address) for one in hosts]
    made = Statuses(pool, (*REFS.values(), SAME), machines, clock=SystemClock())
    yield made
    await made.close()
    await pool.close()


def shown(host: SystemdHost, name: str, value: str) -> str:
    return host.run("systemctl", "show", "-P", value, name).strip()


async def watched(statuses: Statuses, seconds: float) -> dict[str, Service]:
    """Refresh for so long; the services by their short names."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await statuses.refresh(20.0)
    while loop.time() < end:
        await asyncio.sleep(0.2)
        await statuses.refresh(20.0)
    return {name: statuses.services[ref] for name, ref in REFS.items()}


async def test_what_is_told_of_a_host_is_what_it_says_itself(rig: Rig, statuses: Statuses) -> None:
    host = rig.web1
    await statuses.refresh(20.0)
    web1, _ = statuses.machines
    assert (web1.reachable, web1.error) == (True, None)
    assert web1.facts is not None
    facts = web1.facts.value
    meminfo = dict(line.split(":") for line in host.run("cat", "/proc/meminfo").splitlines())
    assert facts.memory == int(meminfo["MemTotal"].split()[0]) * 1024
    assert facts.cpus == int(host.run("nproc", "--all"))
    assert facts.uptime == pytest.approx(float(host.run("cat", "/proc/uptime").split()[0]), abs=30)
    size, used = host.run("df", "-k", "--output=size,used", "/").split("\n")[1].split()
    [root] = [disk for disk in facts.disks or () if disk.mount == "/"]
    assert root.size == int(size) * 1024
    assert root.used == pytest.approx(int(used) * 1024, rel=0.05)
    running = statuses.services[REFS["forks"]]
    assert running.status is not None
    assert running.usage is not None
    pid = running.status.value.pid
    assert str(pid) == shown(host, "forks", "MainPID")
    pids = host.run("pgrep", "-u", "celery").split()
    assert running.usage.value.processes == len(pids) == 3
    resident = [
        int(host.run("sh", "-c", f"grep VmRSS /proc/{one}/status").split()[1]) for one in pids
    ]
    assert running.usage.value.memory == sum(resident) * 1024
    stopped = statuses.services[REFS["stopped"]]
    assert (stopped.state, stopped.usage) == (ServiceState.STOPPED, None)


async def test_cores_and_restarts_are_what_the_kernel_and_systemd_count(
    rig: Rig, statuses: Statuses
) -> None:
    host = rig.web1
    first = int(shown(host, "loops", "NRestarts"))
    services = await watched(statuses, FACTS_INTERVAL + 2.5)
    last = int(shown(host, "loops", "NRestarts"))
    burns = services["burns"].usage
    assert burns is not None
    assert burns.value.cores is not None
    assert 0.05 < burns.value.cores <= 1.1
    idle = services["forks"].usage
    assert idle is not None
    assert idle.value.cores == pytest.approx(0.0, abs=0.02)
    loops = services["loops"]
    assert loops.status is not None
    assert first < (loops.status.value.restarts or 0) <= last
    assert loops.restarted is not None
    assert 3 <= loops.restarted.count <= last - first
    assert loops.restarted.by_supervisor


async def test_a_full_disk_is_seen_as_the_host_sees_it(rig: Rig, statuses: Statuses) -> None:
    host = rig.web1
    host.run("sh", "-c", "head -c 400m /dev/zero >/filling 2>/dev/null || true")
    try:
        await statuses.refresh(20.0)
    finally:
        host.run("rm", "/filling")
    web1, _ = statuses.machines
    assert web1.facts is not None
    fullest = web1.facts.value.fullest
    assert fullest is not None
    assert fullest.fullness > 0.99


async def test_two_hosts_that_run_one_name_are_found_by_their_processes(
    rig: Rig, statuses: Statuses
) -> None:
    await statuses.refresh(20.0)
    found = rivals(statuses.services.values())
    assert [one.ref for one in found["w1@prod"]] == [REFS["named"], SAME]
    rig.web2.run("systemctl", "stop", "named")
    await statuses.read((SAME,))
    assert rivals(statuses.services.values()) == {}
