"""A small fleet as a team runs it: real workers under a real supervisord, and operators.

Its broker asks for a password, and wants to see it: one that has to be quoted in a URL. Each worker
consumes the queue `common` and one of its own name, so that a task can be sent to a certain worker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shlex
import signal
import xmlrpc.client
from base64 import b64decode
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.rig import wait_until
from tests.rig.operator import Operators
from tests.rig.poller import Poller
from tests.rig.redis import RedisServer
from tests.rig.supervisord import supervisord
from tests.rig.workers import Fleet, beat_command, worker_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from redis import Redis

    from tests.rig.operator import Operator
    from tests.rig.supervisord import Rig

PASSWORD = "s3cr3t-Pässw0rd/%"
LOGIN = ("--user", "ops", "on", f">{PASSWORD}", "~*", "&*", "+@all")
PIECES = (b"s3cr3t", b"ssw0rd")
"""At least one of these is left of the password, however it is quoted, encoded or cut."""

CONTEXT = "rig"
COMMON = "common"
CONF = {
    "task_default_queue": COMMON,
    "accept_content": ["json", "yaml"],
    "worker_prefetch_multiplier": 4,
    "broker_connection_retry_on_startup": True,
}


@dataclass(frozen=True)
class Program:
    """A worker as supervisord runs it, or a scheduler. `node` is its own name unless given;
    `packages` is a folder with further ones, `environment` further variables. With `stop_as_group`
    the stop signal goes to the pool's children, too.
    """

    name: str
    pool: str = "threads"
    queues: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    node: str = ""
    autostart: bool = True
    beat: bool = False
    packages: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    stop_as_group: bool = False

    @property
    def node_name(self) -> str:
        return f"{self.node or self.name}@rig"

    @property
    def all_queues(self) -> tuple[str, ...]:
        return (COMMON, self.name) if self.queues is None else self.queues

    def settings(self, fleet: Fleet, folder: Path) -> dict[str, str]:
        """The keys of its section of supervisord.conf."""
        environment = fleet.environment() | {"RIG_PROGRAM": self.name} | dict(self.environment)
        if self.packages:
            environment["PYTHONPATH"] = self.packages
        command = self._command()
        keys = {
            "command": shlex.join(command),
            "directory": str(folder),
            "environment": ",".join(f"{key}='{value}'" for key, value in environment.items()),
            "autostart": str(self.autostart).lower(),
            "startsecs": "1",
            "startretries": "0",
            "stopwaitsecs": "30",
            "stopasgroup": str(self.stop_as_group).lower(),
        }
        return {key: value.replace("%", "%%") for key, value in keys.items()}

    def service(self, *, claims: bool) -> str:
        """What its entry in celery-ops.yaml says of it; `claims` its node's name."""
        if self.beat:
            return "beat: true"
        return f"worker: {self.node_name!r}" if claims else ""

    def _command(self) -> tuple[str, ...]:
        if self.beat:
            return (*beat_command(self.name), *self.arguments)
        return worker_command(
            self.node_name,
            *("--pool", self.pool, "--concurrency", "1", "--queues", ",".join(self.all_queues)),
            *("--without-gossip", "--without-mingle", *self.arguments),
        )


