"""The guard: how many consumers every queue keeps while a run takes workers away. Pure.

With n consumers when the run begins, a run may take at most max(1, n - ceil(keep * n)) at a time
while n >= 2, and never the last one; unless `keep_available` is 0 or the queue is in `allow_gap`.
Of what it takes for good nothing comes back: then `keep_available` is what must remain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from celery_ops.model.holding import own_names

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from celery_ops.config.units import Count
    from celery_ops.model import FleetSnapshot, Worker


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A queue that would keep fewer consumers than it must."""

    queue: str
    left: int
    least: int
    healthy: int

    def __str__(self) -> str:
        consumers = "consumer" if self.left == 1 else "consumers"
        return (
            f"queue {self.queue} would keep {self.left} {consumers}, and must keep {self.least}"
            f" of {self.healthy}"
        )


@dataclass(frozen=True, slots=True)
class Guard:
    """How much of each queue's consumers must stay, and which queues may go unconsumed."""

    keep: Count
    allow_gap: frozenset[str] = frozenset()
    for_good: bool = False

    def least(self, queue: str, healthy: int) -> int:
        """Consumers the queue keeps at least, of the `healthy` ones it had when the run began."""
        if queue in self.allow_gap or self.keep.number == 0:
            return 0
        if self.for_good:
            return max(1, self.keep.up(healthy))
        if healthy < 2:
            return healthy
        return healthy - max(1, healthy - self.keep.up(healthy))

    def shortfalls(
        self,
        taking: Collection[str],
        consumers: Mapping[str, Collection[str]],
        healthy: Mapping[str, int],
    ) -> tuple[Shortfall, ...]:
        """What taking these workers now would break.

        `consumers` are the workers that consume each queue now; `healthy` their number when the run
        began. A queue that these workers do not consume is none of their business.
        """
        found = []
        for queue, names in sorted(consumers.items()):
            left = len(set(names) - set(taking))
            if left == len(set(names)):
                continue
            before = max(healthy.get(queue, 0), len(set(names)))
            least = self.least(queue, before)
            if left < least:
                found.append(Shortfall(queue, left, least, before))
        return tuple(found)

    def batches(
        self,
        targets: Sequence[str],
        queues: Mapping[str, Collection[str]],
        healthy: Mapping[str, int],
        *,
        size: int,
        canary: int,
    ) -> tuple[tuple[str, ...], ...]:
        """Targets in order, cut into batches of at most `size` that break no queue's allowance.

        The first batch has at most `canary` workers (0: no canary). `queues` are each target's own.
        A target that cannot be taken even alone stands alone: `shortfalls` will say why. What is
        taken for good is away from all batches after its own.
        """
        found: list[tuple[str, ...]] = []
        batch: list[str] = []
        away: Counter[str] = Counter()
        is_closed = False
        for target in targets:
            limit = min(canary, size) if canary and not found else size
            fits = all(
                away[queue] + 1 <= healthy.get(queue, 1) - self.least(queue, healthy.get(queue, 1))
                for queue in queues[target]
            )
            if batch and (len(batch) >= limit or not fits or is_closed):
                found.append(tuple(batch))
                batch, is_closed = [], False
                away = away if self.for_good else Counter()
            is_closed = is_closed or (not batch and not self._fits_alone(queues[target], healthy))
            batch.append(target)
            away.update(queues[target])
        if batch:
            found.append(tuple(batch))
        return tuple(found)

    def _fits_alone(self, queues: Collection[str], healthy: Mapping[str, int]) -> bool:
        return all(
            healthy.get(queue, 1) - self.least(queue, healthy.get(queue, 1)) >= 1
            for queue in queues
        )


def consumers(
    snapshot: FleetSnapshot,
    since: datetime | None = None,
    taking: Collection[str] = (),
    planned: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, set[str]]:
    """Who consumes what, as far as workers that answer have told.

    With `since` only those who have answered since then, beside those that are to be taken: any
    other may have died a moment ago.

    A solo worker that has long been silent, since it runs a task, takes nothing from its queues
    meanwhile: it counts where it is to be taken itself, for that leaves them without it, and does
    not make up for others. If it has not told its queues they are those of `planned`.
    """
    found: dict[str, set[str]] = {}
    for worker in snapshot.workers:
        is_there = since is None or worker.name in taking or _is_there(worker, since)
        is_taken = worker.busy_solo and worker.name in taking
        if is_there and (worker.answers or is_taken):
            told = worker.queues if worker.queues is not None else planned.get(worker.name, ())
            for queue in own_names(told):
                found.setdefault(queue, set()).add(worker.name)
    return found


def _is_there(worker: Worker, since: datetime) -> bool:
    """It has answered. A solo pool cannot while it runs a task: its supervisor vouches for it."""
    if worker.replied_at is not None and worker.replied_at >= since:
        return True
    is_solo = worker.stats is not None and worker.stats.value.pool == "solo"
    status = worker.service.status if worker.service is not None else None
    return is_solo and (status is None or status.value.told_pid in {None, worker.pid})
