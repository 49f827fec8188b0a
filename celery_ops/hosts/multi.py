"""Nodes that run in the background by themselves: `celery multi`, and `--detach`.

Nobody looks after them. What is known is their pidfile, which a worker removes when it ends by
itself and leaves when it is killed (measured: SIGTERM, SIGKILL), and what /proc tells of the pid in
it: a pid that another program has now is told, and never signalled.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.errors import CommandFailed
from celery_ops.hosts import begun, cgroups, pidfiles, refusals
from celery_ops.hosts.begun import Begun
from celery_ops.hosts.cgroups import Home
from celery_ops.hosts.units import text_of
from celery_ops.model import Hazard, ServiceState, ServiceStatus
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.config.detached import DetachedNode
    from celery_ops.errors import StreamFailed
    from celery_ops.model import ServiceRef
    from celery_ops.ports import Completed

COMES_UP_WITHIN = 30
"""Seconds from the end of a start command until its node, which goes on alone, has a pidfile."""

_TOLD = {
    "closed": "the folder of its pidfile {file} may not be entered by this user",
    "unreadable": "its pidfile {file} holds no pid, or may not be read by this user",
    "hidden": "pid {pid} of its pidfile belongs to somebody whose processes are hidden (hidepid)",
    "stranger": "its pidfile {file} names pid {pid}, which another program has now",
}
_LEFT_FIXES = {
    "stranger": "Celery does not start while that pid is in use: remove the pidfile.",
    "hidden": "Log in as the user whose node it is.",
}
_ALLOW = (
    "Log in as the user whose node it is, or set `sudo: true` for the host and allow it there:"
    " USER ALL=(OWNER) NOPASSWD: /usr/bin/kill -s TERM [0-9]*"
)
_NOT_OURS = Hazard("this user may not signal it, so it could not be stopped", _ALLOW, forbids=True)
_BY_ITSELF = ("ssh", "sshd", "cron", "crond", "atd")
"""Units in which what a person or a clock has started may live: it is nobody's service."""


