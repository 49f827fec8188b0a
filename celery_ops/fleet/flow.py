"""How messages come to the queues and leave them: what can be told by comparing readings.

Arrivals are never counted by a broker, and completions only by workers, each for all its queues
together. So what follows from two readings is told, and of the rest why it does not follow:

* growth: the difference of all messages, ready and held.
* completions: what the consumers say they have worked off, if these consume nothing else; else the
  held messages that are gone, of which some were never seen: "at least".
* arrivals: growth and completions together.

Pure: readings go in with their moments, nothing is asked.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.model import UNWATCHED, Flow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery_ops.fleet.known import KnownNode
    from celery_ops.ports import QueuesReading

SPAN = 20.0
"""Seconds that are looked back at."""
LEAST_SPAN = 2.0
"""Seconds; over a shorter time there is nothing to be told."""
KEPT_EVERY = 2.0
_SAME_MOMENT = 1.0
"""Seconds between two replies that are taken for one picture of a worker."""

Consumers = tuple[tuple[str, int | None], ...]
"""Node name and pid of each; another pid is another life."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How many tasks one life of a worker had worked off at a moment (s of the wall clock)."""

    at: float
    count: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """All that was counted at one moment, by queue."""

    at: float
    ready: Mapping[str, int]
    total: Mapping[str, int]
    """Ready and held; without the queues whose held messages cannot be told."""
    early: Mapping[str, int]
    """Tasks that run and were acknowledged before: neither ready nor held, nor worked off."""
    gone: Mapping[str, int] | None
    """Held messages that were seen to go, from the beginning on; None: it was lost count of."""
    consumers: Mapping[str, Consumers]
    ended: Mapping[str, _Ended]
    """By node."""


