"""What must not be done, or has to be known, while tasks are held. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.model import HOLD, ConsumedQueue, TakenRecord, parked
from celery_ops.model.holding import behind, hold_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.plan import Plan


def in_the_way(queue: str, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Why nothing can be done with a queue while tasks are held."""
    hold = hold_of(snapshot.taken)
    place = parked(queue)
    is_of_it = behind(queue) is not None or (
        hold is not None
        and (
            queue in {one.name for one in hold.queues}
            or (place is not None and place.run == hold.run)
        )
    )
    if not is_of_it:
        return ()
    if hold is None:
        return (f"{queue} is what messages go through while tasks are held: name the queue itself",)
    return (f"{in_words(hold)}, and all messages of {queue} go through that run: {hold.mend}",)


def restarted(name: str, snapshot: FleetSnapshot) -> list[str]:
    """What it means for tasks that are held that a worker gets its queues back, or starts."""
    hold = hold_of(snapshot.taken)
    if hold is None:
        return []
    return [
        f"{in_words(hold)}: once {name} consumes again it consumes its own queues until that run"
        " sees it, for a few tenths of a second as a rule: what is sent in that moment may begin"
    ]


def in_words(record: TakenRecord) -> str:
    """Which tasks are held, and by whom."""
    is_held = "is held" if len(record.tasks) == 1 else "are held"
    return f"{', '.join(record.tasks)} {is_held} by run {record.run} of {record.operator}"


def record(
    plan: Plan, queues: Iterable[str], tasks: tuple[str, ...], *, unknown_to: str = ""
) -> TakenRecord:
    """A hold as every operator can see it in the broker."""
    return TakenRecord(
        kind=HOLD,
        worker="",
        incarnation=None,
        queues=tuple(ConsumedQueue(queue, "{}") for queue in queues),
        service=None,
        run=plan.run,
        operator=plan.operator,
        at=plan.at,
        tasks=tasks,
        unknown_to=unknown_to,
    )
