"""Gives queues back to those they were taken from, since they were paused or tasks held, and looks
whether each has them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.model import WorkerState
from celery_ops.model.holding import behind
from celery_ops.ports import AddConsumer
from celery_ops.runbook import queue_judges
from celery_ops.runbook.actions import ControlAction
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.judges import Seen
from celery_ops.runbook.lasting import Lasting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.stage import Stage


class Returns:
    """`said` is what came of the last time, in words."""

    def __init__(self, stage: Stage, broker: Broker) -> None:
        self.said = ""
        self._drained: dict[str, TakenRecord] = {}
        """What a drain owes by now, by worker: more than the look told that is gone by."""
        self._stage = stage
        self._lasting = Lasting(broker, stage.clock)

    async def of(
        self, records: Sequence[TakenRecord], snapshot: FleetSnapshot, step: str, timeout: float
    ) -> dict[str, str]:
        """Give these back, all at once; why it failed, by worker. The others' are cleared.

        `timeout` is in seconds. One that is drained gets the queue with its others: it is owed.
        """
        said: dict[str, str] = {}
        failed: dict[str, str] = {}
        again: list[str] = []
        waiting = []
        for record in records:
            if await self._is_left_to_the_drain(record, snapshot):
                said[record.worker] = "is drained, and gets it with its other queues"
            else:
                waiting.append(record)
        since = self._stage.clock.now()
        sent = [
            ControlAction(record.worker, AddConsumer(record.queues[0]))
            for record in waiting
            if _wants_it(record, snapshot)
        ]
        refused = await self._stage.effects.control(sent) if sent else {}

        async def finish(record: TakenRecord) -> None:
            name = record.worker
            seen = await self._stage.watch.until(
                queue_judges.consumes_again(record, since),
                worker=None,
                timeout=timeout,
                safe=False,
                progress=lambda says: self._stage.say(record.queue, f"{name}: {says}", step),
            )
            if seen.seen is not Seen.DONE:
                reply = f" ({refused[name]})" if name in refused else ""
                failed[name] = f"{seen.says}{reply}"
                return
            await self._stage.effects.clear(record)
            if seen.new_life:
                said[name] = seen.says
            else:
                again.append(name)

        await all_of([finish(record) for record in waiting])
        lasts = await self._lasting.warnings(again) if again else ""
        names = sorted(set(again))
        consume = f"{', '.join(names)} consume{'s' if len(names) == 1 else ''} it again"
        others = [f"{name} {says}" for name, says in sorted(said.items())]
        self.said = "; ".join(([consume] if again else []) + others) + lasts
        return failed

    async def _is_left_to_the_drain(self, record: TakenRecord, snapshot: FleetSnapshot) -> bool:
        """Whether that life of it is drained; then the queue is added to what that owes it."""
        worker = snapshot.worker(record.worker)
        drained = worker.taken if worker is not None else None
        drained = self._drained.get(record.worker, drained)
        if drained is None or drained.kind != "queues" or queue_judges.is_over(record, snapshot):
            return False
        its_own = tuple(queue for queue in drained.queues if behind(queue.name) != record.queue)
        if record.queue not in {queue.name for queue in its_own}:
            both = (*its_own, *record.queues)
            self._drained[record.worker] = replace(drained, queues=both)
            await self._stage.effects.take_down(self._drained[record.worker])
        await self._stage.effects.clear(record)
        return True


def _wants_it(record: TakenRecord, snapshot: FleetSnapshot) -> bool:
    """That life of the worker does not consume it, as far as it is known."""
    worker = snapshot.worker(record.worker)
    if worker is None or not worker.mine or worker.state is WorkerState.CONFLICT:
        return False
    is_over = queue_judges.is_over(record, snapshot)
    return not is_over and record.queue not in (worker.queues or ())
