"""A fleet on machines: three systemd hosts with two workers each, a broker here, and operators.

Each worker is an instance of one template unit and consumes `common`; the first ones of the hosts
consume `mail` as well. Where it is asked for, each host has a scheduler, too. The hosts are reached
by SSH, as a user who may start and stop just these units.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_ops.hosts.systemd import sudoers_line
from celery_ops.model import ServiceRef
from tests.rig import wait_until
from tests.rig.host_celery import celery_layer
from tests.rig.operations import CONF, LOGIN, PIECES, broker_url
from tests.rig.operator import Operators
from tests.rig.poller import Poller
from tests.rig.redis import RedisServer
from tests.rig.sshd import make_key
from tests.rig.systemd_hosts import ENDS_WITH_US, base_file_system, host_network, systemd_hosts
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from redis import Redis

    from tests.rig.operator import Operator
    from tests.rig.systemd_hosts import SystemdHost

CONTEXT = "hosts"
HOSTS = ("web1", "web2", "web3")
INSTANCES = ("w1", "w2")
QUEUES = {"w1": ("common", "mail"), "w2": ("common",)}
READY_DEADLINE = 60.0
UNIT = {
    "User": "celery",
    "WorkingDirectory": "/srv/rig",
    "EnvironmentFile": "/srv/rig/environment",
    "Environment": "RIG_PROGRAM=%i PYTHONPATH=/opt/celery HOME=/home/celery",
    "ExecStart": (
        "/bin/sh -c 'exec python3 -m celery -A rigapp worker -n %i@%H --queues $QUEUES_%i"
        " --pool prefork --concurrency 2 --loglevel INFO --without-gossip --without-mingle'"
    ),
    "KillMode": "mixed",
    "Restart": "always",
    "RestartSec": "1",
    "TimeoutStopSec": "30",
    "WantedBy": f"multi-user.target {' '.join(INSTANCES)}",
}
"""What Celery's manual tells to set is set; `KillMode=mixed` is what it does not tell."""
BEAT = "celery-beat"
BEAT_UNIT = {
    **{key: UNIT[key] for key in ("User", "WorkingDirectory", "EnvironmentFile", "Restart")},
    "Environment": "RIG_PROGRAM=beat PYTHONPATH=/opt/celery HOME=/home/celery",
    "ExecStart": (
        "/bin/sh -c 'exec python3 -m celery -A rigapp beat --schedule /srv/rig/schedule --pidfile='"
    ),
    "RestartSec": "1",
    "WantedBy": "multi-user.target",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A worker: an instance of the template on a host."""

    host: str
    instance: str

    @property
    def node(self) -> str:
        return f"{self.instance}@{self.host}"

    @property
    def service(self) -> ServiceRef:
        return ServiceRef(self.host, "systemd", f"celery@{self.instance}.service")

    @property
    def queues(self) -> tuple[str, ...]:
        return QUEUES[self.instance]


def beat_of(host: str) -> ServiceRef:
    return ServiceRef(host, "systemd", f"{BEAT}.service", beat=True)


def members(*hosts: str) -> tuple[Member, ...]:
    return tuple(Member(host, instance) for host in hosts for instance in INSTANCES)


class HostFleet:
    """The hosts, what runs on them, their broker, and the operators who look after them.

    `fleet` sends tasks and counts them. What is true of a unit is asked of its host itself, without
    SSH; what is true of a worker, by a poller that knows nothing of celery_ops.
    """

    def __init__(
        self,
        folder: Path,
        server: RedisServer,
        fleet: Fleet,
        hosts: Sequence[SystemdHost],
        *,
        beats: bool,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """`settings` are further keys of the context."""
        self.folder = folder
        self._settings = dict(settings or {})
        self.server = server
        self.fleet = fleet
        self.hosts = {host.name: host for host in hosts}
        self.members = members(*self.hosts)
        self.beats = tuple(beat_of(name) for name in self.hosts if beats)
        self.consumers = Counter(queue for one in self.members for queue in one.queues)
        """Of each queue, when all is well."""
        self.key = folder / "key"
        self.known_hosts = folder / "known_hosts"
        self.config = folder / "celery-ops.yaml"
        self.redis: Redis = server.client()
        self.poller = Poller(self.redis)
        self._operators = Operators(PIECES)
        self._trust(hosts)
        self.config.write_text(self.configuration())

    def configuration(self, **ssh: Mapping[str, object]) -> str:
        """A `celery-ops.yaml`; `web1={"port": 2222}` sets how that host is reached, with its
        address among it if that is another.
        """
        hosts = {
            name: {"address": host.address} | _entry(ssh.get(name, {}))
            for name, host in self.hosts.items()
        }
        context = {
            "broker": broker_url(self.server),
            "ssh": {
                "user": "ops",
                "keys": [str(self.key)],
                "known_hosts": str(self.known_hosts),
                "sudo": True,
                "connect_timeout": "5s",
            },
            "hosts": hosts,
            "services": [
                {"host": one.host, "systemd": one.service.name, "worker": one.node}
                for one in self.members
            ]
            + [{"host": one.host, "systemd": one.name, "beat": True} for one in self.beats],
            **self._settings,
        }
        # JSON is YAML.
        return json.dumps({"default": CONTEXT, "contexts": {CONTEXT: context}}, indent=2)

    def operator(self, directory: Path, name: str, *options: str) -> Operator:
        """Somebody with an empty home, who names the configuration unless `options` are given."""
        options = options or ("--config", str(self.config))
        return self._operators.hire(directory, name, *options)

    def trust(self, name: str, address: str) -> None:
        """Let a host's key be known for another address as well: `[127.0.0.1]:2222`."""
        public = (self.hosts[name].root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        with self.known_hosts.open("a") as file:
            file.write(f"{address} {public}")

    def power_cycle(self, name: str) -> None:
        """A host loses its power, and boots."""
        self.hosts[name] = self.hosts[name].power_cycle()

    def wait_until_ready(self) -> None:
        """Until all workers consume; raise TimeoutError with the last words of those who do not."""
        try:
            wait_until(
                lambda: self.poller.consumers() == self.consumers,
                what="all workers",
                timeout=READY_DEADLINE,
            )
        except TimeoutError as error:
            words = "\n".join(
                host.run("journalctl", "-n", "20", "--no-pager", "-u", "celery@*")
                for host in self.hosts.values()
            )
            raise TimeoutError(f"{error}\n{words}") from error

    def logged(self, task_ids: Collection[str]) -> str:
        """What the workers have logged of these tasks, and all of their warnings and errors."""
        wanted = ("WARNING", "ERROR", "CRITICAL", "signal", *task_ids)
        journal = ("journalctl", "--no-pager", "-o", "short-iso-precise", "--utc", "-u", "celery@*")
        return "\n".join(
            line
            for host in self.hosts.values()
            for line in host.run(*journal).splitlines()
            if any(word in line for word in wanted)
        )

    def close(self) -> None:
        """Close the connections; what runs is ended by whoever started it."""
        self.redis.close()
        self.fleet.stop()

    # --- what is promised ---

    def show(self, member: Member, *properties: str) -> dict[str, str]:
        """What systemd says of a worker's unit, asked on the host itself."""
        return self.show_unit(member.service, *properties)

    def show_unit(self, service: ServiceRef, *properties: str) -> dict[str, str]:
        """The same of any unit."""
        host = self.hosts[service.host]
        asked = ",".join(properties)
        out = host.run("systemctl", "show", "-p", asked, service.name)
        return dict(line.split("=", 1) for line in out.splitlines())

    def incarnations(self) -> dict[str, str]:
        """The life of each worker, as its own systemd tells it."""
        return {one.node: self.show(one, "InvocationID")["InvocationID"] for one in self.members}

    def running(self) -> set[str]:
        """The workers whose unit is active, and which are to run when their host boots again."""
        shown = {one.node: self.show(one, "ActiveState", "UnitFileState") for one in self.members}
        up = {"ActiveState": "active", "UnitFileState": "enabled"}
        return {node for node, told in shown.items() if told == up}

    def nothing_is_taken(self) -> bool:
        """No worker owes or is owed anything, says the broker itself."""
        return not self.redis.exists("celery-ops:taken")

    def leaks(self) -> list[str]:
        """Every file of an operator's in which the broker's password can be read."""
        return self._operators.leaks()

    def dismiss(self) -> None:
        """End what the operators have started; what they wrote stays."""
        self._operators.dismiss()

    def _trust(self, hosts: Sequence[SystemdHost]) -> None:
        self.known_hosts.touch()
        for host in hosts:
            self.trust(host.name, host.address)


@contextlib.contextmanager
def host_fleet(
    folder: Path,
    *hosts: str,
    unit: Mapping[str, str] | None = None,
    sudoers: Sequence[str] | None = None,
    beats: bool = False,
    beat: Mapping[str, str] | None = None,
    files: Callable[[str], Mapping[str, str]] | None = None,
    links: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Iterator[HostFleet]:
    """Boot these hosts, or three, and wait for all workers. At the end nothing is left.

    `unit` changes keys of the template; `sudoers` is what ops may do, else the least there is;
    with `beats` each host has a scheduler that is started at boot, by the unit `beat`. `files`
    makes further ones of the text of the application. `settings` are further keys of the context.
    """
    hosts = hosts or HOSTS
    layer = celery_layer(base_file_system())
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(host_network())
        server = RedisServer(
            folder / "redis", arguments=LOGIN, address=network.here, wrapper=ENDS_WITH_US
        )
        stack.callback(server.stop)
        # What runs in a host knows no other address, and neither does who sends.
        fleet = Fleet(folder / "app", broker_url(server), server.url(1), CONF)
        application = (folder / "app/rigapp.py").read_text()
        booted = stack.enter_context(
            systemd_hosts(
                *hosts,
                units={
                    "celery@": {**UNIT, **(unit or {})},
                    **({BEAT: beat or BEAT_UNIT} if beats else {}),
                },
                key=make_key(folder / "key").with_suffix(".pub").read_text().strip(),
                sudoers="\n".join(least_rights() if sudoers is None else sudoers),
                network=network,
                layers=[layer],
                files={
                    "srv/rig/rigapp.py": application,
                    "srv/rig/environment": _environment(fleet),
                    "srv/rig/faults/none": "",
                    **({} if files is None else files(application)),
                },
                links=links,
            )
        )
        made = HostFleet(folder, server, fleet, booted, beats=beats, settings=settings)
        stack.callback(made.close)
        stack.callback(made.dismiss)
        made.wait_until_ready()
        yield made


def least_rights() -> list[str]:
    """What lets the user ops start and stop these units and nothing else, a line each."""
    services = [*(Member("any", instance).service for instance in INSTANCES), beat_of("any")]
    return [sudoers_line(one).replace("USER", "ops") for one in services]


def _environment(fleet: Fleet) -> str:
    """As systemd reads it: nothing is special between single quotes."""
    variables = fleet.environment()
    variables |= {f"QUEUES_{one}": ",".join(queues) for one, queues in QUEUES.items()}
    return "".join(f"{name}='{value}'\n" for name, value in variables.items())


def _entry(ssh: Mapping[str, object]) -> dict[str, Any]:
    """The keys of a host's entry: `address` stands beside `ssh`."""
    settings = dict(ssh)
    address = {"address": settings.pop("address")} if "address" in settings else {}
    return {**address, **({"ssh": settings} if settings else {})}
