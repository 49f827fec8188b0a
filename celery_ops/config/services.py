"""Reads `services`: which supervisor runs what on which host, spelled out one service a host."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from celery_ops.config import layout
from celery_ops.config.detached import DetachedNode, detached
from celery_ops.config.document import Scalar, shown
from celery_ops.config.kinds import known_name
from celery_ops.config.secret import Secret
from celery_ops.model import ServiceRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.config.document import Place
    from celery_ops.config.kinds import Source, Values

_PLACEHOLDER = re.compile(r"%(.?)", re.DOTALL)
_GLOB = re.compile(r"[*?\[]")
COMPOSED = re.compile(r"(?P<project>[^/\s]+)/(?P<service>[^/\s]+)(?:/(?P<number>[1-9]\d*))?")
"""A service of compose, or one of its replicas."""
_CONTAINERS = {"docker", "compose"}


@dataclass(frozen=True, slots=True)
class ServiceCommands:
    """The argvs that stand in for a supervisor; each is run as it is, never by a shell."""

    status: tuple[str, ...]
    start: tuple[str, ...]
    stop: tuple[str, ...]
    log: tuple[str, ...] = ()


@dataclass(slots=True)
class Services:
    """The services of one context, collected while they are read.

    `hostnames` says what `%h` stands for on each host; its keys are the hosts there are.
    """

    source: Source
    hostnames: Mapping[str, str]
    refs: list[ServiceRef] = field(default_factory=list)
    commands: dict[ServiceRef, ServiceCommands] = field(default_factory=dict)
    nodes: dict[ServiceRef, DetachedNode] = field(default_factory=dict)
    files: dict[ServiceRef, tuple[str, ...]] = field(default_factory=dict)
    passwords: dict[str, Secret] = field(default_factory=dict)
    _places: dict[object, Place] = field(default_factory=dict)

    def read(self, entry: Values) -> None:
        """Add the services of one entry, noting what is wrong with it."""
        supervisor, name, commands = _supervised(entry)
        server = self._server(entry, supervisor)
        worker = entry.get(layout.WORKER)
        if name is None:
            return
        if supervisor == "multi" and entry.get(layout.NODE_START) is None:
            says = "multi needs start: the command that starts this node alone"
            self.source.reader.wrong(name.place, says)
        if supervisor == "systemd" and _GLOB.search(name.text):
            says = (
                f"{shown(name.text)} means many units: write an entry for each (globs: hosts only)"
            )
            self.source.reader.wrong(name.place, says)
        if supervisor == "compose" and not COMPOSED.fullmatch(name.text):
            says = (
                f"write project/service, or project/service/2 of replicas, not {shown(name.text)}"
            )
            self.source.reader.wrong(name.place, says)
        files = self._files(entry, supervisor)
        for host in self._hosts(entry):
            hostname = self.hostnames[host]
            ref = ServiceRef(
                host=host,
                supervisor=supervisor,
                name=self._expanded(name, hostname),
                worker=self._node_name(worker, hostname) if worker else None,
                beat=entry.get_or(layout.BEAT, default=False),
                server=server,
            )
            if self._is_new(ref, name.place, worker.place if worker else name.place):
                self.refs.append(ref)
                if commands is not None:
                    self.commands[ref] = commands
                if files:
                    self.files[ref] = files
                self._read_node(entry, ref, hostname)

    def _read_node(self, entry: Values, ref: ServiceRef, hostname: str) -> None:
        """What is said of a node that runs by itself; said of another service it is wrong."""
        start = entry.get(layout.NODE_START)
        pidfile, log = entry.get(layout.PIDFILE), entry.get(layout.LOG)
        if ref.supervisor != "multi":
            for key in entry.given(layout.OF_A_NODE):
                self.source.reader.wrong(entry.place_of(key), f"{key.name} is for multi only")
            return
        if start is None:
            return
        try:
            self.nodes[ref] = detached(
                ref.name,
                start,
                None if pidfile is None else self._expanded(pidfile, hostname),
                None if log is None else self._expanded(log, hostname),
            )
        except ValueError as error:
            self.source.reader.wrong(entry.place_of(layout.NODE_START), str(error))

    def _hosts(self, entry: Values) -> list[str]:
        one = entry.get(layout.SERVICE_HOST)
        nodes = entry.get(layout.SERVICE_HOSTS) or (() if one is None else (one,))
        found: dict[str, None] = {}
        for node in nodes:
            found.update(dict.fromkeys(self._matching(node)))
        return list(found)

    def _matching(self, node: Scalar) -> list[str]:
        names = tuple(self.hostnames)
        if not _GLOB.search(node.text):
            name = known_name(self.source, node, names, "host")
            return [] if name is None else [name]
        matching = [name for name in names if fnmatch.fnmatchcase(name, node.text)]
        if not matching:
            self.source.reader.wrong(node.place, f"no host matches {shown(node.text)}")
        return matching

    def _node_name(self, node: Scalar, hostname: str) -> str:
        name = self._expanded(node, hostname)
        if not re.fullmatch(r"[^@]+@[^@]+", node.text):
            says = f"a worker is named name@host, not {shown(node.text)}"
            self.source.reader.wrong(node.place, says)
        return name

    def _expanded(self, node: Scalar, hostname: str) -> str:
        """`%h`, `%n` and `%d` as in Celery's own node names: host, its first part, its domain."""
        first, _, domain = hostname.partition(".")
        values = {"h": hostname, "n": first, "d": domain, "%": "%"}

        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                says = f"{shown(match[0])} is not known here: write %h, %n, %d or %%"
                self.source.reader.wrong(node.place, says)
            return values.get(match[1], "")

        return _PLACEHOLDER.sub(value, node.text)

    def _is_new(self, ref: ServiceRef, named_at: Place, worker_at: Place) -> bool:
        identity = (ref.host, ref.supervisor, ref.name, ref.server)
        if identity in self._places:
            says = f"{ref} is listed twice (first on line {self._places[identity].line})"
            self.source.reader.wrong(named_at, says)
            return False
        self._places[identity] = named_at
        if ref.worker is not None and ref.worker in self._places:
            line = self._places[ref.worker].line
            says = f"two services expect the worker {shown(ref.worker)} (the other on line {line});"
            self.source.reader.wrong(worker_at, f"{says} %h tells hosts apart")
        if ref.worker is not None:
            self._places.setdefault(ref.worker, worker_at)
        return True

    def _server(self, entry: Values, supervisor: str) -> str | None:
        """The address without its password, which is kept apart."""
        secret = entry.get(layout.SERVER)
        if secret is None or entry.unset:
            return None
        place = entry.place_of(layout.SERVER)
        if supervisor not in {"supervisord", *_CONTAINERS}:
            self.source.reader.wrong(place, "server is for supervisord, docker and compose only")
            return None
        try:
            server, password = split_server(secret)
        except ValueError as error:
            self.source.reader.wrong(place, str(error))
            return None
        if supervisor in _CONTAINERS and (password is not None or not server.startswith("unix:")):
            self.source.reader.wrong(place, "docker is only asked at a socket: unix:///path")
            return None
        if password is not None:
            self.passwords[server] = password
        return server

    def _files(self, entry: Values, supervisor: str) -> tuple[str, ...]:
        """Paths on the host, which are words of its shell as they stand."""
        files = entry.get(layout.FILES) or ()
        for file in files:
            if supervisor != "compose":
                self.source.reader.wrong(file.place, "files are for compose only")
            elif not file.text.startswith("/") or re.search(r"\s", file.text):
                says = f"a whole path without spaces is needed, not {shown(file.text)}"
                self.source.reader.wrong(file.place, says)
        return tuple(file.text for file in files)


