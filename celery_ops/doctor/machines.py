"""The rules about hosts and the services on them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, as_share, as_size
from celery_ops.doctor.rules import Found, rule
from celery_ops.doctor.words import count, cut, status_of, time
from celery_ops.model import Level, Retry, ServiceState, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from celery_ops.model import Disk, FleetSnapshot, Host, Service, ServiceStatus

LOOPS = 3
"""Restarts within some minutes that make a loop."""
_YOUNG = 60.0
"""Seconds: a life that has been restarted often and is younger may be the next turn of a loop."""
_FULL, _TOO_FULL = 0.90, 0.97
_LEAST_FREE = 100_000_000
"""Bytes: less is too little whatever the share, but on file systems that are small anyway."""
_OF_A_SMALL_ONE = 0.75
_SYSTEMD = "https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html#Restart="


@rule("host-unreachable", Level.WARNING, source="man 1 ssh")
def _host_unreachable(snapshot: FleetSnapshot) -> Iterator[Found]:
    for host in snapshot.hosts:
        fix = f"ssh {cut(host.address)}; until then nothing is known of its services."
        if host.error is not None:
            since = f" since {time(host.since)}" if host.since is not None else ""
            yield Found(cut(host.name), f"not reachable{since}: {host.error}", fix)
        elif host.silent_since is not None:
            yield Found(cut(host.name), f"has not answered since {time(host.silent_since)}", fix)


@rule("restart-loop", Level.ERROR, source=_SYSTEMD)
def _restart_loop(snapshot: FleetSnapshot) -> Iterator[Found]:
    for service in snapshot.services:
        status = status_of(service)
        if status is None or service.error is not None:
            continue
        told = _loop(service, status, snapshot.at)
        if told is not None:
            says, level = told
            yield Found(
                cut(str(service.ref)), says, _log(service), level=level, worker=service.ref.worker
            )


@rule(
    "service-not-running",
    Level.WARNING,
    source="https://docs.celeryq.dev/en/stable/userguide/daemonizing.html",
)
def _service_not_running(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Of a service with a worker `worker-stopped` speaks; what a run took, `left-drained`."""
    shown = {worker.service.ref for worker in snapshot.workers if worker.service is not None}
    owed = {record.service for record in snapshot.taken}
    for service in snapshot.services:
        status = status_of(service)
        if status is None or service.error is not None or service.ref in shown | owed:
            continue
        if status.state in (ServiceState.STOPPED, ServiceState.FAILED):
            failed = status.state is ServiceState.FAILED
            what = "beat" if service.ref.beat else "its worker"
            yield Found(
                cut(str(service.ref)),
                f"{status.says or status.state.value}: {what} does not run",
                f"Start it on {cut(service.ref.host)}, or take it out of celery-ops.yaml.",
                level=Level.ERROR if failed else None,
                worker=service.ref.worker,
            )


