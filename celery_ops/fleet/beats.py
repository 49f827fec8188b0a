"""Which schedulers there are, from what supervisors, processes and their own answers tell. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.fleet.matching import owner
from celery_ops.fleet.verdicts import ALIVE
from celery_ops.model import Beat, ServiceState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from celery_ops.fleet.verdicts import Known
    from celery_ops.model import FleetSnapshot, Host, SeenProcess, Service

_LOCKS = "redbeat"
_PINGED = "celerybeat@"


def found(known: Known) -> tuple[Beat, ...]:
    """All: those that are configured, those that only run, and those that only answer."""
    is_locked = known.queues is not None and known.queues.beat_lock is not None
    told = {one.scheduler for host in known.hosts for one in _schedulers(host)}
    # Somebody holds that lock. Where nobody says that he is RedBeat's, all may be.
    is_implied = is_locked and not any(_LOCKS in (one or "").lower() for one in told)
    services = tuple(known.services.values())
    configured = {one.ref: _configured(one) for one in services if one.ref.beat}
    others: list[Beat] = []
    hostnames: dict[str, str] = {}
    for host in known.hosts:
        if host.processes is None:
            continue
        seen = host.processes.value
        hostnames[host.name] = seen.hostname
        here = [one for one in services if one.ref.host == host.name]
        owned = [one for one in seen.processes if owner(one, here) is not None]
        ours = {one.app for one in owned}
        servers = {one.supervisord for one in owned}
        for process in _schedulers(host):
            service = owner(process, here)
            beat = _running(process, seen.hostname, host, service, is_implied=is_implied)
            if service is not None and service.ref.beat:
                configured[service.ref] = beat
            elif service is not None or (
                not _is_foreign(process, ours) and _is_told_after(here, host.processes.at)
            ):
                others.append(
                    replace(beat, doubtful=service is None and _is_elsewhere(process, servers))
                )
    unseen = [
        replace(one, waits_for_lock=one.waits_for_lock or (is_implied and one.pid is None))
        for one in configured.values()
    ]
    beats = [*unseen, *others]
    return (*beats, *_answering(known, beats, hostnames))


def senders(snapshot: FleetSnapshot) -> list[tuple[Beat, ...]]:
    """Those that run and may send side by side. Those that wait for RedBeat's lock are one: only
    its holder sends. Who is not known to run is not among them.
    """
    running = [one for one in snapshot.beats if one.running and not one.doubtful]
    waiting = tuple(one for one in running if one.waits_for_lock)
    alone = [(one,) for one in running if not one.waits_for_lock]
    return [*alone, *([waiting] if waiting else [])]


def strays(snapshot: FleetSnapshot) -> tuple[Beat, ...]:
    """Those that run and that no service of a scheduler stands for."""
    return tuple(
        one
        for one in snapshot.beats
        if one.running and not one.doubtful
        if one.service is None or not one.service.ref.beat
    )


def doubtful(snapshot: FleetSnapshot) -> tuple[Beat, ...]:
    """Those that run, and may be another deployment's."""
    return tuple(one for one in snapshot.beats if one.running and one.doubtful)


def blind(hosts: Iterable[Host], names: Iterable[str]) -> list[str]:
    """Why there may be processes that were not seen, of the hosts with these names."""
    wanted = set(names)
    why = []
    for host in hosts:
        if host.name not in wanted:
            continue
        failed = host.processes_unread or host.error
        if host.processes is None or failed:
            why.append(f"{host.name}: {failed or 'not read'}")
        elif host.processes.value.unseen:
            why.append(f"{host.name}: {host.processes.value.unseen}")
    return why


def _schedulers(host: Host) -> list[SeenProcess]:
    if host.processes is None:
        return []
    return [one for one in host.processes.value.processes if one.is_beat or one.has_beat]


def _configured(service: Service) -> Beat:
    unknown = (
        service.error is not None
        or service.status is None
        or service.status.value.state is ServiceState.UNKNOWN
    )
    status = None if service.status is None else service.status.value
    return Beat(
        name=str(service.ref),
        service=service,
        running=None if unknown or status is None else status.state in ALIVE,
        host=service.ref.host,
        waits_for_lock=_LOCKS in " ".join(status.arguments or ()).lower() if status else False,
    )


def _running(
    process: SeenProcess, hostname: str, host: Host, service: Service | None, *, is_implied: bool
) -> Beat:
    """By its process. One that does not tell its scheduler is RedBeat's where that is implied."""
    is_configured = service is not None and service.ref.beat
    name = str(service.ref) if service and is_configured else f"beat on {host.name}"
    if process.has_beat:
        name = process.node or f"worker on {host.name}"
    waits = is_implied if process.scheduler is None else _LOCKS in process.scheduler.lower()
    # The scheduler inside a worker is a process of its own, whose pid nobody tells, and a
    # container has a name of its own.
    is_plain = not process.has_beat and process.inner_pid is None
    return Beat(
        name=name,
        service=service,
        running=True,
        host=host.name,
        pid=process.pid,
        worker=(process.node or name) if process.has_beat else None,
        origin=f"gen{process.pid}@{hostname}" if is_plain else None,
        waits_for_lock=waits,
    )


def _is_told_after(services: Iterable[Service], at: datetime) -> bool:
    """A service may have begun since its supervisor was asked: its process is nobody else's."""
    return all(one.status is None or one.status.at >= at for one in services)


def _is_elsewhere(process: SeenProcess, servers: set[int | None]) -> bool:
    """In a container, or below a supervisord that runs none of ours."""
    is_below_another = process.supervisord is not None and process.supervisord not in servers
    return process.inner_pid is not None or is_below_another


def _is_foreign(process: SeenProcess, ours: set[str | None]) -> bool:
    """It names an application, all of ours there do, and it is none of theirs."""
    return bool(ours) and None not in ours and process.app is not None and process.app not in ours


def _answering(known: Known, beats: Sequence[Beat], hostnames: dict[str, str]) -> Iterator[Beat]:
    """By ping (Celery 5.7, where it is switched on), unless it is one that is known already."""
    there = {
        name for one in beats if one.host for name in (one.host, hostnames.get(one.host, one.host))
    }
    for node in known.nodes.values():
        if node.is_scheduler and node.name.removeprefix(_PINGED) not in there:
            yield Beat(name=node.name, service=None, running=True if node.is_answering else None)
