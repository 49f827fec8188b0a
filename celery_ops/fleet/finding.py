"""Joins the workers that answer with what was found on the hosts: who is run by which service.

A pid alone proves nothing: other hosts have the same one, and containers number their own. What
counts is the node name in the process's command line together with the pid the worker tells; where
the command line does not tell a name, the pid and the age, if only one process has both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.model import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from celery_ops.model import CeleryProcess, Discovered, ServiceRef, Worker

START_TAKES = 60.0
"""Seconds between a process's start and the moment its worker counts its uptime from, at most."""
_CLOCK = 3.0
"""Seconds by which a process may seem younger than its worker says: uptime is rounded."""


@dataclass(frozen=True, slots=True)
class Matched:
    """A worker, the process that it is, and its service."""

    worker: str
    host: str
    pid: int
    service: ServiceRef


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A worker or beat for which no service can be written, or no good one: why, and what helps."""

    subject: str
    says: str
    fix: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    `idle` are services of the same application that do not run now; `maybe` those of another, or of
    one that cannot be told, and beats below a supervisord that runs none of the workers. `foreign`
    says what runs there and does not seem to be ours. `embedded` are workers that are schedulers
    too (`-B`): no services of their own.
    """

    matched: tuple[Matched, ...]
    beats: tuple[ServiceRef, ...]
    idle: tuple[ServiceRef, ...]
    maybe: tuple[ServiceRef, ...]
    unmatched: tuple[Unmatched, ...]
    doubts: tuple[Unmatched, ...] = ()
    """Workers that have a service, but not as they should."""
    foreign: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()

    @property
    def services(self) -> tuple[ServiceRef, ...]:
        """All that are ours: those that run, beat's, and those that do not run now."""
        running = (replace(one.service, worker=one.worker) for one in self.matched)
        return (*running, *self.beats, *self.idle)


_Seen = tuple["Discovered", "CeleryProcess"]


def join(
    workers: Sequence[Worker],
    hosts: Sequence[Discovered],
    now: datetime,
    *,
    bound: Collection[str] = (),
) -> Findings:
    """Every worker with its service, or with the reason why there is none.

    `bound` are names that the broker knows and that do not answer: a worker that is too busy to, or
    dead. Where a process bears such a name it is believed to be it, and that is said.
    """
    seen = [(host, one) for host in hosts for one in host.processes]
    told = _Told()
    for worker in workers:
        found = _process_of(worker, seen, [host.host for host in hosts], now)
        if isinstance(found, Unmatched):
            told.unmatched.append(found)
        else:
            told.proven(worker.name, *found)
    for host, process in seen:
        if process.role is Role.WORKER and process.node in bound:
            told.believed(process.node or "", host, process)
    told.part_shared()
    told.beats_of(seen)
    told.idle_of(hosts)
    known = {*bound, *(one.name for one in workers)}
    return Findings(
        matched=tuple(told.matched),
        beats=tuple(told.beats),
        idle=tuple(told.idle),
        maybe=tuple(told.maybe),
        unmatched=tuple(told.unmatched),
        doubts=tuple(told.doubts),
        foreign=tuple(_foreign(seen, known, told.apps)),
        embedded=tuple(told.embedded),
    )


@dataclass(slots=True)
class _Told:
    """What is found, one after the other; `apps` are the applications that our workers run."""

    matched: list[Matched] = field(default_factory=list)
    beats: list[ServiceRef] = field(default_factory=list)
    idle: list[ServiceRef] = field(default_factory=list)
    maybe: list[ServiceRef] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)
    doubts: list[Unmatched] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)
    apps: set[str | None] = field(default_factory=set)

    def proven(self, worker: str, host: Discovered, process: CeleryProcess) -> None:
        """The worker is this process; whether it has a service, or a good one, is another thing."""
        self.apps.add(process.app)
        if process.has_beat:
            self.embedded.append(worker)
        if process.says:
            says = f"pid {process.pid} on {host.host}: {process.says}"
            doubt = Unmatched(worker, says, process.fix)
            (self.unmatched if process.service is None else self.doubts).append(doubt)
        if process.service is not None:
            self.matched.append(Matched(worker, host.host, process.pid, process.service))

    def believed(self, worker: str, host: Discovered, process: CeleryProcess) -> None:
        """A process bears the name of a worker that does not answer."""
        self.apps.add(process.app)
        says = f"pid {process.pid} on {host.host} bears its name, but it does not answer"
        if process.service is None:
            self.unmatched.append(Unmatched(worker, f"{says}; {process.says}", process.fix))
        else:
            self.doubts.append(Unmatched(worker, says, "config check proves it when it answers."))
            self.matched.append(Matched(worker, host.host, process.pid, process.service))

    def part_shared(self) -> None:
        """A service is one worker's: of several none is known to be the one it restarts."""
        counted = Counter(one.service for one in self.matched)
        shared = [one for one in self.matched if counted[one.service] > 1]
        self.matched = [one for one in self.matched if counted[one.service] == 1]
        for one in shared:
            says = (
                f"{one.service} runs {counted[one.service]} workers, which can only be restarted"
                " together"
            )
            self.unmatched.append(Unmatched(one.worker, says, "Give each a service of its own."))

    def beats_of(self, seen: Sequence[_Seen]) -> None:
        """Beats; one below a supervisord that runs none of our workers may be somebody else's."""
        servers = {None, *(_server(one.service) for one in self.matched)}
        for found in _beats(seen, self.apps):
            if isinstance(found, Unmatched):
                self.unmatched.append(found)
            elif _server(found) in servers:
                self.beats.append(found)
            else:
                self.maybe.append(found)
        if len(self.beats) > 1:
            self.doubts.append(_several(self.beats))

    def idle_of(self, hosts: Sequence[Discovered]) -> None:
        """Services that stand idle: each once, and none for a worker that runs elsewhere."""
        servers = {None, *(_server(one.service) for one in self.matched)}
        expected = {one.worker for one in self.matched} | {one.subject for one in self.unmatched}
        for one in (one for host in hosts for one in host.idle):
            worker = one.service.worker
            if worker is not None and worker in expected:
                continue
            if worker is not None:
                expected.add(worker)
            is_known = one.app is not None and _server(one.service) in servers
            is_ours = is_known and one.app in self.apps
            (self.idle if is_ours else self.maybe).append(one.service)


