"""Contexts: which broker, which workers are ours, which machines and services carry them.

Owns the meaning of `celery-ops.yaml`; which keys there are, and of what kind, stands in
`celery_ops.config.layout`. Opens the configuration file and nothing else.
"""

from __future__ import annotations

import fnmatch
import re
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.config import layout
from celery_ops.config.document import MAX_BYTES, Reader, decoded, did_you_mean, parse, shown
from celery_ops.config.kinds import Source, known_name
from celery_ops.config.secret import Secret, masked
from celery_ops.config.services import ServiceCommands, Services
from celery_ops.errors import InvalidDocument, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from celery_ops.config.detached import DetachedNode
    from celery_ops.config.kinds import Schema, Values
    from celery_ops.errors import Problem
    from celery_ops.model import ServiceRef

FILE_NAME = "celery-ops.yaml"

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
class SymlinkRelease:
    """A release is a directory below `releases`; `current` is the link to the one in use.

    `tasks` prints the names of a release's tasks, one a word; its directory is the last word. None:
    the release is asked itself, by its interpreter.
    """

    current: str
    releases: str
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CommandRelease:
    """A release is whatever these argvs say it is; the release's name is added as the last word to
    `activate`, `exists` and `tasks`. `releases` prints all, from old to new.
    """

    current: tuple[str, ...]
    activate: tuple[str, ...]
    exists: tuple[str, ...] | None = None
    releases: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ImageRelease:
    """A release is a tag of the image `name`; that in use stands in `env_file`, the file that
    compose reads its variables from on a host, as the value of `variable`.

    `tasks` prints the names of a release's tasks; its name is added as the last word. None: the
    image is asked itself, by its interpreter.
    """

    name: str
    env_file: str
    variable: str
    tasks: tuple[str, ...] | None = None


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
    management: Secret | None = None
    """The URL of RabbitMQ's management API."""
    results: Secret | None = None
    app: str | None = None
    scope: tuple[str, ...] = ()
    """Globs of the node names that are ours; empty: all of them."""
    protected: bool = False
    read_only: bool = False
    accept_pickle: bool = False
    control_exchange: str = "celery"
    event_exchange: str = "celeryev"
    mask: tuple[str, ...] = ()
    """Globs of further names of arguments whose values are not shown."""
    ssh: SshSettings = SshSettings()
    hosts: tuple[HostEntry, ...] = ()
    """`local` is always among them."""
    services: tuple[ServiceRef, ...] = ()
    commands: Mapping[ServiceRef, ServiceCommands] = field(default_factory=dict)
    """The commands of the services whose supervisor is `commands`."""
    nodes: Mapping[ServiceRef, DetachedNode] = field(default_factory=dict)
    """What is known of the nodes that run by themselves: supervisor `multi`."""
    compose_files: Mapping[ServiceRef, tuple[str, ...]] = field(default_factory=dict)
    """The files of the services of compose that have any written."""
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
    """Everything a `celery-ops.yaml` says; without a file there are no contexts.

    `incomplete` are contexts that name environment variables which are not set, with the places:
    they cannot be used, and do not keep the others from being used.
    """

    file: Path | None = None
    default: str | None = None
    contexts: Mapping[str, Context] = field(default_factory=dict)
    incomplete: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)


def find(
    explicit: Path | None, *, environ: Mapping[str, str], cwd: Path, home: Path
) -> Path | None:
    """The configuration file to use, or None if there is none.

    The one that was named (`explicit`, then `$CELERY_OPS_CONFIG`) is returned whether it exists or
    not; the others are `celery-ops.yaml` in `cwd` and in the user's configuration directory.
    """
    if explicit is not None:
        return explicit
    named = environ.get("CELERY_OPS_CONFIG")
    if named:
        return cwd / named
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG base directory specification: a relative path there is invalid and ignored.
    configured = home / ".config" if not base.startswith("/") else home / base
    candidates = (cwd / FILE_NAME, configured / "celery-ops" / FILE_NAME)
    return next((path for path in candidates if path.is_file()), None)


