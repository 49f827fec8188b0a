"""Joins a look at a host with what its supervisors say: which service owns which Celery process."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.hosts import cgroups, invocations
from celery_ops.hosts.cgroups import Home
from celery_ops.hosts.supervisord import USUAL_SERVERS
from celery_ops.model import (
    CeleryProcess,
    Discovered,
    IdleService,
    Role,
    SeenProcess,
    SeenProcesses,
    ServiceRef,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery_ops.hosts.invocations import Invocation
    from celery_ops.hosts.listing import Listing, Process
    from celery_ops.hosts.supervisord import Listed

_OWN_UNIT = "Give it a unit of its own: [Service] ExecStart=… celery … worker, KillMode=mixed."
_HIDDEN = (
    "it hides other users' processes (hidepid on /proc): units are matched by systemd's word alone,"
    " and workers under other supervisors are not seen; log in as root or as their user"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A look at one host, and what its supervisords told, by their pids.

    `asked` are pids that matter whatever they run; `silent` says of supervisords that could not be
    asked why not, and what helps.
    """

    host: str
    seen: Listing
    asked: frozenset[int] = frozenset()
    programs: Mapping[int, tuple[Listed, ...]] = field(default_factory=dict)
    silent: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Owner:
    service: ServiceRef | None
    says: str = ""
    fix: str = ""


def supervisords(seen: Listing) -> dict[int, str | None]:
    """The supervisords and where they listen; None where that cannot be seen."""
    return {
        pid: seen.sockets.get(pid)
        for pid, process in seen.processes.items()
        if any(_is_supervisord(word) for word in process.arguments[:3])
    }


def discovered(found: Found) -> Discovered:
    """Every Celery process of the host with its owner, and the services that stand idle."""
    seen = found.seen
    mains = dict(_mains(seen, found.asked))
    shared = Counter(_place(seen, seen.processes[pid]).name for pid in mains)
    processes = [
        _process(found, seen.processes[pid], invocation, shared)
        for pid, invocation in sorted(mains.items())
    ]
    if seen.hides_processes:
        known = {process.pid for process in processes}
        processes += [one for one in _by_units(found) if one.pid not in known]
    owned = {process.service for process in processes}
    idle = [one for one in _idle(found) if _plain(one.service) not in owned]
    notes = [_HIDDEN] if seen.hides_processes else []
    if seen.truncated:
        notes.append("its list of processes and units is too long and was cut: some are missing")
    return Discovered(
        host=found.host,
        hostname=seen.hostname,
        is_root=seen.is_root,
        processes=tuple(processes),
        idle=tuple(idle),
        notes=tuple(notes),
    )


def processes(seen: Listing) -> SeenProcesses:
    """Every main process of Celery's; whose they are is not asked."""
    found = []
    servers = supervisords(seen)
    for pid, invocation in sorted(_mains(seen, frozenset())):
        if invocation is not None:
            line = tuple(_line(seen, pid))
            found.append(
                SeenProcess(
                    line=line,
                    supervisord=next((one for one in line if one in servers), None),
                    is_beat=invocation.role is Role.BEAT,
                    has_beat=invocation.has_beat,
                    node=invocation.node,
                    app=invocation.app,
                    scheduler=invocation.scheduler,
                    inner_pid=seen.processes[pid].inner_pid,
                )
            )
    unseen = "it hides other users' processes (hidepid on /proc)" if seen.hides_processes else ""
    return SeenProcesses(
        seen.hostname, tuple(found), "the list was too long" if seen.truncated else unseen
    )


def _mains(seen: Listing, asked: frozenset[int]) -> Iterator[tuple[int, Invocation | None]]:
    """Main processes. The pool's children have the command line of their parent, or a title."""
    read = {
        pid: invocations.read(process.arguments, _hostname(seen, process))
        for pid, process in seen.processes.items()
    }
    for pid, invocation in read.items():
        process = seen.processes[pid]
        if invocation is None:
            if pid in asked:
                yield pid, None
            continue
        above = read.get(process.parent)
        is_wrapped = any(
            child.parent == pid and read[child.pid] is not None and _is_shell(process)
            for child in seen.processes.values()
        )
        is_child = above is not None and not _is_shell(seen.processes[process.parent])
        if not (invocation.is_child or is_child or is_wrapped):
            yield pid, invocation


def _hostname(seen: Listing, process: Process) -> str | None:
    is_inside = process.inner_pid is not None or _place(seen, process).home is Home.CONTAINER
    return None if is_inside else seen.hostname


def _process(
    found: Found, process: Process, invocation: Invocation | None, shared: Counter[str]
) -> CeleryProcess:
    owner = _owner(found, process, shared)
    return CeleryProcess(
        pid=process.pid,
        role=None if invocation is None else invocation.role,
        node=None if invocation is None else invocation.node,
        age=process.age,
        service=owner.service,
        says=owner.says,
        fix=owner.fix,
        inner_pid=process.inner_pid,
        has_beat=invocation is not None and invocation.has_beat,
        app=None if invocation is None else invocation.app,
    )


