"""A small fleet for what only shows one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from celery_ops.model import (
    ConsumedQueue,
    Disk,
    Finding,
    FleetSnapshot,
    Holder,
    Host,
    HostFacts,
    Level,
    Queue,
    Reading,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
    TakenRecord,
    Usage,
    Worker,
    WorkerState,
    WorkerStats,
)

AT = datetime(2026, 11, 20, 3, 12, 0, 123_456, tzinfo=UTC)
HOSTILE = "\x1b[31mevil\x1b[0m\r\n\u202e[bold]@web9"


def known_worker() -> Worker:
    """A worker of which everything is known."""
    stats = WorkerStats(11066, AT - timedelta(hours=1), "prefork", 4, 16, 1234, (), None, None)
    ref = ServiceRef("web1", "systemd", "celery-worker@1.service")
    running = ServiceStatus(ServiceState.RUNNING, 11066, "abc", AT, None, "active")
    return Worker(
        "worker1@web1",
        WorkerState.ONLINE,
        stats=Reading(stats, AT),
        consuming=Reading((ConsumedQueue("default", "{}"),), AT),
        active=Reading((), AT),
        reserved=Reading((), AT),
        scheduled=Reading((), AT),
        replied_at=AT - timedelta(seconds=0.4),
        service=Service(ref, Reading(running, AT)),
    )


def unknown_worker(name: str = "silent@web2") -> Worker:
    """A worker of which nothing is known but its name."""
    return Worker(name, WorkerState.SILENT, says="no heartbeat for 30 s")


def snapshot(*workers: Worker) -> FleetSnapshot:
    """A fleet in which something is wrong, taken, and held."""
    record = TakenRecord(
        kind="queues",
        worker="worker1@web1",
        incarnation=None,
        queues=(ConsumedQueue("default", "{}"),),
        service=None,
        run="20261120-030000-abcd",
        operator="ann@desk",
        at=AT,
    )
    return FleetSnapshot(
        context="production",
        broker="redis://:***@10.0.0.5:6379/0",
        at=AT,
        complete=False,
        workers=workers or (known_worker(), unknown_worker()),
        queues=(Queue("default", 17, None, 1), Queue("mail", 12, 0, 0)),
        taken=(record,),
        holder=Holder("ann@desk", "20261120-030000-abcd", "rolling-restart", AT, "2.1"),
        problems=(
            Finding("slow", Level.WARNING, "worker1@web1", "is slow", "wait"),
            Finding("queue-without-consumer", Level.ERROR, "mail", "12 messages", "start one"),
        ),
        notes=("the scan was not complete",),
    )


WEB1 = Host(
    "web1",
    "10.0.0.11",
    reached_at=AT,
    facts=Reading(
        HostFacts(
            load=(0.52, 1.0, 2.0),
            cpus=4,
            memory=8 * 1024**3,
            memory_available=2 * 1024**3,
            disks=(Disk("/", 1000, 850, 150), Disk("/run", 1000, 0, 1000)),
            uptime=200_000.0,
        ),
        AT - timedelta(seconds=2),
    ),
)
WEB2 = Host("web2", "10.0.0.12", error="no route to host", since=AT - timedelta(seconds=90))
DB1 = Host("db1", "10.0.0.9", reached_at=AT, silent_since=AT - timedelta(seconds=8))


def hosts_snapshot() -> FleetSnapshot:
    """Three hosts: one with a worker and a failed service, one that is gone, one that hangs."""
    known, failed = known_worker(), ServiceRef("web1", "systemd", "celery-mail.service")
    gone = ServiceRef("web2", "systemd", "celery-worker@1.service", worker="worker1@web2")
    ended = ServiceStatus(ServiceState.FAILED, None, None, None, False, "ended with exit code 1")
    assert known.service is not None
    assert known.service.status is not None
    status = replace(known.service.status.value, restarts=3, started_at=AT - timedelta(hours=2))
    usage = Reading(Usage(11066, 5, 300 * 1024**2, 1.25), AT)
    used = replace(known.service, status=Reading(status, AT), usage=usage)
    stray = unknown_worker("stray@web9")
    return replace(
        snapshot(replace(known, service=used), stray),
        _by_name={},
        hosts=(WEB1, WEB2, DB1),
        services=(
            used,
            Service(failed, Reading(ended, AT)),
            Service(gone, None, "no route to host"),
        ),
    )
