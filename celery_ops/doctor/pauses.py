"""Rules about queues that are paused."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.doctor.rules import Found, is_running, rule
from celery_ops.doctor.words import count, cut, time
from celery_ops.model import Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.model import FleetSnapshot, TakenRecord

_MOST_NAMES = 3


@rule(
    "queue-paused",
    Level.INFO,
    source="https://docs.celeryq.dev/en/stable/userguide/workers.html#queues-canceling-consumers",
)
def _queue_paused(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Meant to be so, and easily forgotten. A worker's next life knows nothing of it."""
    by_queue: dict[str, list[TakenRecord]] = {}
    for record in snapshot.taken:
        if record.paused is not None:
            by_queue.setdefault(record.paused, []).append(record)
    for queue, records in sorted(by_queue.items()):
        last = max(records, key=lambda one: one.at)
        ready = next((one.ready for one in snapshot.queues if one.name == queue), None)
        waits = "how many wait is not known" if ready is None else f"{count(ready, 'message')} wait"
        waits = "1 message waits" if ready == 1 else waits
        says = f"paused by run {cut(last.run)} of {cut(last.operator)} since {time(last.at)}"
        again = [cut(worker.name) for worker in snapshot.consumers_of(queue)]
        if again and is_running(last, snapshot):
            continue  # the run that has paused it is about to
        if again:
            yield Found(
                cut(queue),
                f"{says}, but {_listed(again)} it again",
                f"celery-ops queue pause {_quoted(queue)} pauses it there too; "
                f"celery-ops queue resume {_quoted(queue)} gives it back to all.",
                level=Level.WARNING,
            )
            continue
        fix = f"celery-ops queue resume {_quoted(queue)}"
        yield Found(cut(queue), f"{says}: {waits}", fix)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return f"{shown} and {len(names) - _MOST_NAMES} more consume"
    return f"{shown} {'consumes' if len(names) == 1 else 'consume'}"


def _quoted(queue: str) -> str:
    return shlex.quote(cut(queue))
