"""Who consumes a queue, and how it is seen that nobody does, or that somebody does again. Pure.

A worker that says nothing may consume. It surely does not where the broker counted who listens, all
of them answered, and it sends no heartbeat: it is not connected.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean
from celery_ops.fleet.drain import QUIET_FOR, QUIET_ROUNDS
from celery_ops.model import WorkerState
from celery_ops.runbook.judges import Judge, Judgement, Seen

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, Incarnation, TakenRecord, Worker

BEATS_WITHIN = timedelta(seconds=6)
"""A heartbeat that is older is none: they come every two seconds."""
GONE_AFTER = timedelta(seconds=10)
"""So long a worker that was never seen is waited for: it may be about to reconnect."""
_OVER = frozenset({WorkerState.STOPPED, WorkerState.STOPPING})
"""States in which nothing is consumed any more."""


@dataclass(frozen=True, slots=True)
class Consumers:
    """Who consumes a queue, and why it is not known of others whether they do."""

    workers: tuple[Worker, ...]
    doubts: tuple[str, ...]


def consumers(queue: str, snapshot: FleetSnapshot, since: datetime | None = None) -> Consumers:
    """As they say themselves; with `since`, from then on."""
    found, doubts = [], []
    for worker in snapshot.workers:
        if worker.state in _OVER or is_absent(worker, snapshot):
            continue
        doubt = _doubt(worker, since)
        if worker.queues is not None and queue in worker.queues:
            found.append(worker)
        elif doubt:
            doubts.append(f"{worker.name} {doubt}")
    if not doubts and not snapshot.counted and not snapshot.complete:
        doubts.append("somebody who listens has not answered yet")
    return Consumers(tuple(found), tuple(doubts))


def likely_name(queue: str, snapshot: FleetSnapshot) -> str:
    """` (did you mean …?)` where no queue of that name is seen and one is called alike."""
    names = [one.name for one in snapshot.queues]
    return "" if queue in names else did_you_mean(queue, names)


def is_absent(worker: Worker, snapshot: FleetSnapshot) -> bool:
    """It is certainly not connected to the broker now."""
    beat = worker.heartbeat
    beats = beat is not None and beat.value.online and snapshot.at - beat.at < BEATS_WITHIN
    return worker.state is WorkerState.SILENT and snapshot.counted and not beats


class NobodyConsumes:
    """No worker consumes the queue, and it stays so through several looks: a BRPOP in flight still
    takes a message for a second (FACTS 3).

    Who was not told yet ends the wait: `newcomers` are these. `told` are the lives that were.
    """

    def __init__(self, queue: str, since: datetime, told: Collection[Incarnation]) -> None:
        self.newcomers: tuple[Worker, ...] = ()
        self._queue = queue
        self._since = since
        self._told = told
        self._quiet_from: datetime | None = None
        self._looks = 0

    def __call__(self, snapshot: FleetSnapshot) -> Judgement:
        seen = consumers(self._queue, snapshot, self._since)
        still = []
        newcomers = []
        for worker in seen.workers:
            if not may_be_told(worker):
                where = worker.state if worker.mine else "outside of this context's scope"
                still.append(f"{worker.name} consumes it, and is {where}")
            elif worker.consuming is None or worker.consuming.at < self._since:
                still.append(f"{worker.name} has not answered since it was told")
            elif worker.incarnation is None:
                still.append(f"{worker.name} has not told which life of it this is")
            elif is_told(worker, self._told):
                still.append(f"{worker.name} still consumes it")
            else:
                newcomers.append(worker)
        self.newcomers = tuple(newcomers)
        if newcomers:
            names = ", ".join(worker.name for worker in newcomers)
            return Judgement(Seen.NEVER, f"{names} consumes it now")
        missing = (*still, *seen.doubts)
        if missing:
            self._quiet_from, self._looks = None, 0
            return Judgement(Seen.NOT_YET, "; ".join(missing))
        self._quiet_from = self._quiet_from or snapshot.at
        self._looks += 1
        quiet_for = (snapshot.at - self._quiet_from).total_seconds()
        if self._looks >= QUIET_ROUNDS and quiet_for >= QUIET_FOR:
            return Judgement(Seen.DONE, f"nobody consumes {self._queue}")
        return Judgement(Seen.NOT_YET, "nobody consumes it; looking whether it stays so")


def may_be_told(worker: Worker) -> bool:
    """It is ours, alive, and one process."""
    return worker.mine and worker.answers


def is_told(worker: Worker, told: Collection[Incarnation]) -> bool:
    """That life of it is one of these."""
    life = worker.incarnation
    return life is not None and any(life.same_life_as(one) for one in told)


def is_over(record: TakenRecord, snapshot: FleetSnapshot) -> str:
    """Why nothing is owed any more for a record: the life that it was taken from is over. Empty: it
    may not be.
    """
    worker = snapshot.worker(record.worker)
    if worker is None:
        return ""
    if worker.state is WorkerState.STOPPED:
        return "is stopped: it consumes the queue by itself when it is started"
    life = worker.incarnation
    if life is None or record.incarnation is None or worker.state is WorkerState.CONFLICT:
        return ""
    if life.same_life_as(record.incarnation):
        return ""
    return "was restarted: it consumes the queue by itself"


def consumes_again(record: TakenRecord, since: datetime) -> Judge:
    """The life that a queue was taken from says that it consumes it, or is over: also where nothing
    of that name listens or sends heartbeats for longer than a reconnect takes.
    """
    (queue,) = record.queues
    missed_from: datetime | None = None

    def judge(snapshot: FleetSnapshot) -> Judgement:
        nonlocal missed_from
        over = is_over(record, snapshot)
        if over:
            return Judgement(Seen.DONE, over, new_life=True)
        worker = snapshot.worker(record.worker)
        if worker is None:
            missed_from = (missed_from or snapshot.at) if snapshot.counted else None
            if missed_from is not None and snapshot.at - missed_from >= GONE_AFTER:
                return Judgement(Seen.DONE, "is gone: nothing of that name listens", new_life=True)
            return Judgement(Seen.NOT_YET, "is not seen")
        missed_from = None
        if worker.state is WorkerState.CONFLICT:
            return Judgement(Seen.NEVER, f"is {worker.state}: {worker.says}")
        if worker.consuming is None or worker.consuming.at < since:
            return Judgement(Seen.NOT_YET, f"does not answer ({worker.state}: {worker.says})")
        if queue.name in (worker.queues or ()):
            return Judgement(Seen.DONE, f"consumes {queue.name}")
        return Judgement(Seen.NOT_YET, f"does not consume {queue.name} yet")

    return judge


def _doubt(worker: Worker, since: datetime | None) -> str:
    """Why it may consume something else than it said last; empty: it does not."""
    if worker.state is WorkerState.CONFLICT:
        return "is two processes that share its name"
    if worker.state is WorkerState.UNREADABLE:
        return "answers in a format that is not read"
    if worker.consuming is None:
        says = f": {worker.says}" if worker.says else ""
        return f"has not said what it consumes ({worker.state}{says})"
    if worker.state is WorkerState.SILENT or (since is not None and worker.consuming.at < since):
        return f"does not answer ({worker.state})"
    return ""
