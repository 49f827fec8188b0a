"""A small fleet for what only shows one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from celery_ops.model import (
    ConsumedQueue,
    Finding,
    FleetSnapshot,
    Holder,
    Level,
    Queue,
    Reading,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
    TakenRecord,
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
        holder=Holder("ann@desk", "20261120-030000-abcd", "rolling-restart", AT),
        problems=(
            Finding("slow", Level.WARNING, "worker1@web1", "is slow", "wait"),
            Finding("queue-without-consumer", Level.ERROR, "mail", "12 messages", "start one"),
        ),
        notes=("the scan was not complete",),
    )
