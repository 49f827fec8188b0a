"""Fleets as they are met: the demo's four workers, a thousand of them, broken and hostile ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_ops.model import (
    ConsumedQueue,
    Finding,
    FleetSnapshot,
    Heartbeat,
    Holder,
    Incarnation,
    Level,
    Queue,
    Reading,
    RegisteredTask,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
    TakenRecord,
    Task,
    Worker,
    WorkerState,
    WorkerStats,
)

NOW = datetime(2026, 11, 20, 12, 3, 11, tzinfo=UTC)
RUN = "20261120-120300-a1b2"
HOSTILE = (
    "[bold red]evil[/]",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "a\nb\tc\rd\x00\x9b",
    "\u202egnp.exe\u2066\u200b",
    "x" * 10_000,
    "\ud800 half a surrogate",
    "漢字" * 40,
    "e" + "\u0301" * 500,
    "[@click=app.quit]click[/]",
)
"""Names that somebody could give to a node, a task or a queue."""


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def consumed(*names: str) -> tuple[ConsumedQueue, ...]:
    return tuple(ConsumedQueue(name, f'{{"name": "{name}"}}') for name in names)


def task(number: int, *, queue: str = "default", started: float | None = 1.2) -> Task:
    return Task(
        id=f"c0ffee00-0000-4000-8000-{number:012d}",
        name="demo.numbered",
        args=f"({number},)",
        queue=queue,
        started_at=None if started is None else ago(started),
        eta=None if started is not None else NOW + timedelta(seconds=30),
        acknowledged=True,
    )


def service(name: str, worker: str, *, state: ServiceState = ServiceState.RUNNING) -> Service:
    ref = ServiceRef(host="local", supervisor="supervisord", name=name, worker=worker)
    status = ServiceStatus(
        state=state,
        pid=4711,
        identity="1763640000",
        started_at=ago(600),
        clean_exit=None,
        says="pid 4711, uptime 0:10:00",
        stop_grace=600.0,
        restarts_itself=True,
        signals_children=False,
        stop_signal="TERM",
    )
    return Service(ref, Reading(status, ago(0.6)))


def worker(
    name: str,
    *,
    state: WorkerState = WorkerState.ONLINE,
    queues: tuple[str, ...] | None = ("default",),
    active: int | None = 2,
    age: float = 0.4,
    says: str = "",
    pid: int = 4711,
    concurrency: int = 4,
    pool: str = "prefork",
    mine: bool = True,
) -> Worker:
    """A worker that answered `age` seconds ago. `queues` and `active` None: it did not say."""
    at = ago(age)
    return Worker(
        name=name,
        state=state,
        says=says,
        heartbeat=Reading(Heartbeat(name, pid, active, 1204, 0.42, "5.7.0", 2.0, online=True), at),
        stats=Reading(
            WorkerStats(pid, ago(600), pool, concurrency, 4, 1204, (4712, 4713), None, 3600.0), at
        ),
        consuming=None if queues is None else Reading(consumed(*queues), at),
        active=None if active is None else Reading(tuple(map(task, range(active))), at),
        reserved=Reading((task(7, started=None),), at),
        scheduled=Reading((), at),
        registered=Reading((RegisteredTask("demo.numbered", None, acks_late=True),), at),
        replied_at=at,
        pids=(pid,),
        service=service(name.partition("@")[0], name),
        mine=mine,
    )


def queue(name: str, *, ready: int | None = 17, consumers: int | None = 2) -> Queue:
    return Queue(
        name=name,
        ready=ready,
        unacked=3,
        consumers=consumers,
        oldest=ago(8) if ready else None,
        by_priority=((0, ready), (3, 0)) if ready is not None and name == "bulk" else (),
        seen_at=ago(0.3),
    )


def fleet(workers: tuple[Worker, ...], queues: tuple[Queue, ...], **changes: Any) -> FleetSnapshot:
    snapshot = FleetSnapshot(
        context="demo",
        broker="redis://:***@127.0.0.1:6379/0",
        at=ago(0.2),
        complete=True,
        workers=workers,
        queues=queues,
    )
    return replace(snapshot, _by_name={}, **changes)


def demo(**changes: Any) -> FleetSnapshot:
    """Four workers in two groups on three queues, nothing wrong."""
    return fleet(
        (
            worker("fast1@demo", queues=("default", "mail"), pid=4711),
            worker("fast2@demo", queues=("default", "mail"), active=4, pid=4721),
            worker(
                "bulk1@demo", queues=("bulk",), active=8, pid=4731, concurrency=8, pool="threads"
            ),
            worker(
                "bulk2@demo", queues=("bulk",), active=0, pid=4741, concurrency=8, pool="threads"
            ),
        ),
        (queue("bulk", ready=212), queue("default"), queue("mail", ready=0)),
        **changes,
    )


def taken(name: str = "fast1@demo") -> TakenRecord:
    return TakenRecord(
        kind="queues",
        worker=name,
        incarnation=Incarnation(name, 4711, ago(600)),
        queues=consumed("default", "mail"),
        service=None,
        run=RUN,
        operator="ann@bastion",
        at=ago(11),
    )


def holder() -> Holder:
    return Holder("ann@bastion", RUN, "rolling-restart", ago(11), "2.1: drain w9@demo")


def broken() -> FleetSnapshot:
    """One of each trouble: what an operator opens the app for."""
    drained = replace(
        worker("fast1@demo", state=WorkerState.DRAINED, queues=(), active=0), taken=taken()
    )
    silent = worker(
        "fast2@demo", state=WorkerState.SILENT, age=94, says="no reply and no heartbeat for 94 s"
    )
    return fleet(
        (
            drained,
            silent,
            worker("bulk1@demo", state=WorkerState.STALLED, queues=("bulk",), says="takes nothing"),
            worker("bulk2@demo", queues=None, active=None, says="reserved was not answered"),
            worker("other@elsewhere", mine=False),
        ),
        (
            queue("bulk", ready=8_212),
            queue("default", consumers=0),
            queue("mail", ready=12, consumers=0),
            queue("odd", ready=None, consumers=None),
        ),
        complete=False,
        taken=(taken(),),
        holder=holder(),
        notes=("the scan for queues nobody consumes is not complete yet",),
        problems=(
            Finding(
                "queue-without-consumer", Level.ERROR, "mail", "12 messages wait, no consumer",
                "Start a worker with -Q mail, or give fast1@demo its queues back.",
            ),
            Finding(
                "silent-worker", Level.ERROR, "fast2@demo", "silent for 94 s, its service runs",
                "Look at its log: supervisorctl tail fast2",
            ),
            Finding(
                "left-drained", Level.WARNING, "fast1@demo", f"its queues are taken by run {RUN}",
                "celery-ops worker resume fast1@demo",
            ),
        ),
    )  # fmt: skip


def thousand(workers: int = 1_000, queues: int = 10_000) -> FleetSnapshot:
    """A large fleet; every 97th worker is silent."""
    return fleet(
        tuple(
            worker(
                f"worker{number}@host{number % 50}",
                state=WorkerState.SILENT if number % 97 == 0 else WorkerState.ONLINE,
                queues=(f"queue{number % 40}",),
                active=number % 5,
                pid=10_000 + number,
            )
            for number in range(workers)
        ),
        tuple(queue(f"queue{number}", ready=number % 300) for number in range(queues)),
    )


def hostile() -> FleetSnapshot:
    """Every name, text and note is one that somebody made up to break the screen."""
    named = tuple(
        replace(
            worker(text, queues=(text,), says=text),
            active=Reading((replace(task(1), name=text, args=text, id=text),), ago(0.4)),
        )
        for text in HOSTILE
    )
    return fleet(
        named,
        tuple(queue(text, consumers=0) for text in HOSTILE),
        problems=tuple(Finding(text, Level.ERROR, text, text, text) for text in HOSTILE),
        notes=HOSTILE,
        broker_error=HOSTILE[0],
        broker_lost_at=ago(8),
    )


def lost() -> FleetSnapshot:
    """The broker does not answer; the fleet is the last known one."""
    return demo(broker_error="connection refused", broker_lost_at=ago(8), at=ago(8), complete=False)