def _owner(found: Found, process: Process, shared: Counter[str]) -> _Owner:
    line = list(_line(found.seen, process.pid))
    for pid in line[1:]:
        if pid in found.programs:
            mine = [one for one in found.programs[pid] if one.pid in line]
            return _program(found, pid, mine, process)
        if pid in found.silent:
            return _Owner(None, *found.silent[pid])
    place = _place(found.seen, process)
    if process.inner_pid is not None and place.home in {Home.NOTHING, Home.SESSION}:
        place = cgroups.Placed(Home.CONTAINER, f"where it is pid {process.inner_pid}")
    match place.home:
        case Home.UNIT:
            return _unit(found, place.name, process, shared)
        case Home.USER_UNIT:
            return _Owner(
                None,
                f"it is {place.name}, a unit of the user {place.user}'s own systemd",
                "This version restarts system units only: move it to /etc/systemd/system.",
            )
        case Home.CONTAINER:
            return _Owner(
                None,
                f"it runs in the container {place.name}",
                "This version does not speak to container runtimes yet.",
            )
        case Home.SESSION:
            return _Owner(
                None, f"it was started by hand ({place.name}): nothing restarts it", _OWN_UNIT
            )
        case Home.NOTHING:
            return _Owner(None, "it runs, and no supervisor of it is known", _OWN_UNIT)


def _program(found: Found, pid: int, mine: list[Listed], process: Process) -> _Owner:
    if len(mine) != 1:
        return _Owner(None, f"supervisord (pid {pid}) is above it, but no program of it is it")
    server = found.seen.sockets.get(pid)
    usual = server in USUAL_SERVERS
    ref = ServiceRef(found.host, "supervisord", mine[0].name, server=None if usual else server)
    return _wrapped(ref, mine[0].pid, process)


def _unit(found: Found, name: str, process: Process, shared: Counter[str]) -> _Owner:
    line = list(_line(found.seen, process.pid))
    unit = found.seen.units.get(name)
    if shared[name] > 1:
        return _Owner(
            None,
            f"{name} runs {shared[name]} of them, which can only be restarted together",
            "Give each a unit of its own: a template, celery-worker@.service.",
        )
    if unit is None:
        return _Owner(None, f"it is in the group of {name}, which systemd does not tell of")
    if unit.main_pid in line or (unit.main_pid is None and unit.is_forking):
        return _wrapped(ServiceRef(found.host, "systemd", name), unit.main_pid, process)
    return _Owner(None, f"it was started below {name}, whose own process is another", _OWN_UNIT)


def _wrapped(ref: ServiceRef, main_pid: int | None, process: Process) -> _Owner:
    """A shell that waits for its worker keeps the stop signal to itself."""
    if main_pid in (None, process.pid):
        return _Owner(ref)
    says = f"its service's own process is {main_pid}, a program around it that gets the signals"
    return _Owner(ref, says, "Start celery without a shell around it: exec celery … worker.")


def _by_units(found: Found) -> Iterator[CeleryProcess]:
    """Where /proc hides them: the main processes that systemd tells of."""
    for unit in found.seen.units.values():
        invocation = invocations.read(unit.arguments, found.seen.hostname)
        if unit.main_pid is not None and invocation is not None:
            yield CeleryProcess(
                pid=unit.main_pid,
                role=invocation.role,
                node=invocation.node,
                age=None,
                service=ServiceRef(found.host, "systemd", unit.name),
                has_beat=invocation.has_beat,
                app=invocation.app,
            )


def _idle(found: Found) -> Iterator[IdleService]:
    """Services that would run a worker or beat, and run nothing."""
    hostname = found.seen.hostname
    for unit in found.seen.units.values():
        invocation = invocations.read(unit.arguments, hostname)
        if invocation is not None and not unit.is_active:
            yield _expecting(ServiceRef(found.host, "systemd", unit.name), invocation)
    for pid, programs in found.programs.items():
        server = found.seen.sockets.get(pid)
        where = None if server in USUAL_SERVERS else server
        for program in programs:
            invocation = invocations.read(_words(program.command), hostname)
            if invocation is not None and not program.pid:
                ref = ServiceRef(found.host, "supervisord", program.name, server=where)
                yield _expecting(ref, invocation)


def _expecting(ref: ServiceRef, invocation: Invocation) -> IdleService:
    is_beat = invocation.role is Role.BEAT
    worker = None if is_beat else invocation.node
    service = ServiceRef(ref.host, ref.supervisor, ref.name, worker, is_beat, ref.server)
    return IdleService(service, invocation.app)


def _plain(ref: ServiceRef) -> ServiceRef:
    return ServiceRef(ref.host, ref.supervisor, ref.name, server=ref.server)


def _place(seen: Listing, process: Process) -> cgroups.Placed:
    return cgroups.placed(process.groups, seen.root_groups)


def _line(seen: Listing, pid: int) -> Iterator[int]:
    """A process, its parent, and so on: the list is a host's word and may not go round."""
    passed: set[int] = set()
    while pid in seen.processes and pid not in passed:
        passed.add(pid)
        yield pid
        pid = seen.processes[pid].parent


def _is_supervisord(word: str) -> bool:
    return word.rpartition("/")[2] in {"supervisord", "supervisor.supervisord"}


def _is_shell(process: Process) -> bool:
    return bool(process.arguments) and process.arguments[0].rpartition("/")[2] in invocations.SHELLS


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