@dataclass(frozen=True, slots=True)
class Multi:
    """The Supervisor port for nodes without a supervisor; they are known by (host, name).

    `sudo` names the hosts on which a node of another user's may be signalled as that user;
    `folder` is where what was begun is noted, /tmp if that is empty.
    """

    nodes: Mapping[tuple[str, str], DetachedNode] = field(default_factory=dict)
    sudo: frozenset[str] = frozenset()
    folder: str = ""

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command for all of them; raise ValueError if they are not on one host."""
        if any(one.host != services[0].host for one in services):
            raise ValueError("these nodes are not on one host")
        known = [(one, node) for one in services if (node := self._known(one)) is not None]
        words = [word for one, node in known for word in _words(one, node)]
        return Command(
            argv=("sh", "-c", pidfiles.STATUS, "celery-ops", self.folder, *words),
            env=(("LC_ALL", "C"),),
            shown=shlex.join(["look at the pidfiles of", *(one.name for one in services)]),
        )

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]:
        """Each node's status. One that is not configured is UNKNOWN and says so."""
        refusals.require_whole(completed, "The pidfiles cannot be looked at")
        head, found = begun.blocks(completed.out, "node")
        groups = _groups(completed.out)
        read = {}
        for one in services:
            node = self._known(one)
            block = None if node is None else found.get(_key(one, node))
            if node is None or block is None:
                read[one] = _unknown(_not_configured(one))
            else:
                read[one] = _Seen(one, node, block, head, groups, one.host in self.sudo).status()
        return read

    def start(self, service: ServiceRef) -> Command:
        """Start it; already started is fine. Refused while it stops."""
        node = self._node(service)
        return Command(
            argv=(
                *("sh", "-c", pidfiles.START, "celery-ops", self.folder),
                *(*_words(service, node), *node.start),
            ),
            shown=_shown(shlex.join(node.start), service),
        )

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command:
        """Stop that life; already stopped, or already stopping, is fine."""
        node = self._node(service)
        sudo = "sudo" if service.host in self.sudo else ""
        return Command(
            argv=(
                *("sh", "-c", pidfiles.STOP, "celery-ops", self.folder),
                *(*_words(service, node), expect or "", sudo),
            ),
            env=(("LC_ALL", "C"),),
            shown=_shown(f"kill -s TERM $(cat {shlex.quote(node.pidfile)})", service),
        )

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        told = dict(line.partition("=")[::2] for line in text_of(completed.out).split("\n"))
        pid = told.get("pid", "")
        match told.get("Effect"):
            case "stopping":
                raise refusals.still_stopping(service, pid)
            case "another":
                raise refusals.another_incarnation(service, f"pid {pid}")
            case "left":
                kind = told.get("kind", "")
                says = _TOLD.get(kind, kind).format(file=self._node(service).pidfile, pid=pid)
                raise CommandFailed(f"{service} was left alone: {says}.", fix=_LEFT_FIXES.get(kind))
            case "refused":
                raise CommandFailed(
                    f"{service} could not be signalled: {told.get('said', '')}",
                    fix=_ALLOW,
                )
            case "room":
                raise begun.no_room(service, told.get("room", ""))
            case _ if completed.code:
                raise refusals.not_reached(service, completed)

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """Follows its log file, also over a rotation."""
        log = self._node(service).log
        if log is None:
            raise CommandFailed(
                f"{service} has no log file that is known.",
                fix="Write --logfile=/PATH in its start, or log: /PATH in celery-ops.yaml.",
            )
        return Command(
            argv=("sh", "-c", pidfiles.LOG, "celery-ops", log, str(lines)),
            env=(("LC_ALL", "C"),),
            shown=shlex.join(["tail", "-F", log]),
        )

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        if ended.code == pidfiles.NO_LOG:
            said = " ".join(text_of(ended.err).split())[:300]
            return CommandFailed(
                f"The log of {service} cannot be read: {said}",
                fix="Correct log: in celery-ops.yaml, or let this user read it.",
            )
        return ended

    def _known(self, service: ServiceRef) -> DetachedNode | None:
        return self.nodes.get((service.host, service.name))

    def _node(self, service: ServiceRef) -> DetachedNode:
        node = self._known(service)
        if node is None:
            raise CommandFailed(
                f"{_not_configured(service)}.",
                fix="Name it in celery-ops.yaml: multi, and start.",
            )
        return node


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of one node."""

    service: ServiceRef
    node: DetachedNode
    block: Sequence[tuple[str, str]]
    head: Mapping[str, str]
    groups: Mapping[str, str]
    may_become_owner: bool

    def status(self) -> ServiceStatus:
        told = dict(self.block)
        kind, pid, life = (told.get(name, "") for name in ("kind", "pid", "life"))
        last = begun.begun(self.block)
        match kind:
            case "node":
                return self._running(int(pid), life, told, last)
            case "closed" | "unreadable" | "hidden":
                return _unknown(_TOLD[kind].format(file=self.node.pidfile, pid=pid))
            case "stranger":
                says = _TOLD[kind].format(file=self.node.pidfile, pid=pid)
                fix = "it cannot be started before that is removed"
                return _down(ServiceState.FAILED, f"{says}: {fix}", clean=False, startable=False)
            case "gone" if "newer" in told or not _comes_up(last):
                says = (
                    f"its pidfile names pid {pid}, which is gone: it was killed by a signal, or"
                    " crashed"
                )
                return _down(ServiceState.FAILED, says, clean=False)
            case _:
                return _without_pidfile(last)

    def _running(self, pid: int, life: str, told: Mapping[str, str], last: Begun) -> ServiceStatus:
        stopping = (last.verb, last.life) == ("stop", life)
        hindrance = self._hindrance()
        says = f"pid {pid} of {self.node.pidfile}" + (", told to stop" if stopping else "")
        return ServiceStatus(
            state=ServiceState.STOPPING if stopping else ServiceState.RUNNING,
            pid=pid,
            identity=life,
            started_at=self._started_at(life),
            clean_exit=None,
            says=f"{says}; {hindrance}" if hindrance else says,
            restarts_itself=False,
            signals_children=False,
            stop_signal=told.get("REMAP_SIGTERM", "SIGTERM"),
            startable=hindrance is None,
            hazards=() if "may" in told or self.may_become_owner else (_NOT_OURS,),
        )

    def _started_at(self, life: str) -> datetime | None:
        return begun.start_of(life, self.head)

    def _hindrance(self) -> str | None:
        """Why it could not be started again as it runs now: where it would live then."""
        root = self.groups.get("root", "")
        group = "\n".join(value for name, value in self.block if name == "group")
        place = cgroups.placed(group, root)
        here = cgroups.placed(self.groups.get("mine", ""), root)
        is_ours = place == here or place.name.partition(".")[0].partition("@")[0] in _BY_ITSELF
        if place.home is Home.UNIT and not is_ours:
            return (
                f"it belongs to systemd's {place.name}, and started by hand it would not: give each"
                " node a unit of its own (Type=forking, PIDFile=) and name that"
            )
        kills = self.head.get("KillUserProcesses", "no").lower() in {"yes", "true", "1", "on"}
        if kills and here.home is Home.SESSION and self.head.get("uid") != "0":
            return (
                "systemd-logind ends a user's processes at logout there (KillUserProcesses=yes):"
                " what is started over SSH would not outlive the connection"
            )
        return None


def _comes_up(last: Begun) -> bool:
    """A start was begun so lately that its node may not have written its pidfile yet."""
    ended = last.code == 0 and last.ago < COMES_UP_WITHIN
    return last.verb == "start" and (last.goes_on or ended)


def _without_pidfile(last: Begun) -> ServiceStatus:
    """It does not run, has not begun to, or does not come up."""
    if last.verb == "start":
        if _comes_up(last):
            says = "its start command runs" if last.goes_on else "started; it has no pidfile yet"
            return _down(ServiceState.STARTING, says)
        if last.code != 0:
            how = "was ended" if last.code is None else f"ended with exit code {last.code}"
            said = f": {last.printed}" if last.printed else ""
            return _down(ServiceState.FAILED, f"its start command {how}{said}")
        says = "it was started, and came up never or has ended since: see its log"
        return _down(ServiceState.STOPPED, f"{says} ({last.printed})" if last.printed else says)
    if last.verb == "stop":
        says = "stopped: it has removed its pidfile"
        return _down(ServiceState.STOPPED, says, clean=True)
    return _down(ServiceState.STOPPED, "not running: it has no pidfile")


def _down(
    state: ServiceState, says: str, *, clean: bool | None = None, startable: bool = True
) -> ServiceStatus:
    return ServiceStatus(
        state, None, None, None, clean, says,
        restarts_itself=False, signals_children=False, stop_signal="SIGTERM", startable=startable,
    )  # fmt: skip


def _unknown(says: str) -> ServiceStatus:
    return ServiceStatus(ServiceState.UNKNOWN, None, None, None, None, says)


def _not_configured(service: ServiceRef) -> str:
    return f"no node {shown(service.name)} is configured for {service.host}"


def _words(service: ServiceRef, node: DetachedNode) -> tuple[str, str, str, str]:
    """A node as the scripts have it."""
    short = service.name.partition("@")[0]
    return _key(service, node), node.pidfile, short, "beat" if service.beat else ""


def _key(service: ServiceRef, node: DetachedNode) -> str:
    return begun.key("multi", service.name, node.pidfile)


def _shown(command: str, service: ServiceRef) -> str:
    """Whole, with the node's name if that is not in it."""
    name = shlex.quote(service.name)
    return command if name in command else f"{command}  # {name}"


def _groups(out: bytes) -> dict[str, str]:
    """The cgroup lines before the first node: of PID 1, and our own."""
    found: dict[str, list[str]] = {"root": [], "mine": []}
    for line in text_of(out).split("\n"):
        name, _, value = line.partition("=")
        if name == "node":
            break
        if name in found:
            found[name].append(value)
    return {name: "\n".join(lines) for name, lines in found.items()}
