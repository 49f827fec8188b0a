"""What a roll costs beyond what its services take: `python -m tests.benchmarks.engine`.

Twenty stub services on four sshds of this machine are stopped and started, `--batch` at a time, by
the engine (real SSH, real Redis, a simulated node for each service, a real journal) and by an
`ansible-playbook` that stops, waits, and starts. A stub takes its time to stop and to start, and
nothing else; what both need above that time is their own. The engine is measured from the first
look for its plan to its last journal line, and also proves each worker; the playbook as a whole and
without the start of its interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from celery_ops.broker import connect
from celery_ops.config.contexts import only_broker
from celery_ops.errors import CommandFailed
from celery_ops.fleet.clock import SystemClock
from celery_ops.fleet.survey import Surveyor
from celery_ops.hosts import HostPool
from celery_ops.model import ServiceRef, ServiceState, ServiceStatus
from celery_ops.ports import Command
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending
from celery_ops.runbook.executor import Executor
from celery_ops.runbook.journal import Journal
from celery_ops.runbook.library import Library
from celery_ops.runbook.plan import Where
from celery_ops.runbook.planning import Planner
from tests.benchmarks.ssh import find_ansible
from tests.rig.nodes import Node, SimulatedNodes
from tests.rig.redis import RedisServer
from tests.rig.runbooks import write_runbook
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.errors import StreamFailed
    from celery_ops.ports import Completed

HOSTS = 4
SERVICES = 20
STUB = """#!/bin/sh
# stub VERB NAME… in the folder of its services: NAME.pid is there while one runs.
cd "${0%/*}" || exit 1
verb=$1; shift
down() { sleep "$SECONDS_TO_STOP"; rm -f "$1.pid"; }
up() {
  sleep "$SECONDS_TO_START"
  read -r last < "$1.last"
  echo $((last + 1)) | tee "$1.last" > "$1.new"
  mv "$1.new" "$1.pid"
}
case $verb in
status)
  for name; do read -r pid < "$name.pid" && echo "$name $pid" || echo "$name -"; done 2> /dev/null
  ;;
stop | start) setsid "$0" "$verb-and-wait" "$1" < /dev/null > /dev/null 2>&1 & ;;
stop-and-wait) down "$1" ;;
start-and-wait) up "$1" ;;
esac
"""
RUNBOOK = """
name: roll
summary: Stop and start them.
risk: low
params:
  batch: {type: count}
steps:
  - roll: "*"
    canary: 0
    batch: ${{ params.batch }}
    keep_available: 0
    settle: 0s
    on_fail: stop
    steps:
      - stop: worker
        timeout: 30s
      - start: worker
        timeout: 30s
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 30s
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  serial: {batch}
  tasks:
    - command: {stub} stop-and-wait {{{{ inventory_hostname }}}}
    - command: {stub} status {{{{ inventory_hostname }}}}
      register: down
      until: "down.stdout.endswith('-')"
      retries: 100
      delay: 0
    - command: {stub} start-and-wait {{{{ inventory_hostname }}}}
    - command: {stub} status {{{{ inventory_hostname }}}}
      register: up
      until: "not up.stdout.endswith('-')"
      retries: 100
      delay: 0