class Operations:
    """The fleet, its broker, and the operators who look after it."""

    def __init__(
        self, folder: Path, server: RedisServer, fleet: Fleet, rig: Rig, programs: Sequence[Program]
    ) -> None:
        self.folder = folder
        self.server = server
        self.fleet = fleet
        self.rig = rig
        self.programs = {program.name: program for program in programs}
        self.config = folder / "celery-ops.yaml"
        self.redis: Redis = server.client()
        self.poller = Poller(self.redis)
        self._operators = Operators(PIECES)
        settings = {"broker": self.url, **self.settings}
        _write_config(self.config, settings, rig, programs)
        # Not above: where supervisor is missing, its rig skips the test and says why.
        transport: Any = importlib.import_module("supervisor.xmlrpc").SupervisorTransport
        self._transport = transport(None, None, rig.server)
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", self._transport)
        self._supervisor = proxy.supervisor

    @property
    def url(self) -> str:
        return broker_url(self.server)

    @property
    def settings(self) -> Mapping[str, str]:
        """What the context says beside its broker's URL and its services."""
        return {}

    def config_with(self, name: str, server: str) -> Path:
        """A configuration beside the usual one that finds supervisord somewhere else."""
        path = self.folder / f"{name}.yaml"
        path.write_text(self.config.read_text().replace(self.rig.server, server))
        return path

    def operator(self, directory: Path, name: str, *options: str) -> Operator:
        """Somebody with an empty home, who names the configuration unless `options` are given."""
        options = options or ("--config", str(self.config))
        return self._operators.hire(directory, name, *options)

    # --- workers ---

    def close(self) -> None:
        """Close the connections; what runs is ended by whoever started it."""
        self._transport.close()
        self.redis.close()
        self.fleet.stop()

    def start(self, *names: str) -> None:
        """Have supervisord start programs, and wait until their workers consume."""
        for name in names:
            self._supervisor.startProcess(name, False)
        self.wait_until_ready(*names)

    def wait_until_ready(self, *names: str) -> None:
        """Wait until these programs' workers consume; raise TimeoutError with their last words."""
        for name in names:
            try:
                wait_until(partial(self._is_ready, name), what=f"worker {name}")
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{self.rig.log(name)[-2000:]}") from error

    def stop(self, *names: str) -> None:
        for name in names:
            self._supervisor.stopProcess(name, True)

    def stop_elsewhere(self, name: str) -> None:
        """The same by a connection of its own: for another thread."""
        transport: Any = importlib.import_module("supervisor.xmlrpc").SupervisorTransport
        with contextlib.closing(transport(None, None, self.rig.server)) as own:
            supervisor: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", own).supervisor
            supervisor.stopProcess(name, True)

    def pid(self, name: str) -> int:
        """The pid of a program, as its supervisor says; 0 if it does not run."""
        info: Any = self._supervisor.getProcessInfo(name)
        return int(info["pid"])

    def running(self) -> set[str]:
        """The workers whose program runs, says their supervisor itself."""
        return {
            one.node_name for name, one in self.programs.items() if self._state(name) == "RUNNING"
        }

    def spawned(self, name: str) -> int:
        """How often a program was started, says its supervisor."""
        log = (self.rig.folder / "supervisord.log").read_text()
        return log.count(f"spawned: '{name}' with pid")

    def revived(self, *names: str) -> bool:
        """All of these run and answer; those that were given up are started again."""
        for name in names:
            if self._state(name) in {"EXITED", "FATAL"}:
                self._supervisor.startProcess(name, False)
        answering = self.poller.consuming().keys()
        return all(self.programs[name].node_name in answering for name in names)

    def kill(self, name: str) -> None:
        """kill -9; return when its supervisor has started it again, and it consumes."""
        # One that dies sooner after its start is given up.
        wait_until(lambda: self._state(name) == "RUNNING", what=f"{name} is running")
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pid(name) not in {0, pid}, what=f"another process of {name}")
        wait_until(lambda: self.consumes_all(name), what=f"{name} consumes again")

    def _state(self, name: str) -> str:
        info: Any = self._supervisor.getProcessInfo(name)
        return str(info["statename"])

    def _is_ready(self, name: str) -> bool:
        log = self.rig.folder / f"{name}.log"
        last_words = "beat: Starting" if self.programs[name].beat else " ready."
        return log.exists() and last_words in self.rig.log(name)

    # --- what is promised ---

    def nothing_is_taken(self) -> bool:
        """No worker owes or is owed anything, says the broker itself."""
        return not self.redis.exists("celery-ops:taken")

    def consumes_all(self, *names: str) -> bool:
        """These workers consume exactly their queues, say they themselves."""
        consuming = self.poller.consuming()
        return all(
            [queue["name"] for queue in consuming.get(program.node_name, ())]
            == sorted(program.all_queues)
            for program in (self.programs[name] for name in names)
        )

    def consumed_by(self, node: str) -> list[dict[str, Any]]:
        """What a worker says it consumes, with all it says of each queue."""
        said: dict[str, list[dict[str, Any]]] = {}

        def has_answered() -> bool:
            said.update(self.poller.consuming())
            return node in said

        wait_until(has_answered, what=f"{node} says what it consumes")
        return said[node]

    def numbers_of_unacked(self) -> set[int]:
        """The numbers of the tasks that workers hold and have not acknowledged."""
        held: Any = self.redis.hvals("unacked")
        messages = [json.loads(entry)[0] for entry in held]
        return {json.loads(b64decode(message["body"]))[0][0] for message in messages}

    def leaks(self) -> list[str]:
        """Every file of an operator's in which the broker's password can be read."""
        return self._operators.leaks()

    def dismiss(self) -> None:
        """End what the operators have started; what they wrote stays."""
        self._operators.dismiss()


@contextlib.contextmanager
def operations(
    folder: Path,
    *programs: Program,
    conf: Mapping[str, object] | None = None,
    redis: Sequence[str] = (),
    counts: str = "",
) -> Iterator[Operations]:
    """A fleet of these programs, all that start by themselves ready. At the end nothing is left.

    `redis` are further arguments of its server; `counts` is the URL where tasks are counted, for
    tests that take the broker away: another database of the broker's own server unless given.
    """
    server = RedisServer(folder / "redis", arguments=(*LOGIN, *redis))
    try:
        url = broker_url(server)
        fleet = Fleet(folder / "app", url, counts or server.url(1), {**CONF, **(conf or {})})
        sections = {one.name: one.settings(fleet, folder / "app") for one in programs}
        with supervisord(sections) as rig:
            made = Operations(folder, server, fleet, rig, programs)
            try:
                made.wait_until_ready(*(one.name for one in programs if one.autostart))
                yield made
            finally:
                made.dismiss()
                made.close()
    finally:
        server.stop()


def broker_url(server: RedisServer) -> str:
    return f"redis://ops:{quote(PASSWORD, safe='')}@{server.address}:{server.port}/0"


def _write_config(
    path: Path, settings: Mapping[str, str], rig: Rig, programs: Sequence[Program]
) -> None:
    where = f"server: {json.dumps(rig.server)}"
    claimed: set[str] = set()
    services = []
    for program in programs:
        says = program.service(claims=program.node_name not in claimed)
        claimed.add(program.node_name)
        entry = ", ".join(part for part in (f"supervisord: {program.name}", says, where) if part)
        services.append(f"{{host: local, {entry}}}")
    lines = [
        f"default: {CONTEXT}",
        "contexts:",
        f"  {CONTEXT}:",
        *(f"    {key}: {json.dumps(value)}" for key, value in settings.items()),
        "    services:",
        *(f"      - {service}" for service in services),
    ]
    path.write_text("\n".join(lines) + "\n")