def split_server(server: Secret) -> tuple[str, Secret | None]:
    """Where a supervisord listens and its password: (`http://user@127.0.0.1:9001`, password).

    Raise ValueError, without showing the value, for anything but `unix:///path` and
    `http://host:port`.
    """
    wrong = "server is not unix:///path or http://host:port, with or without user:password@"
    try:
        parts = urlsplit(server.reveal())
        port = parts.port if parts.scheme == "http" else None
    except ValueError:
        raise ValueError(wrong) from None
    place = parts.netloc.rpartition("@")[2]
    is_socket = parts.scheme == "unix" and not place and parts.path.startswith("/")
    is_http = parts.scheme == "http" and parts.hostname and port and parts.path in {"", "/"}
    if not (is_socket or is_http) or parts.query or parts.fragment:
        raise ValueError(wrong)
    if (parts.username is None) != (parts.password is None):
        raise ValueError("server needs both a user and a password, or neither")
    if parts.username is None or parts.password is None:
        return f"{parts.scheme}://{place}{parts.path.rstrip('/')}", None
    shown_server = f"{parts.scheme}://{parts.username}@{place}{parts.path.rstrip('/')}"
    return shown_server, Secret(unquote(parts.password))


def _supervised(entry: Values) -> tuple[str, Scalar | None, ServiceCommands | None]:
    """The kind of supervisor, what it calls the service, and the commands that stand in for one."""
    for key in layout.SUPERVISED:
        name = entry.get(key)
        if name is not None:
            return key.name, name, None
    written = entry.get(layout.COMMANDS)
    if written is None:
        return "", None, None
    commands = ServiceCommands(
        status=written.get_or(layout.STATUS, ()),
        start=written.get_or(layout.START, ()),
        stop=written.get_or(layout.STOP, ()),
        log=written.get_or(layout.FOLLOW, ()),
    )
    return layout.COMMANDS.name, written.get(layout.NAME), commands
