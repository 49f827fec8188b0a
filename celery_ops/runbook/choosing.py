"""Which workers a step is meant for, and in which order. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from celery_ops.model import WorkerState
from celery_ops.runbook import revocation
from celery_ops.runbook.guard import consumers
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.release_steps import WatchStep
from celery_ops.runbook.roll_words import Order
from celery_ops.runbook.schema import (
    ControlStep,
    CurrentWorker,
    Roll,
    ScaleStep,
    WorkerStep,
    WorkerVerb,
)
from celery_ops.runbook.selectors import Selector, select
from celery_ops.runbook.targets import in_order, is_owed
from celery_ops.runbook.task_steps import RevokeStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import FleetSnapshot, Worker
    from celery_ops.runbook.schema import Step


def chosen(step: Step, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> list[Worker]:
    """The workers a step is meant for, in its order. Raise UsageError if its selector is wrong."""
    match step:
        case Roll():
            return _of_roll(step, snapshot, scope)
        case ControlStep(target=target) | ScaleStep(target=target) | WatchStep(target=target) if (
            not isinstance(target, CurrentWorker)
        ):
            found = select(Selector.parse(resolve(target, scope)), snapshot)
            return in_order(found, Order.BY_NAME)
        case WorkerStep(target=target) if not isinstance(target, CurrentWorker):
            found = select(Selector.parse(resolve(target, scope)), snapshot)
            if step.verb is WorkerVerb.RESUME:
                recorded = {record.worker for record in snapshot.taken}
                found = tuple(
                    one for one in found if is_owed(one) or one.name in recorded
                )  # what a dead incarnation was owed is cleared by this, too
            return in_order(found, Order.BY_NAME)
        case RevokeStep():
            return in_order(revocation.addressed(snapshot), Order.BY_NAME)
        case _:
            return []


def too_few(roll: Roll, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> str | None:
    """Why so many workers as are to run cannot, with the way out; None: they can."""
    if roll.running is None or not roll.starts:
        return None
    wanted, found = resolve(roll.running, scope), _selected(roll, snapshot, scope)
    up = sum(worker.answers for worker in found)
    possible = up + sum(worker.state is WorkerState.STOPPED for worker in found)
    if wanted <= possible:
        return None
    return (
        f"{wanted} of these workers are to run: {up} do, and with all that are stopped it would be"
        f" {possible}. Let the pools of those that run grow: -p processes=N"
    )


def nothing_to_take(roll: Roll, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> str | None:
    """Why a roll that is told how many are to run takes nobody."""
    if roll.running is None:
        return None
    up = sum(worker.answers for worker in _selected(roll, snapshot, scope))
    wanted = resolve(roll.running, scope)
    return f"{up} of these workers run, and {wanted or 'all'} are to"


def _of_roll(roll: Roll, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> list[Worker]:
    found = _selected(roll, snapshot, scope)
    if roll.running is None:
        return _ordered(found, roll.order, snapshot)
    wanted = resolve(roll.running, scope)
    up = [worker for worker in found if worker.answers]
    if not roll.starts:
        return _ordered(up, roll.order, snapshot)[: max(0, len(up) - wanted)]
    stopped = [worker for worker in found if worker.state is WorkerState.STOPPED]
    missing = len(stopped) if wanted == 0 else max(0, wanted - len(up))
    return _ordered(stopped, roll.order, snapshot)[:missing]


def _selected(
    roll: Roll, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[Worker, ...]:
    return select(Selector.parse(resolve(roll.workers, scope)), snapshot)


def _ordered(workers: Sequence[Worker], order: Order, snapshot: FleetSnapshot) -> list[Worker]:
    if order is Order.LEAST_MISSED:
        return least_missed(workers, snapshot)
    return in_order(workers, order)


def least_missed(workers: Sequence[Worker], snapshot: FleetSnapshot) -> list[Worker]:
    """One after the other, each the one that is missed least once those before it are gone.

    A queue's last consumer comes after all others. Then the fullest host comes first, so that those
    that are left are spread; then whoever's queues keep the most consumers; then who runs least.
    """
    left = {queue: set(names) for queue, names in consumers(snapshot).items()}
    on_host = Counter(_host(worker) for worker in snapshot.workers if worker.answers)

    def cost(worker: Worker) -> tuple[object, ...]:
        spare = min((len(left.get(queue, ())) for queue in worker.queues or ()), default=None)
        active = worker.active.value if worker.active is not None else None
        return (
            spare is not None and spare <= 1,
            -on_host[_host(worker)],
            0 if spare is None else -spare,
            active is None,
            len(active or ()),
            worker.name,
        )

    waiting, found = list(workers), []
    while waiting:
        worker = min(waiting, key=cost)
        waiting.remove(worker)
        found.append(worker)
        on_host[_host(worker)] -= 1
        for names in left.values():
            names.discard(worker.name)
    return found


def _host(worker: Worker) -> str:
    return worker.service.ref.host if worker.service else worker.name.partition("@")[2]
