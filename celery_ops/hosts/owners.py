"""Joins a look at a host with what its supervisors say: which service owns which Celery process."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.hosts import cgroups, enclosed, invocations
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

    from celery_ops.hosts.containers import Container
    from celery_ops.hosts.invocations import Invocation
    from celery_ops.hosts.listing import Listing, Process
    from celery_ops.hosts.supervisord import Listed

_OWN_UNIT = "Give it a unit of its own: [Service] ExecStart=… celery … worker, KillMode=mixed."
_CHECK_START = "Check its start in celery-ops.yaml: variables that it needs are not in it."
_HIDDEN = (
    "it hides other users' processes (hidepid on /proc): units are matched by systemd's word alone,"
    " and workers under other supervisors are not seen; log in as root or as their user"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A look at one host, what its supervisords told, by their pids, and its docker.

    `asked` are pids that matter whatever they run; `silent` says of supervisords that could not be
    asked why not, and what helps; `no_docker` says the same of docker.
    """

    host: str
    seen: Listing
    asked: frozenset[int] = frozenset()
    programs: Mapping[int, tuple[Listed, ...]] = field(default_factory=dict)
    silent: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    no_docker: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class _Owner:
    service: ServiceRef | None
    says: str = ""
    fix: str = ""
    start: tuple[str, ...] = ()


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
    mains = dict(_mains(found))
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
    for pid, invocation in sorted(_mains(Found(seen.hostname, seen))):
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


def _mains(found: Found) -> Iterator[tuple[int, Invocation | None]]:
    """Main processes. The pool's children have the command line of their parent, or a title."""
    seen = found.seen
    read = {
        pid: invocations.read(process.arguments, _hostname(found, process))
        for pid, process in seen.processes.items()
    }
    for pid, invocation in read.items():
        process = seen.processes[pid]
        if invocation is None:
            if pid in found.asked:
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


def _hostname(found: Found, process: Process) -> str | None:
    seen, container = found.seen, _container(found, process)
    if container is not None:
        return container.hostname or None
    is_inside = process.inner_pid is not None or _place(seen, process).home is Home.CONTAINER
    return None if is_inside else seen.hostname


def _process(
    found: Found, process: Process, invocation: Invocation | None, shared: Counter[str]
) -> CeleryProcess:
    owner = _owner(found, process, shared)
    if owner.service is None and invocation is not None:
        owner = _by_itself(found, process, invocation) or owner
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
        start=owner.start,
    )


def _by_itself(found: Found, process: Process, invocation: Invocation) -> _Owner | None:
    """A node that no supervisor runs and that has a pidfile; None if it is not that."""
    start = invocations.detached_start(process.arguments, process.folder)
    name = "beat" if invocation.role is Role.BEAT else (invocation.node or "").partition("@")[0]
    place = _place(found.seen, process)
    is_free = place.home in {Home.SESSION, Home.NOTHING} and process.inner_pid is None
    if not start or not name or not is_free or process.parent != 1:
        return None
    says = "it runs in the background by itself, with a pidfile: nothing restarts it"
    return _Owner(ServiceRef(found.host, "multi", name), says, _CHECK_START, start)


def _owner(found: Found, process: Process, shared: Counter[str]) -> _Owner:
    line = list(_line(found.seen, process.pid))
    for pid in line[1:]:
        if pid in found.programs:
            mine = [one for one in found.programs[pid] if one.pid in line]
            return _program(found, pid, mine, process)
        if pid in found.silent:
            return _Owner(None, *found.silent[pid])
    container = _container(found, process)
    if container is not None:
        return _contained(found, container, process)
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
            says, fix = found.no_docker
            says = f": {says}" if says else ", which is none of docker's"
            fix = fix or "This version speaks to no other container runtime."
            return _Owner(None, f"it runs in the container {place.name}{says}", fix)
        case Home.SESSION:
            return _Owner(
                None, f"it was started by hand ({place.name}): nothing restarts it", _OWN_UNIT
            )
        case Home.NOTHING:
            return _Owner(None, "it runs, and no supervisor of it is known", _OWN_UNIT)


def _container(found: Found, process: Process) -> Container | None:
    """The container that a process runs in: its PID 1 is above it."""
    line = set(_line(found.seen, process.pid))
    return next((one for one in found.containers if one.pid in line), None)


def _contained(found: Found, container: Container, process: Process) -> _Owner:
    if container.owner:
        return _Owner(
            None,
            f"its container {container.name} belongs to {container.owner}",
            "This version speaks to no orchestrator.",
        )
    if container.is_one_off:
        return _Owner(
            None,
            f"its container {container.name} was made by `docker compose run`",
            "Make it a service: docker compose up -d.",
        )
    ref = _contained_ref(found, container)
    first = found.seen.processes.get(container.pid or 0)
    is_init = first is not None and enclosed.is_init(first.arguments)
    owner = _wrapped(ref, process.pid if is_init else container.pid, process)
    invocation = invocations.read(process.arguments, container.hostname or None)
    node = "" if invocation is None else invocation.node or ""
    if not owner.says and node.endswith(f"@{container.id[:12]}"):
        says = f"{node} is named after its container: one that is made anew has another name"
        return _Owner(ref, says, "Give it a name that stays: hostname: of the container, or -n.")
    return owner


def _contained_ref(found: Found, container: Container) -> ServiceRef:
    """Of compose by its labels, with its number only where there are several."""
    if not container.service:
        return ServiceRef(found.host, "docker", container.name)
    name = f"{container.project}/{container.service}"
    several = sum(
        (one.project, one.service) == (container.project, container.service) and not one.is_one_off
        for one in found.containers
    )
    number = f"/{container.number}" if several > 1 else ""
    return ServiceRef(found.host, "compose", f"{name}{number}")


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
        invocation = invocations.of_unit(unit.arguments, found.seen.hostname)
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
        invocation = invocations.of_unit(unit.arguments, hostname)
        if invocation is not None and not unit.is_active:
            yield _expecting(ServiceRef(found.host, "systemd", unit.name), invocation)
    for container in found.containers:
        invocation = invocations.read(container.command, container.hostname or None)
        may_start = not (container.owner or container.is_one_off or container.is_removed_after)
        if invocation is not None and container.pid is None and may_start:
            yield _expecting(_contained_ref(found, container), invocation)
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