def _process_of(
    worker: Worker, seen: Sequence[_Seen], hosts: Sequence[str], now: datetime
) -> _Seen | Unmatched:
    if len(worker.pids) > 1:
        pids = ", ".join(map(str, worker.pids))
        says = f"several processes answer to this name (pids {pids})"
        return Unmatched(worker.name, says, "Give each its own name: celery worker -n NAME@%h.")
    if worker.pid is None:
        return Unmatched(worker.name, "it did not tell its pid", "Look again when it answers.")
    named = [one for one in seen if one[1].role is Role.WORKER and one[1].node == worker.name]
    proven = [one for one in named if worker.pid in (one[1].pid, one[1].inner_pid)]
    if len(proven) > 1:
        # A container is seen from the machine around it too; from within more is known.
        within = [one for one in proven if one[1].pid == worker.pid]
        proven = [one for one in within or proven if _same_age(one[1], worker, now)]
    if not proven:
        proven = [
            one
            for one in seen
            if worker.pid in (one[1].pid, one[1].inner_pid)
            and one[1].node is None
            and _can_be(worker, *one)
            and _same_age(one[1], worker, now)
        ]
    if len(proven) == 1:
        return proven[0]
    if proven:
        places = " and ".join(f"pid {one.pid} on {host.host}" for host, one in proven)
        says = f"it could be {places}: nothing tells them apart"
        return Unmatched(worker.name, says, "Start it with -n NAME@%h, so that its name is seen.")
    if named:
        host, process = named[0]
        says = f"pid {process.pid} on {host.host} bears its name, but it answers as {worker.pid}"
        return Unmatched(worker.name, says, "If it was restarted just now, look again.")
    return _nowhere(worker, hosts)


def _nowhere(worker: Worker, hosts: Sequence[str]) -> Unmatched:
    where = worker.name.partition("@")[2]
    says = f"no process of it was found on {', '.join(hosts)}"
    return Unmatched(worker.name, says, f"Name its host too: by its name that is {where}.")


def _can_be(worker: Worker, host: Discovered, process: CeleryProcess) -> bool:
    """Machines that were started together have processes of one pid and age that are not Celery's:
    one whose command line does not tell its role must be where the worker's name says.
    """
    if process.role is not None:
        return process.role is Role.WORKER
    where = worker.name.partition("@")[2].partition(".")[0]
    return where in (host.hostname.partition(".")[0], host.host.partition(".")[0])


def _same_age(process: CeleryProcess, worker: Worker, now: datetime) -> bool:
    if process.age is None or worker.started_at is None:
        return False
    older_by = process.age - (now - worker.started_at).total_seconds()
    return -_CLOCK <= older_by <= START_TAKES


def _beats(seen: Sequence[_Seen], apps: set[str | None]) -> Iterator[ServiceRef | Unmatched]:
    for host, process in seen:
        if process.role is not Role.BEAT or _is_others(process, apps):
            continue
        if process.service is not None:
            yield replace(process.service, beat=True)
        else:
            says = f"pid {process.pid}: {process.says}"
            yield Unmatched(f"beat on {host.host}", says, process.fix)


def _server(ref: ServiceRef) -> tuple[str, str | None] | None:
    """Which supervisord it is below; None for a machine's one systemd."""
    return (ref.host, ref.server) if ref.supervisor == "supervisord" else None


def _several(beats: Sequence[ServiceRef]) -> Unmatched:
    names = ", ".join(map(str, beats))
    fix = "Leave out what is another deployment's. Two that send are an incident; a standby is not."
    return Unmatched("beat", f"several run: {names}", fix)


def _is_others(process: CeleryProcess, apps: set[str | None]) -> bool:
    """It names an application, all our workers do, and it is none of theirs."""
    return process.app is not None and None not in apps and process.app not in apps


def _foreign(seen: Sequence[_Seen], known: set[str], apps: set[str | None]) -> Iterator[str]:
    for host, process in seen:
        where = f"pid {process.pid} on {host.host}"
        if process.role is Role.BEAT and _is_others(process, apps):
            yield f"{where} is a beat of another application ({process.app})"
        elif process.role is Role.WORKER and process.node and process.node not in known:
            yield f"{where} is {process.node}, which does not answer on this broker"
