"""What queues are called that messages go through while tasks are held: found by their names. Pure.

Workers consume such a queue in place of the one that it stands behind, so that nothing runs which
a run of ours has not let through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.model.parking import Parked
from celery_ops.model.records import HOLD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery_ops.model.records import TakenRecord

_PREFIX = "celery-ops.through."
_ARRIVED = "celery-ops.arrived."
HOLDS = "hold"
"""The name of the lease that a hold goes on under."""
PARKED_BY = "hold"
"""What stands for the step in the names of queues of held messages: there is one hold a run."""


def through(queue: str) -> str:
    """The queue that workers consume in its place."""
    return _PREFIX + queue


def arrived(queue: str) -> str:
    """The queue where what came into it waits for a moment, until it is known where it goes on."""
    return _ARRIVED + queue


def behind(name: str) -> str | None:
    """The queue in whose place it is consumed; None: it is no such queue."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) and name != _PREFIX else None


def own_names(names: Iterable[str]) -> frozenset[str]:
    """The same, where what is consumed in place of a queue stands for that queue."""
    return frozenset(behind(name) or name for name in names)


def held_of(queue: str, run: str) -> str:
    """Where the messages of held tasks wait that came from a queue."""
    return str(Parked(queue, run, PARKED_BY))


def hold_of(taken: Iterable[TakenRecord]) -> TakenRecord | None:
    """The record of the hold, if tasks are held."""
    return next((one for one in taken if one.kind == HOLD), None)


def places(taken: Iterable[TakenRecord]) -> Iterator[str]:
    """The queues of ours that a hold uses."""
    for record in taken:
        for queue in record.queues if record.kind == HOLD else ():
            yield arrived(queue.name)
            yield through(queue.name)
            yield held_of(queue.name, record.run)
