"""What workers' word proves of a queue where the broker does not count what they hold. Pure.

RabbitMQ counts them only in its management API, and gives back by itself what a consumer held that
is gone. So nothing is held where every consumer that the broker counts is a worker that answers,
and none of them shows anything of the queue, or has tasks whose messages it may hold unseen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.model import WorkerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, Queue, Worker

_MOST_NAMES = 3


def unproved(queue: Queue, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Why their word does not prove that what they show is all that is held; empty: it does."""
    found = []
    told = len(snapshot.consumers_of(queue.name))
    if queue.consumers is not None and queue.consumers > told:
        others = queue.consumers - told
        are = "is no worker" if others == 1 else "are no workers"
        found.append(f"{counted(others, 'consumer')} of it {are} that answered, and may hold some")
    for worker in snapshot.workers:
        if worker.state is not WorkerState.STOPPED:
            hides = _hides(worker)
            found += [hides] if hides else []
    if found:
        found.append("the broker itself does not tell how many are held")
    return tuple(found)


def consumers(queue: Queue, snapshot: FleetSnapshot) -> str:
    """In words, whose word it is."""
    names = [worker.name for worker in snapshot.consumers_of(queue.name)]
    some = _some(names) or "all workers"
    return f"{some}: the broker counts no other consumer"


def asks_for_registered(snapshot: FleetSnapshot) -> bool:
    """Somebody's word is needed, and it is not known whether that may hold something unseen."""
    return snapshot.gives_back and any(
        worker.registered is None and worker.answers for worker in snapshot.workers
    )


def may_be_delayed(queue: str, snapshot: FleetSnapshot) -> bool:
    """Whether messages for it may wait in the broker's queues for delayed delivery: these lead to
    no direct exchange, and who consumes the queue says by which it is reached.
    """
    declared = [
        one
        for worker in snapshot.workers
        if worker.consuming is not None
        for one in worker.consuming.value
        if one.name == queue
    ]
    return not declared or any(one.may_be_delayed for one in declared)


def _hides(worker: Worker) -> str:
    """Why that worker may hold messages that no answer of its shows; empty: it does not."""
    if worker.registered is None:
        return f"{worker.name} has not said whether its tasks have rate limits"
    names = [task.name for task in worker.registered.value if task.may_hide]
    if not names:
        return ""
    return f"{worker.name} may hold some of {_some(names)} unseen: by a rate limit or in batches"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}"
