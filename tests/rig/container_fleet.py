"""A fleet in containers: real workers under a real docker and compose, a broker, and operators.

All consume `common`, one of docker's and one of compose's `mail` as well. A further worker is below
a shell that is PID 1, as many images have it; it consumes a queue of its own.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rig import wait_until
from tests.rig.dockerd import Dockerd, compose_file, dockerd
from tests.rig.missing import missing
from tests.rig.operations import CONF, LOGIN, PIECES, broker_url
from tests.rig.operator import Operators
from tests.rig.poller import Poller
from tests.rig.redis import RedisServer
from tests.rig.workers import Fleet, worker_command

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from redis import Redis

    from tests.rig.operator import Operator

CONTEXT = "containers"
PROJECT = "shop"
READY_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """A worker in a container. `before` is what PID 1 is, if that is not the worker itself."""

    name: str
    supervisor: str
    queues: tuple[str, ...] = ("common",)
    before: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        return f"{self.name}@box"

    @property
    def service(self) -> str:
        """As celery-ops.yaml names it."""
        return f"{PROJECT}/{self.name}" if self.supervisor == "compose" else self.name

    @property
    def container(self) -> str:
        return f"{PROJECT}_{self.name}_1" if self.supervisor == "compose" else self.name

    @property
    def command(self) -> tuple[str, ...]:
        options = ("--queues", ",".join(self.queues), "--pool", "prefork", "--concurrency", "2")
        celery = worker_command(self.node, *options, "--without-gossip", "--without-mingle")
        return (*self.before, *celery)


SHELLED = Member("shelled", "docker", ("shelled",), ("sh", "-c", '"$@"; exit $?', "sh"))
MEMBERS = (
    Member("first", "docker", ("common", "mail")),
    Member("under-init", "docker", before=("tini", "--")),
    Member("one", "compose", ("common", "mail")),
    Member("two", "compose"),
)


class ContainerFleet:
    """The daemon with its workers, their broker, and the operators who look after them."""

    def __init__(self, folder: Path, server: RedisServer, fleet: Fleet, daemon: Dockerd) -> None:
        self.folder = folder
        self.server = server
        self.fleet = fleet
        self.daemon = daemon
        self.redis: Redis = server.client()
        self.poller = Poller(self.redis)
        self.consumers = Counter(queue for one in (*MEMBERS, SHELLED) for queue in one.queues)
        self.config = folder / "celery-ops.yaml"
        self.config.write_text(self._configuration())
        self._operators = Operators(PIECES)

    def operator(self, directory: Path, name: str, *options: str) -> Operator:
        options = options or ("--config", str(self.config))
        return self._operators.hire(directory, name, *options)

    def wait_until_ready(self) -> None:
        """Until all workers consume; raise TimeoutError with the last words of all."""
        try:
            wait_until(
                lambda: self.poller.consumers() == self.consumers,
                what="all workers",
                timeout=READY_DEADLINE,
            )
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logged(())}") from error

    def logged(self, task_ids: Collection[str]) -> str:
        """What the workers have logged of these tasks, and all of their warnings and errors."""
        wanted = ("WARNING", "ERROR", "CRITICAL", "signal", *task_ids)
        said = [
            self.daemon.run("sh", "-c", 'docker logs --tail 500 "$1" 2>&1', "sh", one.container)
            for one in (*MEMBERS, SHELLED)
        ]
        lines = "\n".join(said).splitlines()
        return "\n".join(line for line in lines if any(word in line for word in wanted))

    def lives(self) -> dict[str, str]:
        """The life of each worker, as docker itself tells it."""
        shape = "{{.Id}} {{.State.StartedAt}}"
        return {one.node: self.daemon.inspect(one.container, shape) for one in MEMBERS}

    def leaks(self) -> list[str]:
        """Every file of an operator's in which the broker's password can be read."""
        return self._operators.leaks()

    def dismiss(self) -> None:
        self._operators.dismiss()

    def close(self) -> None:
        self.dismiss()
        self.redis.close()
        self.fleet.stop()

    def _configuration(self) -> str:
        services = [
            {
                "host": "local",
                one.supervisor: one.service,
                "worker": one.node,
                "server": self.daemon.server,
            }
            for one in (*MEMBERS, SHELLED)
        ]
        context = {"broker": broker_url(self.server), "services": services}
        # JSON is YAML.
        return json.dumps({"default": CONTEXT, "contexts": {CONTEXT: context}}, indent=2)


@contextlib.contextmanager
def container_fleet(folder: Path) -> Iterator[ContainerFleet]:
    """Start all of it, and wait for all workers. At the end nothing is left."""
    if shutil.which("docker-compose") is None:
        missing("docker-compose (Debian: docker-compose)")
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(dockerd())
        server = RedisServer(folder / "redis", arguments=LOGIN)
        stack.callback(server.stop)
        fleet = Fleet(folder / "app", broker_url(server), server.url(1), CONF)
        made = ContainerFleet(folder, server, fleet, daemon)
        stack.callback(made.close)
        _start(folder / "app", fleet, daemon)
        made.wait_until_ready()
        yield made


def _start(app: Path, fleet: Fleet, daemon: Dockerd) -> None:
    environment = fleet.environment() | {"C_FORCE_ROOT": "1"}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--workdir={app}", f"--volume={app}:{app}", "--stop-timeout=30"]
    by_docker = [one for one in (*MEMBERS, SHELLED) if one.supervisor == "docker"]
    for one in by_docker:
        daemon.make(one.name, *options, "--restart=always", command=one.command)
    daemon.do("start", *(one.name for one in by_docker))
    written = compose_file(
        {
            one.name: {
                "command": [word.replace("$", "$$") for word in one.command],
                "environment": environment,
                "working_dir": str(app),
                "volumes": [f"{app}:{app}"],
                "stop_grace_period": "30s",
                "restart": "unless-stopped",
            }
            for one in MEMBERS
            if one.supervisor == "compose"
        }
    )
    file = app / "compose.json"
    file.write_text(json.dumps(written))
    daemon.run("docker-compose", "--file", str(file), "--project-name", PROJECT, "up", "--detach")
