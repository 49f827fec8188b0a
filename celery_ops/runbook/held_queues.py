"""What a hold is to everybody else: its record, its lease, and what must not be done meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.model import HOLD, ConsumedQueue, Holder, TakenRecord, parked
from celery_ops.model.holding import behind, hold_of
from celery_ops.runbook.lease_keeper import LeaseKeeper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Broker
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.stage import Stage


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


def keeper(
    stage: Stage,
    beside: Broker,
    *,
    broken_by: Callable[[], Awaitable[str]],
    halt: Callable[[BaseException], None],
) -> LeaseKeeper:
    """That of the lease that a hold goes on under: `beside` is the broker under it."""
    plan = stage.plan
    return LeaseKeeper(
        beside.lease,
        Holder(plan.operator, plan.run, plan.runbook, stage.clock.now()),
        stage.clock,
        stage.journal,
        broken_by=broken_by,
        halt=halt,
        takes_over=stage.recall.resumes,
    )
