"""The fleet at one moment, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from celery_ops.model.beats import Beat
from celery_ops.model.holding import hold_of
from celery_ops.model.queues import HeldMessage, Queue, Unproven
from celery_ops.model.records import HELD, Holder, TakenRecord
from celery_ops.model.services import Host, Service
from celery_ops.model.workers import Worker


class Level(StrEnum):
    """How bad a finding is. `ERROR`: tasks are lost or not processed, now or at the next change."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: which rule, about what, the evidence in words, and what to do.

    `worker` is the node concerned, if it is one. `drained_is_safe`: it does not harm a worker that
    was drained first.
    """

    rule: str
    level: Level
    subject: str
    says: str
    fix: str
    worker: str | None = None
    drained_is_safe: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FleetSnapshot:
    """The fleet at one moment. Compared by identity: a new snapshot is a new object.

    `complete` is False when a known worker did not answer in time. `broker_error` and
    `broker_lost_at` are set while the broker cannot be reached; everything else is then the last
    known, and ages.
    """

    context: str
    broker: str
    at: datetime
    complete: bool
    workers: tuple[Worker, ...]
    queues: tuple[Queue, ...]
    services: tuple[Service, ...] = ()
    hosts: tuple[Host, ...] = ()
    beats: tuple[Beat, ...] = ()
    taken: tuple[TakenRecord, ...] = ()
    holder: Holder | None = None
    forwarder: Holder | None = None
    """While tasks are held: whose run carries the messages of others on. None: nobody's."""
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """What this snapshot could not find out, in words (an incomplete scan, a capped count)."""
    bound_but_silent: tuple[str, ...] = ()
    """Names bound on the broker that never gave a sign of life and that nobody configured."""
    broker_error: str | None = None
    broker_lost_at: datetime | None = None
    protected: bool = False
    orphans: tuple[HeldMessage, ...] | None = None
    """Messages of dead workers: proved to be held by nobody. None: nothing can be said."""
    unasked: str = ""
    """Why no worker can be asked at all; empty: they can."""
    counted: bool = False
    """The broker counted who listens, and all of them answered: whoever did not is not there."""
    gives_back: bool = False
    """What a consumer holds the broker gives back by itself when that is gone: nothing is held but
    by somebody who is connected.
    """
    delayed: int | None = None
    """Messages that wait in the broker for their time, of all queues together; None: not known."""
    beat_lock: float | None = None
    """Seconds for which RedBeat's lock in the broker is held still; None: none is seen there."""
    unproven: tuple[Unproven, ...] = ()
    """Messages that no worker shows, though it is not proved that nobody holds them."""
    _by_name: dict[str, Worker] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._by_name.update((worker.name, worker) for worker in self.workers)

    def worker(self, name: str) -> Worker | None:
        """The worker of that node name, or None if nothing ever was seen of it."""
        return self._by_name.get(name)

    def pauses_of(self, queue: str) -> tuple[TakenRecord, ...]:
        """What was taken from workers since that queue is paused; of lives that are over, too."""
        return tuple(record for record in self.taken if record.paused == queue)

    def is_paused(self, queue: str) -> bool:
        """It was taken from a worker that lives: one that died is owed nothing."""
        return any(one.paused for one in self.queues if one.name == queue)

    @property
    def taken_at_a_glance(self) -> tuple[TakenRecord, ...]:
        """What is taken; a hold is one thing, of however many workers."""
        if hold_of(self.taken) is None:
            return self.taken
        return tuple(one for one in self.taken if one.kind != HELD)

    def consumers_of(self, queue: str) -> tuple[Worker, ...]:
        """The workers that answer and say they consume the queue; conflicts and the silent do not
        count.
        """
        return tuple(
            worker
            for worker in self.workers
            if worker.answers and worker.queues is not None and queue in worker.queues
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """Node names a control message is meant for. Never empty: to Celery an empty list is
    *everybody*.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("no targets: an empty destination would reach every worker")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a target is named twice: {', '.join(self.names)}")