@rule(
    "two-services-one-worker",
    Level.WARNING,
    source="https://docs.celeryq.dev/en/stable/userguide/workers.html#starting-the-worker",
)
def _two_services_one_worker(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Configured for one worker and both running, while neither proves to run another."""
    others = {
        worker.service.ref
        for worker in snapshot.workers
        if worker.service is not None and worker.service.ref.worker != worker.name
    }
    by_name: dict[str, list[Service]] = {}
    for service in snapshot.services:
        name = service.ref.worker
        runs = service.error is None and service.state is ServiceState.RUNNING
        if name is not None and runs and not service.ref.beat and service.ref not in others:
            by_name.setdefault(name, []).append(service)
    for name, found in by_name.items():
        worker = snapshot.worker(name)
        is_told = worker is not None and worker.state is WorkerState.CONFLICT
        if len(found) > 1 and not is_told:
            told = [
                f"{cut(str(one.ref))} (pid {one.status.value.pid})"
                for one in found
                if one.status is not None
            ]
            yield Found(
                cut(name),
                f"{len(found)} services that run are configured for it: {', '.join(told)}",
                "Stop one of them, or correct `worker:` in celery-ops.yaml: two processes of one "
                "name cannot be told apart.",
                worker=name,
            )


@rule(
    "restart-is-not-safe",
    Level.WARNING,
    source="https://docs.celeryq.dev/en/stable/userguide/daemonizing.html",
)
def _restart_is_not_safe(snapshot: FleetSnapshot) -> Iterator[Found]:
    """How a service is set up harms tasks, or others, when it is stopped or started."""
    for service in snapshot.services:
        status = status_of(service)
        for hazard in status.hazards if status is not None else ():
            yield Found(
                cut(str(service.ref)),
                hazard.says,
                hazard.fix,
                level=Level.ERROR if hazard.forbids else None,
                worker=service.ref.worker,
            )


@rule("disk-nearly-full", Level.WARNING, source="man 1 df")
def _disk_nearly_full(snapshot: FleetSnapshot) -> Iterator[Found]:
    """A worker on a full disk cannot write its pidfile, its log and its results."""
    for host in snapshot.hosts:
        disks = host.facts.value.disks if host.facts is not None else None
        levels = {disk: level for disk in disks or () if (level := _disk_level(disk)) is not None}
        if levels:
            full = sorted(
                levels, key=lambda disk: (levels[disk] is not Level.ERROR, -disk.fullness)
            )
            place = shlex.quote(cut(full[0].mount))
            yield Found(
                cut(host.name),
                "; ".join(map(_how_full, full[:3])) + _as_of(host, snapshot.at),
                f"See what fills it, on {cut(host.name)}: du -xhd1 {place} | sort -h",
                level=_disk_level(full[0]),
            )


@rule("memory-nearly-full", Level.WARNING, source="man 5 proc, MemAvailable")
def _memory_nearly_full(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Next the kernel kills a process for want of memory, and its tasks with it."""
    for host in snapshot.hosts:
        facts = host.facts.value if host.facts is not None else None
        fullness = facts.memory_fullness if facts is not None else None
        if facts is not None and fullness is not None and fullness >= _FULL:
            free, whole = facts.memory_available or 0, facts.memory or 0
            yield Found(
                cut(host.name),
                f"{as_share(fullness)} of its memory is used, {as_size(free)} of {as_size(whole)} "
                f"left{_as_of(host, snapshot.at)}",
                "See which service uses it (celery-ops hosts); worker_max_memory_per_child and "
                "worker_max_tasks_per_child end pool processes that grow.",
                level=Level.ERROR if fullness >= _TOO_FULL else None,
            )


def _loop(service: Service, status: ServiceStatus, now: datetime) -> tuple[str, Level] | None:
    """The evidence of a restart loop and how bad it is, or None."""
    recent, seen = service.restarted, 0
    parts = []
    if recent is not None and recent.count >= LOOPS:
        seen = recent.count
        whose = "its supervisor restarted it" if recent.by_supervisor else "it was started anew"
        within = as_duration(max(1.0, round((now - recent.since).total_seconds())))
        parts.append(f"{whose} {seen} times within {within}")
    elif status.retry is None and _is_often_and_young(status, now):
        parts.append(f"its supervisor restarted it {count(status.restarts or 0, 'time')} so far")
        if status.started_at is not None:
            young = as_duration(max(0.0, round((now - status.started_at).total_seconds())))
            parts.append(f"the last time {young} ago")
    if status.retry is not None:
        parts.append(status.says or f"its supervisor {status.retry}")
    if not parts:
        return None
    is_proved = seen >= LOOPS or status.retry is Retry.GAVE_UP or (status.restarts or 0) >= LOOPS
    is_counted = recent is None or recent.by_supervisor or status.retry is not None
    return "; ".join(parts), Level.ERROR if is_proved and is_counted else Level.WARNING


def _is_often_and_young(status: ServiceStatus, now: datetime) -> bool:
    if (status.restarts or 0) < LOOPS or status.started_at is None:
        return False
    return (now - status.started_at).total_seconds() < _YOUNG


def _log(service: Service) -> str:
    name, host = cut(service.ref.name), cut(service.ref.host)
    match service.ref.supervisor:
        case "systemd":
            return f"See why it ends, on {host}: journalctl -u {name} -n 50"
        case "supervisord":
            return f"See why it ends, on {host}: supervisorctl tail {name} stderr"
        case _:
            return f"See why it ends: its log on {host}."


def _disk_level(disk: Disk) -> Level | None:
    is_short = disk.available < _LEAST_FREE and disk.fullness >= _OF_A_SMALL_ONE
    if disk.fullness >= _TOO_FULL or is_short:
        return Level.ERROR
    return Level.WARNING if disk.fullness >= _FULL else None


def _how_full(disk: Disk) -> str:
    left = f"{as_size(disk.available)} of {as_size(disk.size)} left"
    return f"{cut(disk.mount)} is {as_share(disk.fullness)} full, {left}"


def _as_of(host: Host, now: datetime) -> str:
    """When it was read, where that is not just now."""
    if host.facts is None or host.facts.age(now) < 60:
        return ""
    return f", as read at {time(host.facts.at)}"
