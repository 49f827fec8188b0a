"""Contexts: which broker, which workers are ours, which machines and services carry them.

Owns the meaning of `celery-ops.yaml`; which keys there are, and of what kind, stands in
`celery_ops.config.layout`. Opens the configuration file and nothing else.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.secret import Secret, masked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_ops.model import ServiceRef

LOCAL = "local"
"""The machine celery-ops runs on: a host that always exists."""


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How hosts are reached by SSH. None: as `~/.ssh/config` and OpenSSH's defaults say.

    `sudo` runs supervisors' commands through `sudo -n`: no password is ever asked for or kept.
    """

    user: str | None = None
    port: int | None = None
    jump: str | None = None
    known_hosts: Path | None = None
    keys: tuple[Path, ...] = ()
    config: Path | None = None
    sudo: bool = False
    connect_timeout: float = 10.0
    """Seconds until a host that does not answer counts as unreachable."""


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A machine. `hostname` is what `%h` of a node name stands for there."""

    name: str
    address: str
    hostname: str
    ssh: SshSettings = SshSettings()

    @property
    def is_local(self) -> bool:
        return self.name == LOCAL


@dataclass(frozen=True, slots=True)
class ServiceCommands:
    """The argvs that stand in for a supervisor of its own: each is run as it is, never by a shell."""

    status: tuple[str, ...]
    start: tuple[str, ...]
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SymlinkRelease:
    """A release is a directory below `releases`; `current` is the link to the one in use."""

    current: str
    releases: str


@dataclass(frozen=True, slots=True)
class CommandRelease:
    """A release is whatever these argvs say it is; the release's name is added as the last word."""

    current: tuple[str, ...]
    activate: tuple[str, ...]
    exists: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ImageRelease:
    """A release is a tag of this container image."""

    image: str


Release = SymlinkRelease | CommandRelease | ImageRelease


@dataclass(frozen=True, slots=True)
class Probe:
    """A harmless task that proves that a queue works end to end, within `timeout` seconds."""

    task: str
    queues: tuple[str, ...]
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Context:
    """One Celery deployment: a broker, its workers, and the machines they run on."""

    name: str
    broker: Secret
    broker_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    """kombu's transport options. Not shown: a sentinel's password stands here."""
    results: Secret | None = None
    app: str | None = None
    scope: tuple[str, ...] = ()
    """Globs of the node names that are ours; empty: all of them."""
    protected: bool = False
    read_only: bool = False
    accept_pickle: bool = False
    control_exchange: str = "celery"
    event_exchange: str = "celeryev"
    ssh: SshSettings = SshSettings()
    hosts: tuple[HostEntry, ...] = ()
    """`local` is always among them."""
    services: tuple[ServiceRef, ...] = ()
    commands: Mapping[ServiceRef, ServiceCommands] = field(default_factory=dict)
    """The commands of the services whose supervisor is `commands`."""
    server_passwords: Mapping[str, Secret] = field(default_factory=dict)
    """Passwords of supervisors' servers, by `ServiceRef.server`, which never contains one."""
    release: Release | None = None
    probe: Probe | None = None
    directory: Path | None = None
    """Where the file is; the user's own runbooks are in `runbooks/` beside it."""

    @property
    def address(self) -> str:
        """The broker's URL for people: without its password."""
        return masked(self.broker.reveal())

    def owns(self, node: str) -> bool:
        """Whether a node name is in this context's scope."""
        return not self.scope or any(fnmatch.fnmatchcase(node, glob) for glob in self.scope)

    def host(self, name: str) -> HostEntry | None:
        return next((host for host in self.hosts if host.name == name), None)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything a `celery-ops.yaml` says; without a file there are no contexts."""

    file: Path | None = None
    default: str | None = None
    contexts: Mapping[str, Context] = field(default_factory=dict)