def load(path: Path, environ: Mapping[str, str]) -> Configuration:
    """Read and check a configuration file.

    Raise UsageError if it cannot be read, InvalidDocument with every problem in it otherwise. A
    variable that is not set makes its context `incomplete`, which is an error once it is chosen.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    reader = Reader()
    root = parse(decoded(content, str(path)), str(path))
    source = Source(reader, environ, path.parent)
    values = layout.FILE.read(source, root, "the configuration")
    written = (values.get(layout.CONTEXTS) if values else None) or {}
    contexts = {name: _context(source, name, entry) for name, entry in written.items()}
    default = values.get(layout.DEFAULT) if values else None
    if default is not None and written:
        known_name(source, default, tuple(written), "context")
    reader.finish()
    return Configuration(
        file=path,
        default=default.text if default else None,
        contexts={name: one for name, one in contexts.items() if not written[name].unset},
        incomplete={name: one.unset for name, one in written.items() if one.unset},
    )


def only_broker(url: str) -> Context:
    """The context of `-b URL`: a broker and nothing else, named after its masked address.

    Raise UsageError if it is not a URL.
    """
    if not _URL.match(url):
        raise UsageError("The broker is not a URL.", fix=_BROKER_FIX)
    return Context(masked(url), Secret(url), hosts=(_local(SshSettings()),))


def select(configuration: Configuration, name: str | None) -> Context:
    """The context of that name, else the default one, else the only one.

    Raise UsageError if there is none or it is not clear which is meant, InvalidDocument if it lacks
    an environment variable.
    """
    names = (*configuration.contexts, *configuration.incomplete)
    wanted = name or configuration.default or (names[0] if len(names) == 1 else None)
    if wanted is None and not names:
        raise UsageError("No broker is known.", fix=_BROKER_FIX)
    if wanted is None:
        raise UsageError(
            f"{configuration.file} has {len(names)} contexts and no default.",
            fix=f"Choose one with -c: {', '.join(sorted(names))}.",
        )
    if wanted in configuration.incomplete:
        raise InvalidDocument(configuration.incomplete[wanted])
    if wanted not in configuration.contexts:
        where = configuration.file or "the configuration, for there is no file"
        raise UsageError(
            f"No context is called {shown(wanted)} in {where}{did_you_mean(wanted, names)}.",
            fix=f"There are: {', '.join(sorted(names))}." if names else _BROKER_FIX,
        )
    return configuration.contexts[wanted]


def schema() -> Schema:
    """The JSON schema (draft 2020-12) of `celery-ops.yaml`, made from the loader's own table."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "celery-ops configuration",
        **layout.FILE.schema(),
    }


_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_IMAGE = re.compile(r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9._-]+(?:/[a-z0-9._-]+)*")
_PATH = re.compile(r"/\S+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BROKER_FIX = (
    "Name one with -b redis://HOST:6379/0 or -A PROJECT, or describe your fleet in celery-ops.yaml."
)


def _local(ssh: SshSettings) -> HostEntry:
    """This machine: of the settings only `sudo` matters here."""
    return HostEntry(LOCAL, LOCAL, socket.gethostname(), SshSettings(sudo=ssh.sudo))


def _context(source: Source, name: str, values: Values) -> Context:
    broker = values.get_or(layout.BROKER, Secret("unset://"))
    if not _URL.match(broker.reveal()) and not values.unset:
        says = f"broker of context {name} is not a URL (redis://HOST:6379/0)"
        source.reader.wrong(values.place_of(layout.BROKER), says)
    ssh = _ssh(values.get(layout.SSH), SshSettings())
    hosts = _hosts(source, values, ssh)
    # A host whose entry is wrong is no unknown host: it is told once.
    written = {name: name for name in values.names_in(layout.HOSTS)}
    services = Services(source, written | {host.name: host.hostname for host in hosts})
    for entry in values.get_or(layout.SERVICES, ()):
        services.read(entry)
    return Context(
        name=name,
        broker=broker,
        broker_options=values.get(layout.BROKER_OPTIONS) or {},
        management=values.get(layout.MANAGEMENT),
        results=values.get(layout.RESULTS),
        app=values.get(layout.APP),
        scope=values.get_or(layout.SCOPE, ()),
        protected=values.get_or(layout.PROTECTED, default=False),
        read_only=values.get_or(layout.READ_ONLY, default=False),
        accept_pickle=values.get_or(layout.ACCEPT_PICKLE, default=False),
        control_exchange=values.get_or(layout.CONTROL_EXCHANGE, "celery"),
        event_exchange=values.get_or(layout.EVENT_EXCHANGE, "celeryev"),
        mask=values.get_or(layout.MASK, ()),
        ssh=ssh,
        hosts=hosts,
        services=tuple(services.refs),
        commands=services.commands,
        nodes=services.nodes,
        compose_files=services.files,
        server_passwords=services.passwords,
        release=_release(source, values.get(layout.RELEASE)),
        probe=_probe(values.get(layout.PROBE)),
        directory=source.directory,
    )


