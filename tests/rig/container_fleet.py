"""A fleet in containers: real workers under a real docker and compose, a broker, and operators.

All consume `common`, one of docker's and one of compose's `mail` as well. A further worker is below
a shell that is PID 1, as many images have it; it consumes a queue of its own.

Another fleet is compose's alone, with a scheduler: its containers are made of the image that a
variable names, v2 at the beginning, and of which there is v1 too.
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
from tests.rig.workers import Fleet, beat_command, worker_command

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from redis import Redis

    from tests.rig.operator import Operator

CONTEXT = "containers"
PROJECT = "shop"
FILE = "compose.json"
READY_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """A worker in a container, or a scheduler. `before` is what PID 1 is, if that is not the worker
    itself.
    """

    name: str
    supervisor: str
    queues: tuple[str, ...] = ("common",)
    before: tuple[str, ...] = ()
    beat: bool = False

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
        if self.beat:
            return beat_command(self.name)
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
RELEASED = (
    Member("one", "compose", ("common", "mail")),
    Member("two", "compose", ("common", "mail")),
    Member("clock", "compose", (), beat=True),
)
IMAGE = "shop/app"
VARIABLE = "TAG"
TICKS = {"task": "rig.ping", "schedule": 1.0, "options": {"queue": "common"}}


class ContainerFleet:
    """The daemon with its workers, their broker, and the operators who look after them."""

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        fleet: Fleet,
        daemon: Dockerd,
        members: Sequence[Member],
    ) -> None:
        self.folder = folder
        self.server = server
        self.fleet = fleet
        self.daemon = daemon
        self.members = tuple(members)
        self.redis: Redis = server.client()
        self.poller = Poller(self.redis)
        self.consumers = Counter(queue for one in members for queue in one.queues)
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
            for one in self.members
        ]
        lines = "\n".join(said).splitlines()
        return "\n".join(line for line in lines if any(word in line for word in wanted))

    def lives(self) -> dict[str, str]:
        """The life of each worker, as docker itself tells it."""
        shape = "{{.Id}} {{.State.StartedAt}}"
        return {one.node: self.daemon.inspect(one.container, shape) for one in self.members}

    def running(self) -> set[str]:
        """The workers whose container runs, says docker itself."""
        shape = "{{.State.Running}}"
        return {
            one.node for one in self.members if self.daemon.inspect(one.container, shape) == "true"
        }

    def leaks(self) -> list[str]:
        """Every file of an operator's in which the broker's password can be read."""
        return self._operators.leaks()

    def dismiss(self) -> None:
        self._operators.dismiss()

    def close(self) -> None:
        self.dismiss()
        self.redis.close()
        self.fleet.stop()

    @property
    def app(self) -> Path:
        return self.folder / "app"

    def _configuration(self) -> str:
        context: dict[str, object] = {
            "broker": broker_url(self.server),
            "services": [self._service(one) for one in self.members],
        }
        if self.members == RELEASED:
            env_file = str(self.app / ".env")
            image = {"name": IMAGE, "env_file": env_file, "variable": VARIABLE}
            context["release"] = {"image": image}
        # JSON is YAML.
        return json.dumps({"default": CONTEXT, "contexts": {CONTEXT: context}}, indent=2)

    def _service(self, one: Member) -> dict[str, object]:
        what = {"beat": True} if one.beat else {"worker": one.node}
        files = {"files": [str(self.app / FILE)]} if self.members == RELEASED else {}
        at = {"host": "local", "server": self.daemon.server}
        return {**at, one.supervisor: one.service, **what, **files}


@contextlib.contextmanager
def container_fleet(
    folder: Path, members: Sequence[Member] = (*MEMBERS, SHELLED)
) -> Iterator[ContainerFleet]:
    """Start all of it, and wait for all workers. At the end nothing is left."""
    if shutil.which("docker-compose") is None:
        missing("docker-compose (Debian: docker-compose)")
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(dockerd())
        server = RedisServer(folder / "redis", arguments=LOGIN)
        stack.callback(server.stop)
        conf = CONF | ({"beat_schedule": {"tick": TICKS}} if members == RELEASED else {})
        fleet = Fleet(folder / "app", broker_url(server), server.url(1), conf)
        made = ContainerFleet(folder, server, fleet, daemon, members)
        stack.callback(made.close)
        _start(made)
        made.wait_until_ready()
        yield made


def _start(made: ContainerFleet) -> None:
    app, daemon = made.app, made.daemon
    environment = made.fleet.environment() | {"C_FORCE_ROOT": "1"}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += [f"--workdir={app}", f"--volume={app}:{app}", "--stop-timeout=30"]
    by_docker = [one for one in made.members if one.supervisor == "docker"]
    for one in by_docker:
        daemon.make(one.name, *options, "--restart=always", command=one.command)
    if by_docker:
        daemon.do("start", *(one.name for one in by_docker))
    image = {}
    if made.members == RELEASED:
        image = {"image": f"{IMAGE}:${{{VARIABLE}}}"}
        for tag in ("v1", "v2"):
            daemon.image(f"{IMAGE}:{tag}", RELEASE=tag)
        (app / ".env").write_text(f"# what is in use\n{VARIABLE}=v2\n")
    written = compose_file(
        {
            one.name: {
                "command": [word.replace("$", "$$") for word in one.command],
                "environment": environment,
                "working_dir": str(app),
                "volumes": [f"{app}:{app}"],
                "stop_grace_period": "30s",
                "restart": "unless-stopped",
                **image,
            }
            for one in made.members
            if one.supervisor == "compose"
        }
    )
    file = app / FILE
    file.write_text(json.dumps(written))
    daemon.run("docker-compose", "--file", str(file), "--project-name", PROJECT, "up", "--detach")