"""


class StubSupervisor:
    """The Supervisor port for stubs: as those of real ones, it does not wait for an effect."""

    def __init__(self, stub: Path) -> None:
        self._stub = str(stub)

    def status(self, services: Sequence[ServiceRef]) -> Command:
        return Command((self._stub, "status", *(one.name for one in services)))

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        pids = dict(line.split() for line in completed.out.decode().splitlines())
        return {one: self._status(pids[one.name]) for one in services}

    def start(self, service: ServiceRef) -> Command:
        return Command((self._stub, "start", service.name))

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        del expect
        return Command((self._stub, "stop", service.name))

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        if completed.code:
            raise CommandFailed(f"{service}: {completed.err.decode()}")

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        return Command(("tail", "-n", str(lines), service.name))

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        return CommandFailed(f"{service}: {ended.says}")

    def _status(self, pid: str) -> ServiceStatus:
        if pid == "-":
            return ServiceStatus(ServiceState.STOPPED, None, None, None, True, "stopped")
        return ServiceStatus(ServiceState.RUNNING, int(pid), pid, None, None, "running")


class StubHosts(HostPool):
    """Real hosts, whose services are stubs."""

    stub: Path

    def supervisor(self, kind: str) -> StubSupervisor:
        del kind
        return StubSupervisor(self.stub)


class Lab:
    """The stubs, and how long they take by themselves."""

    def __init__(self, folder: Path, servers: list[Sshd], *, stop: float, start: float) -> None:
        self.folder = folder
        self.servers = servers
        self.stub = folder / "stub"
        self.stub.write_text(
            STUB.replace("$SECONDS_TO_STOP", str(stop)).replace("$SECONDS_TO_START", str(start))
        )
        self.stub.chmod(0o755)
        self.names = [f"w{number:02}" for number in range(SERVICES)]
        for number, name in enumerate(self.names):
            for file in (f"{name}.last", f"{name}.pid"):
                (folder / file).write_text(f"{1000 * (number + 1)}\n")

    def alone(self, batch: int) -> float:
        """Seconds for the stubs themselves, a batch at once, without SSH."""
        began = time.perf_counter()
        for first in range(0, SERVICES, batch):
            for verb in ("stop-and-wait", "start-and-wait"):
                started = [
                    subprocess.Popen([self.stub, verb, name])
                    for name in self.names[first : first + batch]
                ]
                if any(one.wait() for one in started):
                    raise RuntimeError("a stub failed")
        return time.perf_counter() - began

    async def ours(self, url: str, batch: int) -> float:
        clock = SystemClock()
        context = only_broker(url)
        entries = [server.entry(f"web{number}") for number, server in enumerate(self.servers)]
        hosts = StubHosts(replace(context, hosts=(*context.hosts, *entries)))
        hosts.stub = self.stub
        services = tuple(
            ServiceRef(f"web{number % HOSTS}", "stub", name, worker=f"{name}@rig")
            for number, name in enumerate(self.names)
        )
        began = time.perf_counter()
        broker = await connect(context.broker, {}, clock=clock)
        surveyor = Surveyor(broker, hosts, context="rig", services=services, clock=clock)
        where = Where("rig", broker.address, broker.identity, False, ("*",), services)
        planner = Planner(
            surveyor=surveyor, hosts=hosts, library=Library(self.folder / "runbooks"), where=where,
            clock=clock, operator="bench", backups=self.folder / "backups",
        )  # fmt: skip
        plan = await planner.plan("roll", {"batch": str(batch)}, run=f"bench-{time.time_ns()}")
        path = self.folder / "runs" / f"{plan.run}.jsonl"
        journal.create(path, plan, clock)
        kept = Journal(path, clock)
        executor = Executor(
            journal=kept, inbox=path.with_suffix(".inbox"), plan=plan, broker=broker,
            surveyor=surveyor, hosts=hosts, clock=clock, at_once=lambda: None,
        )  # fmt: skip
        ending = await executor.execute()
        took = time.perf_counter() - began
        kept.close()
        await surveyor.close()
        await hosts.close()
        await broker.close()
        done = list(journal.read(path))[-1].outcome
        if ending is not Ending.DONE or done is None or done.report is None:
            raise RuntimeError(f"{ending}: {done}")
        if len(done.report.done) != SERVICES:
            raise RuntimeError(f"not all of them: {done.report}")
        return took

    def ansible(self, program: str, batch: int) -> float:
        (self.folder / "inventory").write_text(
            "".join(
                self._inventory_line(name, self.servers[number % HOSTS])
                for number, name in enumerate(self.names)
            )
        )
        book = self.folder / "book.yaml"
        book.write_text(PLAYBOOK.format(batch=batch, stub=self.stub))
        began = time.perf_counter()
        self._run(program, "-i", str(self.folder / "inventory"), "-f", str(batch), str(book))
        return time.perf_counter() - began

    def ansible_starts(self, program: str) -> float:
        began = time.perf_counter()
        self._run(program, "--version")
        return time.perf_counter() - began

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_HOME": str(self.folder),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            },
        )

    def _inventory_line(self, name: str, server: Sshd) -> str:
        settings = {
            "ansible_host": "127.0.0.1",
            "ansible_port": server.port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": server.key,
            "ansible_ssh_common_args": f"'-F none -o UserKnownHostsFile={server.known_hosts}'",
            "ansible_python_interpreter": sys.executable,
        }
        return f"{name} {' '.join(f'{key}={value}' for key, value in settings.items())}\n"


def compare(lab: Lab, url: str, ansible: str | None, batch: int) -> None:
    alone = lab.alone(batch)
    ours = asyncio.run(lab.ours(url, batch)) - alone
    says = f"{batch} at a time: the services alone {alone:.2f} s; the engine's own {ours:.2f} s"
    if ansible:
        theirs = lab.ansible(ansible, batch) - alone
        rolling = theirs - lab.ansible_starts(ansible)
        says += (
            f"; ansible-playbook's own {theirs:.2f} s, {rolling:.2f} s without its start;"
            f" {ours / theirs:.2f} x, {ours / rolling:.2f} x"
        )
    print(says)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--stop", type=float, default=0.3, help="seconds a stub takes to stop")
    parser.add_argument("--start", type=float, default=0.3, help="seconds a stub takes to start")
    parser.add_argument("--ansible", default=find_ansible(), help="the path of ansible-playbook")
    chosen = parser.parse_args()
    with ExitStack() as started:
        folder = Path(started.enter_context(TemporaryDirectory(prefix="engine-")))
        servers = [started.enter_context(sshd()) for _ in range(HOSTS)]
        lab = Lab(folder, servers, stop=chosen.stop, start=chosen.start)
        write_runbook(folder, "roll", RUNBOOK)
        server = RedisServer(folder / "redis")
        started.callback(server.stop)
        nodes = [
            Node(f"{name}@rig", active=0, reserved=0, pid_file=str(folder / f"{name}.pid"))
            for name in lab.names
        ]
        fleet = SimulatedNodes(server.url(), nodes)
        started.callback(fleet.stop)
        for batch in chosen.batch:
            compare(lab, server.url(), chosen.ansible, batch)
    if not chosen.ansible:
        print("ansible-playbook is not there: pip install celery-ops[bench]")


if __name__ == "__main__":
    main()
