"""Rules about tasks that are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.doctor.rules import Found, rule
from celery_ops.doctor.words import count, cut, time
from celery_ops.model import HELD, Level
from celery_ops.model.holding import held_of, hold_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.model import FleetSnapshot, TakenRecord


@rule("task-held", Level.INFO, source="README.md")
def _task_held(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Meant to be so, and easily forgotten. Without the run that carries them on, the messages of
    all other tasks wait too.
    """
    hold = hold_of(snapshot.taken)
    if hold is None:
        left = next((one for one in snapshot.taken if one.kind == HELD), None)
        if left is not None:
            says = f"consumes what went through a hold, in place of {cut(left.queue or '')}"
            yield Found(cut(left.worker), says, left.mend, level=Level.ERROR)
        return
    tasks = cut(", ".join(hold.tasks))
    is_held = "is held" if len(hold.tasks) == 1 else "are held"
    says = f"{is_held} since {time(hold.at)} by run {cut(hold.run)} of {cut(hold.operator)}"
    if snapshot.forwarder is None:
        waits = _number(snapshot, [queue.name for queue in hold.queues])
        yield Found(
            tasks,
            f"{says}, and that run is gone: workers get nothing of {_listed(hold)}, where {waits}",
            f"celery-ops runs resume {cut(hold.run)} goes on with it, where it was started;"
            f" {hold.mend} ends it, from any machine.",
            level=Level.ERROR,
        )
        return
    parked = _number(snapshot, [held_of(queue.name, hold.run) for queue in hold.queues])
    yield Found(tasks, f"{says}: {parked} parked", hold.mend)


def _number(snapshot: FleetSnapshot, names: list[str]) -> str:
    """How many messages wait in these; one that is not there has none."""
    sizes = [one.ready for one in snapshot.queues if one.name in names]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return "an unknown number of messages"
    return count(sum(known), "message")


def _listed(hold: TakenRecord) -> str:
    names = [cut(queue.name) for queue in hold.queues]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