class Flows:
    """Compares each reading with one of some seconds before."""

    def __init__(self) -> None:
        self._kept: deque[_Sample] = deque()
        self._newest: _Sample | None = None
        self._held: Mapping[str, str | None] | None = None
        """The queue of each held message of the last reading."""
        self._gone: Counter[str] = Counter()
        self._queues_of: Mapping[str, frozenset[str]] = {}
        self._mute: Mapping[str, str] = {}
        """By queue, a consumer that does not answer: what it works off is not counted."""
        self._everybody_told = False

    def note(
        self,
        reading: QueuesReading,
        nodes: Iterable[KnownNode],
        at: float,
        *,
        everybody_told: bool,
    ) -> None:
        """The next reading, and what is known of the workers then. `at` is monotonic."""
        nodes = tuple(nodes)
        gone = self._count_gone(reading)
        self._queues_of = {
            node.name: frozenset(queue.name for queue in node.consuming.value)
            for node in nodes
            if node.is_answering and node.consuming is not None
        }
        self._mute = {
            queue.name: node.name
            for node in nodes
            if not node.is_answering and node.goodbye_at is None
            for queue in node.consumed_before
        }
        self._everybody_told = everybody_told
        self._newest = _Sample(
            at=at,
            ready={queue.name: queue.ready for queue in reading.queues},
            total={
                queue.name: queue.ready + queue.unacked
                for queue in reading.queues
                if queue.unacked is not None
            },
            early=_early(nodes),
            gone=gone,
            consumers=self._consumers(nodes),
            ended={node.name: told for node in nodes if (told := _ended(node)) is not None},
        )
        if not self._kept or at - self._kept[-1].at >= KEPT_EVERY:
            self._kept.append(self._newest)
        while len(self._kept) > 1 and at - self._kept[1].at >= SPAN:
            self._kept.popleft()

    def all(self) -> dict[str, Flow]:
        """The flow of every queue of the newest reading."""
        new = self._newest
        if new is None:
            return {}
        still: dict[tuple[Consumers, str | None], Flow] = {}
        found = {}
        for queue in new.ready:
            old = self._since(queue, new)
            if old is None:
                found[queue] = UNWATCHED
            elif _stands_still(queue, old, new):
                # Of ten thousand queues most do nothing: they can share what is said of them.
                alike = (new.consumers.get(queue, ()), self._mute.get(queue))
                if alike not in still:
                    still[alike] = self._flow(queue, old, new)
                found[queue] = still[alike]
            else:
                found[queue] = self._flow(queue, old, new)
        return found

    def _since(self, queue: str, new: _Sample) -> _Sample | None:
        """The oldest reading since which the same lives consume it; None if that is too short ago.

        Who stops gives back what it holds, and who begins has counted what nobody knows.
        """
        oldest = None
        who = new.consumers.get(queue)
        for sample in reversed(self._kept):
            is_other = sample.consumers is not new.consumers and sample.consumers.get(queue) != who
            if is_other or queue not in sample.ready:
                break
            oldest = sample
        return oldest if oldest is not None and new.at - oldest.at >= LEAST_SPAN else None

    def _flow(self, queue: str, old: _Sample, new: _Sample) -> Flow:
        span = new.at - old.at
        if queue not in new.total or queue not in old.total:
            growth = (new.ready[queue] - old.ready[queue]) / span
            why = "what workers hold of it cannot be told: only what is ready is compared"
            return Flow(span, growth, why=why)
        growth = (new.total[queue] - old.total[queue]) / span
        left, why = self._left(queue, old, new)
        if left is None:
            return Flow(span, growth, why=why)
        # No less can have left than is missing, and what did not leave has come.
        left = max(left, -growth)
        return Flow(span, growth, left, growth + left, bool(why), why)

    def _left(self, queue: str, old: _Sample, new: _Sample) -> tuple[float | None, str]:
        """How many left it a second, and why there may have been more, or why it is not known."""
        span = new.at - old.at
        consumers = [node for node, _ in new.consumers.get(queue, ())]
        rates = {node: _rate(old.ended.get(node), new.ended.get(node)) for node in consumers}
        others = {name for node in consumers for name in self._queues_of[node]} - {queue}
        seen = None
        if new.gone is not None and old.gone is not None:
            seen = (new.gone.get(queue, 0) - old.gone.get(queue, 0)) / span
        untold = [node for node, rate in rates.items() if rate is None]
        if queue in self._mute:
            return seen, f"{self._mute[queue]} does not answer: what it works off is not counted"
        if not self._everybody_told:
            return seen, "not every worker has answered: what those work off is not counted"
        if untold:
            return seen, f"{untold[0]} has not told twice how much it has worked off"
        together = sum(rate or 0.0 for rate in rates.values())
        if others and together:
            return seen, (
                f"its consumers also consume {_listed(others)}, and count all together:"
                f" {together:.1f}/s"
            )
        if not consumers or others:
            # Nobody takes anything, so nothing can come and go between two readings.
            return seen, "" if seen is not None else "too many messages are held to see which go"
        begun = (new.early.get(queue, 0) - old.early.get(queue, 0)) / span
        return max(0.0, together + begun), ""

    def _count_gone(self, reading: QueuesReading) -> Mapping[str, int] | None:
        before, self._held = self._held, None
        if reading.unacked is None:
            return None
        self._held = {one.tag: one.queue for one in reading.unacked}
        for tag in (before or {}).keys() - self._held.keys():
            queue = (before or {})[tag]
            if queue is not None:
                self._gone[queue] += 1
        return dict(self._gone)

    def _consumers(self, nodes: Iterable[KnownNode]) -> Mapping[str, Consumers]:
        """Who consumes each queue; the very mapping of before while nothing has changed."""
        found: dict[str, list[tuple[str, int | None]]] = {}
        for node in sorted(nodes, key=lambda one: one.name):
            for queue in self._queues_of.get(node.name, ()):
                found.setdefault(queue, []).append((node.name, node.pid))
        now = {queue: tuple(who) for queue, who in found.items()}
        before = self._newest.consumers if self._newest is not None else None
        return before if before is not None and before == now else now


def _stands_still(queue: str, old: _Sample, new: _Sample) -> bool:
    return (
        queue in new.total
        and new.total[queue] == old.total.get(queue)
        and queue not in new.early
        and queue not in old.early
        and new.gone is not None
        and old.gone is not None
        and new.gone.get(queue) == old.gone.get(queue)
    )


def _early(nodes: Iterable[KnownNode]) -> Counter[str]:
    return Counter(
        task.queue
        for node in nodes
        if node.active is not None
        for task in node.active.value
        if task.acknowledged and task.queue is not None
    )


def _ended(node: KnownNode) -> _Ended | None:
    """A worker counts a task when it begins it, so those that run have to be taken off."""
    if not node.is_answering or node.doubled:
        return None
    beat = node.heartbeat
    if beat is not None and beat.value.processed is not None and beat.value.active is not None:
        return _Ended(beat.at.timestamp(), beat.value.processed - beat.value.active)
    stats, active = node.stats, node.active
    if stats is None or active is None or stats.value.processed is None:
        return None
    if abs((stats.at - active.at).total_seconds()) > _SAME_MOMENT:
        return None
    return _Ended(stats.at.timestamp(), stats.value.processed - len(active.value))


def _rate(old: _Ended | None, new: _Ended | None) -> float | None:
    if old is None or new is None or new.at <= old.at:
        return None
    return max(0.0, (new.count - old.count) / (new.at - old.at))


def _listed(names: Iterable[str]) -> str:
    some = sorted(names)
    return ", ".join(some) if len(some) <= 3 else f"{', '.join(some[:3])} and {len(some) - 3} more"
