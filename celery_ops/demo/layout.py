"""What a demo consists of, and the files that say so: one directory, readable by its owner only.

The fleet is set up as a careful team would do it: workers acknowledge early and stop warm, the
supervisor waits longer than the longest task, and never signals the pool's children.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from celery_ops.config.secret import Secret

DIRECTORY_VARIABLE = "CELERY_OPS_DEMO"
"""Tells the demo's own processes where they belong; everything else they read from there."""

QUEUES = ("default", "mail", "reports")
STOP_WAIT = 30
"""Seconds between the stop signal and SIGKILL: ten times the longest task."""


@dataclass(frozen=True, slots=True)
class WorkerProgram:
    """A worker as supervisord runs it."""

    name: str
    pool: str
    concurrency: int
    queues: tuple[str, ...]

    @property
    def node(self) -> str:
        return f"{self.name}@demo"


WORKERS = (
    WorkerProgram("prefork1", "prefork", 2, ("default", "reports")),
    WorkerProgram("prefork2", "prefork", 2, ("default", "reports")),
    WorkerProgram("threads1", "threads", 2, ("default", "mail")),
    WorkerProgram("threads2", "threads", 2, ("default", "mail")),
)
"""Every queue has two consumers or more, so one worker at a time can always be spared."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the things of a demo are."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "celery-ops.yaml"

    @property
    def redis_config(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def redis_socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def supervisor_config(self) -> Path:
        return self.directory / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        return self.directory / "supervisor.sock"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def redis_data(self) -> Path:
        return self.directory / "redis"

    @property
    def keeper_log(self) -> Path:
        return self.logs / "keeper.log"

    @property
    def addresses(self) -> Path:
        return self.directory / "addresses.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """The demo's Redis: one database for the broker, and one for the ledger."""

    port: int
    password: Secret

    @property
    def broker(self) -> Secret:
        return self._database(0)

    @property
    def ledger(self) -> Secret:
        return self._database(1)

    def _database(self, number: int) -> Secret:
        return Secret(f"redis://:{self.password.reveal()}@127.0.0.1:{self.port}/{number}")

    @classmethod
    def read(cls, layout: Layout) -> Addresses:
        """Raise OSError if the demo's directory is gone."""
        entry = json.loads(layout.addresses.read_bytes())
        return cls(port=int(entry["port"]), password=Secret(str(entry["password"])))


def write(layout: Layout, name: str, addresses: Addresses) -> None:
    """Fill a new directory: the configuration of Redis, of supervisord, and of celery-ops."""
    for directory in (layout.logs, layout.redis_data):
        directory.mkdir(mode=0o700)
    secret = {"port": addresses.port, "password": addresses.password.reveal()}
    _write(layout.addresses, json.dumps(secret))
    _write(layout.redis_config, redis_config(layout, addresses))
    _write(layout.supervisor_config, supervisor_config(layout))
    _write(layout.config, celery_ops_config(layout, name, addresses))


def redis_config(layout: Layout, addresses: Addresses) -> str:
    """redis.conf: a broker that keeps its messages over a restart and never evicts one."""
    lines = (
        "bind 127.0.0.1",
        f"port {addresses.port}",
        f"unixsocket {json.dumps(str(layout.redis_socket))}",
        "unixsocketperm 700",
        f"requirepass {addresses.password.reveal()}",
        f"dir {json.dumps(str(layout.redis_data))}",
        f"logfile {json.dumps(str(layout.logs / 'redis.log'))}",
        'save ""',
        "appendonly yes",
        "appendfsync no",  # survives a kill of Redis; a slow disk does not hold everybody up
        "auto-aof-rewrite-min-size 16mb",
        "maxmemory-policy noeviction",
    )
    return "\n".join(lines) + "\n"


def supervisor_config(layout: Layout) -> str:
    """supervisord.conf with the four workers, beat and the producer."""
    programs = [
        *(_program(layout, worker.name, _worker_command(worker), 10) for worker in WORKERS),
        _program(layout, "beat", _beat_command(layout), 20),
        _program(layout, "producer", (sys.executable, "-m", "celery_ops.demo.producer"), 30),
    ]
    return _supervisord(layout) + "".join(programs)


def celery_ops_config(layout: Layout, name: str, addresses: Addresses) -> str:
    """celery-ops.yaml: a context of the demo's name, as an operator would write it."""
    server = json.dumps(f"unix://{layout.supervisor_socket}")
    context = json.dumps(name)
    services = [f'supervisord: {one.name}, worker: "{one.node}"' for one in WORKERS]
    services.append("supervisord: beat, beat: true")
    lines = (
        "# A demo of celery-ops on this machine. It is removed when the demo ends.",
        f"default: {context}",
        "contexts:",
        f"  {context}:",
        f"    broker: {json.dumps(addresses.broker.reveal())}",
        "    services:",
        *(f"      - {{host: local, {service}, server: {server}}}" for service in services),
    )
    return "\n".join(lines) + "\n"


def _supervisord(layout: Layout) -> str:
    # Without a user, supervisord warns root at every start.
    user = "user=root\n" if os.geteuid() == 0 else ""
    directory = _escaped(str(layout.directory))
    return (
        "[unix_http_server]\n"
        f"file={_escaped(str(layout.supervisor_socket))}\n"
        "chmod=0700\n"
        "[supervisord]\n"
        f"logfile={directory}/logs/supervisord.log\n"
        f"pidfile={directory}/supervisord.pid\n"
        f"childlogdir={directory}/logs\n"
        "nodaemon=true\n"
        "minfds=256\n"
        "minprocs=64\n"
        f"{user}"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[supervisorctl]\n"
        f"serverurl=unix://{_escaped(str(layout.supervisor_socket))}\n"
    )


def _program(layout: Layout, name: str, command: tuple[str, ...], priority: int) -> str:
    return (
        f"[program:{name}]\n"
        f"command={_escaped(shlex.join(command))}\n"
        f"priority={priority}\n"
        "autostart=true\n"
        "autorestart=true\n"
        "startsecs=2\n"
        f"stopwaitsecs={STOP_WAIT}\n"
        "stopsignal=TERM\n"
        "stopasgroup=false\n"
        "killasgroup=false\n"
        "redirect_stderr=true\n"
        f"stdout_logfile={_escaped(str(layout.logs / name))}.log\n"
        "stdout_logfile_maxbytes=5MB\n"
        "stdout_logfile_backups=1\n"
    )


def _worker_command(worker: WorkerProgram) -> tuple[str, ...]:
    # Gossip and mingle serve no purpose here, and cost a second at each start.
    return (
        *_celery(),
        "worker",
        f"--hostname={worker.node}",
        f"--pool={worker.pool}",
        f"--concurrency={worker.concurrency}",
        f"--queues={','.join(worker.queues)}",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
    )


def _beat_command(layout: Layout) -> tuple[str, ...]:
    schedule = layout.directory / "beat-schedule"
    return (*_celery(), "beat", f"--schedule={schedule}", "--pidfile=", "--loglevel=INFO")


def _celery() -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", "celery_ops.demo.tasks")


def _escaped(text: str) -> str:
    """supervisord expands % in its configuration."""
    return text.replace("%", "%%")


def _write(path: Path, text: str) -> None:
    """A file that nobody else can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