def _ssh(values: Values | None, inherited: SshSettings) -> SshSettings:
    """The settings that are written, over those they are inherited from."""
    if values is None:
        return inherited
    return replace(
        inherited,
        user=values.get(layout.USER) or inherited.user,
        port=values.get(layout.PORT) or inherited.port,
        jump=values.get(layout.JUMP) or inherited.jump,
        known_hosts=values.get(layout.KNOWN_HOSTS) or inherited.known_hosts,
        keys=values.get(layout.KEYS) or inherited.keys,
        config=values.get(layout.SSH_CONFIG) or inherited.config,
        sudo=values.get_or(layout.SUDO, inherited.sudo),
        connect_timeout=values.get_or(layout.CONNECT_TIMEOUT, inherited.connect_timeout),
    )


def _hosts(source: Source, values: Values, ssh: SshSettings) -> tuple[HostEntry, ...]:
    found = [_local(ssh)]
    for name, entry in values.get_or(layout.HOSTS, {}).items():
        if name == LOCAL:
            says = "`local` is this machine and always there; give the host another name"
            source.reader.wrong(entry.place, says)
            continue
        found.append(
            HostEntry(
                name=name,
                address=entry.get(layout.ADDRESS) or name,
                hostname=entry.get(layout.HOSTNAME) or name,
                ssh=_ssh(entry.get(layout.SSH), ssh),
            )
        )
    return tuple(found)


def _release(source: Source, values: Values | None) -> Release | None:
    if values is None:
        return None
    symlink = values.get(layout.SYMLINK)
    commands = values.get(layout.RELEASE_COMMANDS)
    image = values.get(layout.IMAGE)
    if symlink is not None:
        return SymlinkRelease(
            symlink.get_or(layout.CURRENT_LINK, ""),
            symlink.get_or(layout.RELEASES, ""),
            symlink.get(layout.TASKS_OF),
        )
    if commands is not None:
        return CommandRelease(
            current=commands.get_or(layout.CURRENT, ()),
            activate=commands.get_or(layout.ACTIVATE, ()),
            exists=commands.get(layout.EXISTS),
            releases=commands.get(layout.LISTED),
            tasks=commands.get(layout.TASKS),
        )
    return None if image is None else _image(source, image)


def _image(source: Source, values: Values) -> ImageRelease:
    """Its words stand in commands as they are, so that they are what they should be is checked."""
    texts = {}
    for key, is_one, says in (
        (layout.IMAGE_NAME, _IMAGE.fullmatch, "is not an image's name without a tag: registry/app"),
        (layout.ENV_FILE, _PATH.fullmatch, "is not a whole path without spaces: /srv/app/.env"),
        (layout.VARIABLE, _VARIABLE.fullmatch, "cannot be the name of a variable"),
    ):
        written = values.get(key)
        texts[key.name] = "" if written is None else written.text
        if written is not None and not is_one(written.text):
            source.reader.wrong(written.place, f"{shown(written.text)} {says}")
    return ImageRelease(**texts, tasks=values.get(layout.TASKS))


def _probe(values: Values | None) -> Probe | None:
    if values is None:
        return None
    return Probe(
        task=values.get_or(layout.PROBE_TASK, ""),
        queues=values.get_or(layout.PROBE_QUEUES, ()),
        timeout=values.get_or(layout.PROBE_TIMEOUT, 10.0),
    )
