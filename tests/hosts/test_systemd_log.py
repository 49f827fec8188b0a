"""The journals of real units, read by who may, by who may with sudo, and by who may not."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import HostEntry, SshSettings, only_broker
from celery_ops.hosts import HostPool
from celery_ops.hosts.systemd import Systemd, sudoers_log_line
from celery_ops.model import ServiceRef
from tests.hosts.streaming import first, logged, why_none
from tests.rig.sshd import make_key
from tests.rig.systemd_hosts import systemd_hosts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.systemd_hosts import SystemdHost

pytestmark = pytest.mark.rig

HOST = "web1"
COUNTS = "/bin/sh -c 'n=0; while :; do n=$$((n+1)); echo line $$n; sleep 0.1; done'"
UNITS = {
    "counts": {"ExecStart": COUNTS, "WantedBy": "multi-user.target"},
    "other": {"ExecStart": "/bin/sh -c 'echo not mine; sleep 1000'"},
    "quiet": {"ExecStart": "sleep 1000"},
}
SERVICE = ServiceRef(HOST, "systemd", "counts.service")
PLAIN, SUDO = Systemd(), Systemd(frozenset({HOST}))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("key") / "key")


@pytest.fixture(scope="module")
def host(key: Path) -> Iterator[SystemdHost]:
    """`ops` is in the group systemd-journal, `celery` is not, but may with sudo."""
    sudoers = sudoers_log_line(SERVICE, lines=50).replace("USER", "celery")
    public = key.with_suffix(".pub").read_text().strip()
    with systemd_hosts(HOST, units=UNITS, key=public, sudoers=sudoers) as [booted]:
        yield booted


@pytest.mark.parametrize("user", ["root", "ops"])
@pytest.mark.parametrize("adapter", [PLAIN, SUDO], ids=["plain", "sudo-not-needed"])
async def test_the_last_lines_come_first_and_then_what_is_added(
    host: SystemdHost, user: str, adapter: Systemd
) -> None:
    seen = await logged(host.shell(user), adapter, SERVICE, b": line ", lines=2)
    number = int(re.findall(rb"line (\d+)", seen)[-1])
    seen = await logged(host.shell(user), adapter, SERVICE, b"line %d\n" % (number + 5), lines=2)
    assert b"not mine" not in seen
    assert re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000 \S+\[\d+\]: line \d+\n", seen)


async def test_who_may_not_read_it_is_told_so_and_how_to_mend_it(host: SystemdHost) -> None:
    why = await why_none(host.shell("celery"), PLAIN, SERVICE)
    assert "celery may not read the journal of web1" in why.says
    assert "usermod -aG systemd-journal celery" in (why.fix or "")


async def test_who_may_with_sudo_reads_it_and_leaves_nothing_behind(host: SystemdHost) -> None:
    await logged(host.shell("celery"), SUDO, SERVICE, b": line ", lines=50)
    await _until_nobody_reads(host)


async def test_sudo_for_another_service_is_refused_with_the_reason(host: SystemdHost) -> None:
    other = ServiceRef(HOST, "systemd", "other.service")
    why = await why_none(host.shell("celery"), SUDO, other)
    assert "sudo was refused" in why.says
    assert why.fix


async def test_a_unit_that_systemd_does_not_find_is_said_to_be(host: SystemdHost) -> None:
    nowhere = ServiceRef(HOST, "systemd", "nowhere")
    async with aclosing(host.shell().stream(PLAIN.log(nowhere, lines=5))) as lines:
        assert b"finds no unit nowhere" in await first(lines)


async def test_names_that_mean_many_units_are_refused(host: SystemdHost) -> None:
    del host
    with pytest.raises(Exception, match="not one service"):
        PLAIN.log(ServiceRef(HOST, "systemd", "celery*"), lines=5)


async def test_the_same_over_ssh(host: SystemdHost, key: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    host_key = (host.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    known.write_text(f"{host.address} {host_key}")
    config = tmp_path / "config"
    config.touch()
    settings = SshSettings("ops", known_hosts=known, keys=(key,), config=config)
    context = only_broker("redis://unused")
    entry = HostEntry(HOST, host.address, HOST, settings)
    pool = HostPool(replace(context, hosts=(*context.hosts, entry)))
    await logged(pool.shell(HOST), pool.supervisor("systemd"), SERVICE, b": line ")
    await _until_nobody_reads(host)
    await pool.close()


async def _until_nobody_reads(host: SystemdHost) -> None:
    async with asyncio.timeout(20):
        while host.run("pgrep", "-x", "journalctl", check=False):
            await asyncio.sleep(0.1)
