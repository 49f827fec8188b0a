"""Has workers consume, in place of a queue, the one that its messages go through while tasks are
held. What each had declared is recorded first, as when a queue is paused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.model import HELD
from celery_ops.model.holding import through
from celery_ops.ports import CancelConsumer, Control
from celery_ops.runbook import queue_judges
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.events import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery_ops.model import FleetSnapshot, Incarnation, TakenRecord, Worker
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.stage import Stage

TOLD_AGAIN_AFTER = 5.0
"""Seconds: a worker that is busy hears all that it was told once it is free."""
_UNKNOWN = "unknown whether"


def consume_through(queue: str) -> Control:
    """The order to consume what goes through.

    Its exchange is the nameless one: with none at all Celery would make one of the queue's name,
    and bind the queue to it, and with the queue's own it would get copies of what is sent there.
    """
    name = through(queue)
    return Control(
        "add_consumer",
        {"queue": name, "exchange": "", "exchange_type": "direct", "routing_key": name},
    )


class Switch:
    """The workers that a hold has switched. `told` are the lives that were, by queue."""

    def __init__(
        self,
        stage: Stage,
        effects: Effects,
        step: str,
        tasks: tuple[str, ...],
        *,
        unknown_to: str = "",
    ) -> None:
        """`unknown_to`: workers are switched to that release meanwhile, and what is recorded is
        owed to whichever life of theirs, since a new one is told before it could be recorded.
        """
        self.told: dict[str, list[Incarnation]] = {}
        self._stage = stage
        self._effects = effects
        self._step = step
        self._tasks = tasks
        self._unknown_to = unknown_to
        self._owed: dict[str, TakenRecord] = {}
        self._told_at: dict[tuple[str, str], float] = {}
        self._strange: set[tuple[str, str]] = set()
        self._open: set[str] = set()
        """Queues whose switch is told and not yet seen."""
        self._missed: set[str] = set()
        """Keys of records whose worker consumed neither queue when it was seen last."""

    def recollect(self, records: Iterable[TakenRecord]) -> None:
        """What this run had taken before it was taken up again."""
        self._owed = {one.key: one for one in records if one.kind == HELD}
        self._effects.recall(records)

    async def foresee(self, target: PlannedWorker, queues: Iterable[str]) -> None:
        """Record of a worker that it is owed these of its queues, whichever life of it that is."""
        for declared in target.queues or ():
            if declared.name in queues:
                record = replace(
                    self._effects.record(HELD, target),
                    incarnation=None, queues=(declared,), service=None, tasks=self._tasks,
                    unknown_to=self._unknown_to,
                )  # fmt: skip
                if record.key not in self._owed:
                    await self._effects.take_down(record)
                    self._owed[record.key] = record

    def begins_anew(self, name: str) -> None:
        """A worker of that name has just come: its last life took what it was told with it."""
        self._told_at = {key: at for key, at in self._told_at.items() if key[1] != name}

    def newcomers(self, queue: str, snapshot: FleetSnapshot) -> tuple[Worker, ...]:
        """Who consumes the queue itself, and was not told just now that it must not. Of those who
        cannot be told it is said that they do.
        """
        now = self._stage.clock.monotonic()
        workers = queue_judges.consumers(queue, snapshot).workers
        for worker in workers:
            if not worker.mine and (queue, worker.name) not in self._strange:
                self._strange.add((queue, worker.name))
                says = f"{worker.name} consumes {queue}, and is outside of this context's scope"
                self._stage.say(None, f"{says}: it may begin what is held", self._step)
        return tuple(
            worker
            for worker in workers
            if queue_judges.may_be_told(worker) and worker.incarnation is not None
            if now - self._told_at.get((queue, worker.name), -TOLD_AGAIN_AFTER) >= TOLD_AGAIN_AFTER
        )

    async def over(self, queue: str, workers: Sequence[Worker]) -> None:
        """Intend it, record it, and tell each."""
        names = ", ".join(worker.name for worker in workers)
        add, cancel = consume_through(queue), CancelConsumer(queue)
        self._effects.intend(
            self._step,
            queue,
            f"add_consumer {through(queue)}, cancel_consumer {queue} to {names}",
            expect=f"they consume {through(queue)} in its place",
            undo=f"add_consumer {queue}, as each had declared it, to {names}",
            verb="switch",
        )
        self._open.add(queue)
        for worker in workers:
            for declared in worker.consuming.value if worker.consuming is not None else ():
                if declared.name == queue:
                    record = self._effects.held(worker, declared, self._tasks)
                    if self._unknown_to:
                        record = replace(record, incarnation=None, unknown_to=self._unknown_to)
                    await self._effects.take_down(record)
                    self._owed[record.key] = record
        await self._effects.control([ControlAction(one.name, add) for one in workers])
        refused = await self._effects.control([ControlAction(one.name, cancel) for one in workers])
        told = self.told.setdefault(queue, [])
        for worker in workers:
            if refused.get(worker.name, "").startswith(_UNKNOWN):
                continue
            self._told_at[queue, worker.name] = self._stage.clock.monotonic()
            if worker.incarnation is not None:
                told.append(worker.incarnation)

    def settle(self, snapshot: FleetSnapshot) -> None:
        """Conclude what is seen to be done."""
        for queue in list(self._open):
            if not queue_judges.consumers(queue, snapshot).workers:
                self._open.discard(queue)
                says = f"nobody consumes {queue} itself"
                self._effects.conclude(self._step, queue, Result.DONE, says)

    async def put_right(self, snapshot: FleetSnapshot) -> None:
        """A worker that has reconnected may have forgotten what it was told to consume (celery
        #7733): it is told again, once it was seen twice to consume neither queue.
        """
        missed = {
            record.key: record for record in self._owed.values() if _has_lost(record, snapshot)
        }
        for key, record in missed.items():
            if key in self._missed and record.queue is not None:
                says = f"{record.worker} consumes neither {record.queue} nor what goes through"
                self._stage.say(None, f"{says}: told again", self._step)
                await self._effects.control(
                    [ControlAction(record.worker, consume_through(record.queue))]
                )
        self._missed = set(missed)


def _has_lost(record: TakenRecord, snapshot: FleetSnapshot) -> bool:
    """That very life of the worker says that it consumes neither, and nobody has drained it."""
    worker = snapshot.worker(record.worker)
    if worker is None or record.queue is None or worker.taken is not None:
        return False
    if not queue_judges.may_be_told(worker) or queue_judges.is_over(record, snapshot):
        return False
    return worker.queues is not None and not {record.queue, through(record.queue)} & set(
        worker.queues
    )
