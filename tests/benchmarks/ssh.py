"""What a warm step over SSH costs: `python -m tests.benchmarks.ssh`.

`true` on connections that are open already, ours and paramiko's as it comes (SSHClient, one thread
for each connection), on the same sshd, taking turns, so that both see the same load of the machine.
On one connection, and on ten at once. The remote command alone is measured beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import paramiko

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.ports import Command
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from celery_ops.ports import Shell

STEP = Command(("true",))


async def ours(shells: list[Shell]) -> float:
    """Milliseconds until all have answered."""
    began = time.perf_counter()
    done = await asyncio.gather(*(shell.run(STEP, timeout=60) for shell in shells))
    if any(one.code for one in done):
        raise RuntimeError(f"it failed: {done}")
    return (time.perf_counter() - began) * 1000


def theirs(clients: list[paramiko.SSHClient], threads: ThreadPoolExecutor) -> float:
    """Milliseconds until all have answered."""
    began = time.perf_counter()
    if any(threads.map(_paramiko_step, clients)):
        raise RuntimeError("it failed")
    return (time.perf_counter() - began) * 1000


def _paramiko_step(client: paramiko.SSHClient) -> int:
    _, out, err = client.exec_command("true")
    out.read()
    err.read()
    return out.channel.recv_exit_status()


def alone() -> float:
    """Milliseconds of the same through a shell of this machine, as sshd would start it."""
    began = time.perf_counter()
    subprocess.run(["bash", "-c", "exec true"], check=True)
    return (time.perf_counter() - began) * 1000


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


async def measure(server: Sshd, number: int, rounds: int) -> str:
    # Equal targets would share a connection.
    entries = [server.entry(f"web{n}", connect_timeout=30.0 + n) for n in range(number)]
    context = only_broker("redis://unused")
    pool = HostPool(replace(context, hosts=(*context.hosts, *entries)))
    shells = [pool.shell(entry.name) for entry in entries]
    began = time.perf_counter()
    await ours(shells)
    connected = (time.perf_counter() - began) * 1000
    clients = [client(server) for _ in range(number)]
    mine, other, local = [], [], []
    with ThreadPoolExecutor(number) as threads:
        theirs(clients, threads)
        for _ in range(rounds):
            mine.append(await ours(shells))
            other.append(theirs(clients, threads))
            local.append(alone())
    for one in clients:
        one.close()
    await pool.close()
    ratio = statistics.median(o / m for m, o in zip(mine, other, strict=True))
    return (
        f"{number} at once: ours median {statistics.median(mine):.1f} ms (worst {max(mine):.1f}),"
        f" paramiko {statistics.median(other):.1f} (worst {max(other):.1f}), {ratio:.1f} times;"
        f" the command alone {statistics.median(local):.1f};"
        f" connecting all took {connected:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10])
    chosen = parser.parse_args()
    with sshd("MaxStartups 200") as server:
        for number in chosen.hosts:
            print(asyncio.run(measure(server, number, chosen.rounds)))


if __name__ == "__main__":
    main()
