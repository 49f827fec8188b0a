"""The workers that a plan is for: as they are met, and in which order they are taken. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.model import ServiceState, WorkerState
from celery_ops.runbook.plan import PlannedWorker
from celery_ops.runbook.roll_words import Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, Service, Worker

UP = frozenset({ServiceState.RUNNING, ServiceState.STARTING})


def plan_worker(worker: Worker, snapshot: FleetSnapshot) -> PlannedWorker:
    """A target as it is now, owing what an earlier run recorded."""
    taken = worker.taken if worker.taken is not None and worker.taken.kind == "queues" else None
    queues = worker.consuming.value if worker.consuming is not None else None
    if taken is not None:
        recorded = {queue.name: queue for queue in (*(queues or ()), *taken.queues)}
        queues = tuple(recorded.values())
    status = worker.service.status.value if worker.service and worker.service.status else None
    running = worker.active.value if worker.active is not None else ()
    ages = [(snapshot.at - task.started_at).total_seconds() for task in running if task.started_at]
    return PlannedWorker(
        name=worker.name,
        state=worker.state,
        incarnation=worker.incarnation,
        queues=queues,
        service=worker.service.ref if worker.service else None,
        identity=status.identity if status else None,
        active=None if worker.active is None else len(worker.active.value),
        reserved=None if worker.reserved is None else len(worker.reserved.value),
        scheduled=None if worker.scheduled is None else len(worker.scheduled.value),
        longest=max(ages, default=None),
        stop_grace=status.stop_grace if status else None,
        processes=processes_of(worker),
        autoscale=worker.stats.value.autoscale if worker.stats else None,
        debtors=tuple(
            sorted(
                {
                    record.run
                    for record in snapshot.taken
                    if record.worker == worker.name and record.kind in {"queues", "service"}
                }
            )
        ),
        paused=worker.paused,
        release=worker.release,
        busy_solo=worker.busy_solo,
        pool="solo" if worker.busy_solo else worker.stats.value.pool if worker.stats else None,
        at_boot=status.at_boot if status else None,
        unset_at_boot=next(
            (one.at_boot for one in snapshot.taken if one.worker == worker.name and one.at_boot), ""
        ),
    )


def plan_beat(service: Service, snapshot: FleetSnapshot) -> PlannedWorker:
    """A scheduler as it is met; its name is that of its service."""
    name = str(service.ref)
    status = service.status.value if service.status is not None else None
    debtors = {one.run for one in snapshot.taken if one.worker == name and one.kind == "service"}
    return PlannedWorker(
        name=name,
        state=WorkerState.ONLINE if service.state in UP else WorkerState.STOPPED,
        incarnation=None,
        queues=(),
        service=service.ref,
        identity=status.identity if status is not None else None,
        active=None,
        reserved=None,
        scheduled=None,
        longest=None,
        stop_grace=status.stop_grace if status is not None else None,
        debtors=tuple(sorted(debtors)),
        release=service.release.value if service.release is not None else None,
    )


def processes_of(worker: Worker) -> int | None:
    """How many processes its pool has. `max-concurrency` tells what it was started with, whatever
    was grown and shrunk since (measured on Celery 5.7).
    """
    stats = worker.stats.value if worker.stats is not None else None
    return len(stats.pool_pids) if stats is not None and stats.pool == "prefork" else None


def in_order(workers: Sequence[Worker], order: Order) -> list[Worker]:
    """The order in which a roll takes its targets; names decide between equals. Who is missed least
    depends on who went before: `choosing` tells it.

    Of whom it is not known what they run is not taken for idle: they come last.
    """

    def key(worker: Worker) -> tuple[object, ...]:
        match order:
            case Order.BY_NAME:
                return (worker.name,)
            case Order.BY_HOST:
                return (worker.service.ref.host if worker.service else "", worker.name)
            case Order.OWED_FIRST:
                taken = worker.taken
                return (taken is None or taken.kind != "service", worker.name)
            case Order.UNHEALTHY_FIRST:
                return (worker.state is WorkerState.ONLINE, worker.name)
            case Order.FEWEST_ACTIVE_FIRST | Order.LEAST_MISSED:
                unknown = worker.active is None
                return (unknown, len(worker.active.value) if worker.active else 0, worker.name)

    return sorted(workers, key=key)


def is_owed(worker: Worker) -> bool:
    """Something was taken from it, or it consumes nothing and nobody recorded why."""
    return worker.taken is not None or (worker.queues == () and not worker.paused)
