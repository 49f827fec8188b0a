"""The verb `drain`: a worker stops consuming, and what it holds ends; or it is gone on without
that, where the step says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.runbook import actions, judges
from celery_ops.runbook.cutting_off import GOING_ON, recollect
from celery_ops.runbook.events import Outcome, Result
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.orders import Drained, Order, Target
from celery_ops.runbook.reminding import reminded
from celery_ops.runbook.schema import OnTimeout, WorkerVerb

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from celery_ops.ports import Clock, Hosts
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.judges import Judge
    from celery_ops.runbook.recall import Recall
    from celery_ops.runbook.watch import Watch

DRAINED = "drained"
"""How it is told that a drain was proved."""
EXPECT_DRAINED = "consumes nothing, holds nothing, and stays so"
MOST_NAMED = 5
"""Of the tasks that will be cut off."""


class WorkerDraining:
    """Drains the targets of a batch, all at once."""

    def __init__(
        self,
        *,
        effects: Effects,
        watch: Watch,
        hosts: Hosts,
        clock: Clock,
        recall: Recall,
        until: Callable[..., Coroutine[Any, Any, Judgement]],
    ) -> None:
        """`until` waits as long as an order has, and tells how it goes."""
        self._effects = effects
        self._watch = watch
        self._hosts = hosts
        self._clock = clock
        self._recall = recall
        self._until = until

    async def perform(self, order: Order, targets: Sequence[Target]) -> None:
        since = self._clock.now()
        waiting: list[Target] = []
        unsent: list[Target] = []
        for target in targets:
            act = self._recall.next(order.step, target.name)
            if act is not None and act.outcome is not None:
                target.retell(act.outcome)
                recollect(target, act.outcome)
                if act.outcome.says.startswith(DRAINED):
                    target.drained = Drained(order, target.planned.incarnation)
                continue
            if act is None:
                await self._intend(order, target)
            waiting.append(target)
            if act is None or not await self._seen(judges.left_its_queues(target.planned), target):
                unsent.append(target)
        sent = [action for target in unsent for action in actions.cancel(target.planned)]
        refused = await self._effects.control(sent)

        async def finish(target: Target) -> None:
            async with reminded(self._effects, self._clock, target.planned):
                judge, service = judges.drained(target.planned, since), target.vouching
                seen = await self._until(judge, order, target, ask=True, service=service, safe=True)
            await self._settle(order, target, seen, refused.get(target.name))

        await all_of([finish(target) for target in waiting])

    async def _intend(self, order: Order, target: Target) -> None:
        planned = target.planned
        await self._effects.take("queues", planned)
        target.queues_taken = True
        names = ", ".join(queue.name for queue in planned.queues or ())
        self._effects.intend(
            order.step,
            target.name,
            f"cancel_consumer {names}",
            expect=EXPECT_DRAINED,
            undo=actions.undo_of(order.verb, planned, self._hosts),
            verb=WorkerVerb.DRAIN,
            worker=planned,
        )

    async def _settle(
        self, order: Order, target: Target, seen: Judgement, refused: str | None
    ) -> None:
        if seen.seen is Seen.DONE:
            target.drained = Drained(order, target.planned.incarnation)
            says = f"{DRAINED}: {seen.says}"
            self._effects.conclude(order.step, target.name, Result.DONE, says)
            return
        says = f"not drained: {seen.says}"
        if refused:
            says += f" (it replied: {refused})"
        if order.on_timeout is OnTimeout.PROCEED and seen.too_late:
            await self._go_on(order, target, f"{says}{await self._what_runs(target)}")
            return
        if order.passes_over and not seen.too_late:
            await self._go_on(order, target, says)
            return
        if order.on_timeout is OnTimeout.DEFER and seen.too_late:
            target.put_off = says
            self._effects.conclude(order.step, target.name, Result.DEFERRED, says)
            return
        target.failed = says
        self._effects.conclude(order.step, target.name, Result.FAILED, says)

    async def _go_on(self, order: Order, target: Target, says: str) -> None:
        told = Outcome(Result.DONE, f"{GOING_ON}{says}")
        recollect(target, told)
        self._effects.conclude(order.step, target.name, told.result, told.says)

    async def _what_runs(self, target: Target) -> str:
        """The tasks that its stop will cut off unless they end before."""
        snapshot = await self._watch.look(target.name, None)
        worker = snapshot.worker(target.name) if snapshot is not None else None
        if worker is None or worker.active is None:
            return ""
        running = [f"{task.name or 'a task'} [{task.id}]" for task in worker.active.value]
        more = [f"and {len(running) - MOST_NAMED} more"] if len(running) > MOST_NAMED else []
        return f"; it runs {', '.join([*running[:MOST_NAMED], *more])}" if running else ""

    async def _seen(self, judge: Judge, target: Target) -> bool:
        snapshot = await self._watch.look(target.name, None)
        return snapshot is not None and judge(snapshot).seen is Seen.DONE
