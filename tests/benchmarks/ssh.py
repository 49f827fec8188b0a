"""What SSH costs: `python -m tests.benchmarks.ssh`.

A warm step is `true` on connections that are open already, to one host and to ten at once: ours,
and paramiko's as it comes (SSHClient, one thread for each connection), taking turns, so that both
see the same load of the machine. In the same turns the remote command alone is run by a login shell
of this machine, as often at once: what a step costs above that is what we answer for. The ten hosts
and all of us share this machine's cores, which real hosts would not.

`ansible-playbook` with pipelining does the same, if it is there (`pip install celery-ops[bench]`):
a playbook of many steps less one of a single step.

Connecting is measured with fifty sshds, from nothing to the first
command's end.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import paramiko

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.ports import Command
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from celery_ops.ports import Shell

STEP = Command(("true",))
HOSTS_TO_CONNECT = 50
_MORE_STEPS = 10
_PLAYBOOK = "- hosts: all\n  gather_facts: false\n  tasks:\n"


@dataclass
class Times:
    """Milliseconds until all have answered, turn by turn."""

    ours: list[float] = field(default_factory=list)
    paramiko: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def above(self, times: list[float]) -> float:
        return statistics.median(times) - statistics.median(self.alone)

    def __str__(self) -> str:
        return (
            f"ours {_told(self.ours)}, {self.above(self.ours):.1f} above the command alone;"
            f" paramiko {_told(self.paramiko)}, {self.above(self.paramiko):.1f} above it;"
            f" the command alone {_told(self.alone)}"
        )


def pool_of(servers: list[Sshd]) -> tuple[HostPool, list[Shell]]:
    """Hosts that are not connected yet."""
    entries = [server.entry(f"web{number}") for number, server in enumerate(servers)]
    context = only_broker("redis://unused")
    pool = HostPool(replace(context, hosts=(*context.hosts, *entries)))
    return pool, [pool.shell(entry.name) for entry in entries]


async def ours(remote: list[Shell]) -> float:
    began = time.perf_counter()
    done = await asyncio.gather(*(shell.run(STEP, timeout=60) for shell in remote))
    if any(one.code for one in done):
        raise RuntimeError(f"it failed: {done}")
    return _milliseconds(began)


def theirs(clients: list[paramiko.SSHClient], threads: ThreadPoolExecutor) -> float:
    began = time.perf_counter()
    if any(threads.map(_paramiko_step, clients)):
        raise RuntimeError("it failed")
    return _milliseconds(began)


def alone(number: int) -> float:
    """The same without SSH: a login shell for each, as sshd would start it."""
    argv = [pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh", "-c", STEP.argv[0]]
    began = time.perf_counter()
    started = [
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(number)
    ]
    if any(one.wait() for one in started):
        raise RuntimeError("it failed")
    return _milliseconds(began)


def client(server: Sshd) -> paramiko.SSHClient:
    connected = paramiko.SSHClient()
    connected.load_host_keys(str(server.known_hosts))
    connected.connect(
        "127.0.0.1",
        server.port,
        key_filename=str(server.key),
        allow_agent=False,
        look_for_keys=False,
    )
    return connected


async def warm_steps(servers: list[Sshd], rounds: int) -> Times:
    times = Times()
    pool, remote = pool_of(servers)
    await ours(remote)
    clients = [client(server) for server in servers]
    with ThreadPoolExecutor(len(servers)) as threads:
        theirs(clients, threads)
        for _ in range(rounds):
            times.ours.append(await ours(remote))
            times.paramiko.append(theirs(clients, threads))
            times.alone.append(alone(len(servers)))
    for one in clients:
        one.close()
    await pool.close()
    return times


def ansible_step(program: str, servers: list[Sshd], folder: Path) -> float:
    """Milliseconds of a warm step of a playbook."""
    (folder / "inventory").write_text("".join(map(_inventory_line, servers)))
    times = {}
    for steps in (1, 1 + _MORE_STEPS):
        book = folder / f"{steps}.yaml"
        book.write_text(_PLAYBOOK + "    - command: 'true'\n" * steps)
        began = time.perf_counter()
        subprocess.run(
            [program, "-i", str(folder / "inventory"), "-f", str(len(servers)), str(book)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_HOME": str(folder),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
            },
        )
        times[steps] = _milliseconds(began)
    return (times[1 + _MORE_STEPS] - times[1]) / _MORE_STEPS


async def connecting(servers: list[Sshd]) -> tuple[float, float]:
    """Seconds until all hosts have done a first step: ours, paramiko's with a thread each."""
    began = time.perf_counter()
    pool, remote = pool_of(servers)
    await ours(remote)
    mine = _milliseconds(began) / 1000
    await pool.close()
    began = time.perf_counter()
    with ThreadPoolExecutor(len(servers)) as threads:
        clients = list(threads.map(client, servers))
        theirs(clients, threads)
    other = _milliseconds(began) / 1000
    for one in clients:
        one.close()
    return mine, other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--ansible", default=find_ansible(), help="the path of ansible-playbook")
    chosen = parser.parse_args()
    with ExitStack() as started:
        servers = [started.enter_context(sshd()) for _ in range(HOSTS_TO_CONNECT)]
        for number in chosen.hosts:
            some = servers[:number]
            print(f"{number} at once: {asyncio.run(warm_steps(some, chosen.rounds))}")
            if chosen.ansible:
                with TemporaryDirectory(prefix="ansible-") as folder:
                    step = ansible_step(chosen.ansible, some, Path(folder))
                print(f"{number} at once: a step of ansible-playbook, pipelined, {step:.0f} ms")
        mine, other = asyncio.run(connecting(servers))
        print(f"connecting {HOSTS_TO_CONNECT}: ours {mine:.2f} s, paramiko {other:.2f} s")
    if not chosen.ansible:
        print("ansible-playbook is not there: pip install celery-ops[bench]")


def find_ansible() -> str | None:
    """Where ansible-playbook is, beside this interpreter or on the PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("ansible-playbook", path=beside) or shutil.which("ansible-playbook")


def _inventory_line(server: Sshd) -> str:
    settings = {
        "ansible_host": "127.0.0.1",
        "ansible_port": server.port,
        "ansible_user": getpass.getuser(),
        "ansible_ssh_private_key_file": server.key,
        "ansible_ssh_common_args": f"'-F none -o UserKnownHostsFile={server.known_hosts}'",
        "ansible_python_interpreter": sys.executable,
    }
    told = " ".join(f"{name}={value}" for name, value in settings.items())
    return f"{server.directory.name} {told}\n"


def _paramiko_step(connected: paramiko.SSHClient) -> int:
    _, out, err = connected.exec_command(STEP.argv[0])
    out.read()
    err.read()
    return out.channel.recv_exit_status()


def _milliseconds(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _told(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ms (worst {max(times):.1f})"


if __name__ == "__main__":
    main()
