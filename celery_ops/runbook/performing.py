"""Performs the steps of a run, one after the other: each verb has a module of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from celery_ops.errors import ConfirmationNeeded
from celery_ops.runbook import beats, controls, probes
from celery_ops.runbook.activating import activate_on
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.commands import run_on_host
from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.holding import Holding
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.loader import render
from celery_ops.runbook.meeting import meet, order_of
from celery_ops.runbook.moving import Moving, park_again
from celery_ops.runbook.notices import notify
from celery_ops.runbook.probing import Probing
from celery_ops.runbook.queue_draining import Draining
from celery_ops.runbook.release_steps import ActivateStep, WatchStep
from celery_ops.runbook.releasing import Releasing
from celery_ops.runbook.restoring import Restoring
from celery_ops.runbook.retrying import Retrying
from celery_ops.runbook.revoking import Revoking
from celery_ops.runbook.rolling import Rolling
from celery_ops.runbook.scaling import scale
from celery_ops.runbook.schema import (
    BeatStep,
    CheckStep,
    ConfirmStep,
    ControlStep,
    NotifyStep,
    ProbeStep,
    QueueStep,
    QueueVerb,
    RestoreStep,
    Roll,
    RunStep,
    ScaleStep,
    WaitStep,
    WorkerStep,
)
from celery_ops.runbook.task_steps import (
    HoldStep,
    ReleaseStep,
    RetryStep,
    RevokeStep,
    SieveStep,
)
from celery_ops.runbook.watching import watch_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Broker
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.lease_keeper import LeaseKeeper
    from celery_ops.runbook.plan import PlannedStep
    from celery_ops.runbook.queue_consumers import Pauses
    from celery_ops.runbook.recall import Recall
    from celery_ops.runbook.schema import ControlStep, Other, Runbook, Step
    from celery_ops.runbook.sieving import Sieving
    from celery_ops.runbook.stage import Stage


class Performer:
    """The steps of one run. `came_to` is what those without targets came to, in their order."""

    def __init__(
        self,
        stage: Stage,
        runbook: Runbook,
        broker: Broker,
        *,
        lease: LeaseKeeper,
        hands: Callable[..., Effects],
        pauses: Pauses,
        sieving: Sieving,
        recall: Recall,
    ) -> None:
        """`hands` makes effects for a `broker` under a `keeper`; `recall` is what the run's own
        journal tells, also where it is taken back.
        """
        self.came_to: list[str] = []
        self._stage = stage
        self._runbook = runbook
        self._broker = broker
        self._lease = lease
        self._hands = hands
        self._pauses = pauses
        self._sieving = sieving
        self._recall = recall

    async def applies(self, step: Step) -> bool:
        """Whether it is to be done by its `when`. A step that was begun is gone on with, and one
        that was left out stays so, whatever holds when the run is taken up again.
        """
        if isinstance(step, ConfirmStep | NotifyStep) or step.when is None:
            return True
        if self._recall.knows(step.id):
            return not self._recall.was_left_out(step.id)
        verdict = step.when.evaluate(self._stage.scope(await self._stage.look()))
        if not verdict.holds:
            says = f"{step.when.source} does not hold: {verdict.says}"
            self._stage.effects.conclude(step.id, None, Result.SKIPPED, says)
        return verdict.holds

    async def perform(self, step: Step, planned: PlannedStep) -> None:
        match step:
            case Roll():
                await Rolling(self._stage, step, planned.batches).go()
            case WorkerStep():
                await self._worker_step(step, planned)
            case ConfirmStep():
                await self._confirm(step)
            case CheckStep():
                await self._check(step)
            case WaitStep():
                await self._wait(step)
            case BeatStep():
                self.came_to.append(await beats.perform(self._stage, step, planned))
            case ControlStep() | ScaleStep():
                await self._control(step, planned)
            case WatchStep():
                there = [one for one in planned.targets if not self._stage.targets[one].left_out]
                self.came_to.append(await watch_workers(self._stage, step, there))
            case NotifyStep():
                await notify(self._stage, step, "running", "")
            case RunStep():
                scope = self._stage.scope(await self._stage.look())
                await run_on_host(self._stage, step, None, scope)
            case _:
                came = await self._of_others(step)
                self.came_to += [came] if came else []

    async def finish(self) -> None:
        """What steps have put off to the end. Raise StepFailed."""
        came = await self._sieving.end_at_last()
        self.came_to += [came] if came else []

    async def _of_others(self, step: ProbeStep | Other) -> str:
        """What a step without targets came to."""
        match step:
            case ProbeStep():
                is_there = not step.optional or self._stage.plan.where.probe is not None
                return await Probing(self._stage, step).of_queues() if is_there else probes.LEFT_OUT
            case RestoreStep():
                return await Restoring(self._stage, step).go()
            case RevokeStep() | RetryStep() | HoldStep() | SieveStep() | ReleaseStep():
                return await self._of_tasks(step)
            case QueueStep():
                return await self._of_a_queue(step)
            case ActivateStep():
                return await activate_on(self._stage, step)

    async def _of_tasks(
        self, step: RevokeStep | RetryStep | HoldStep | SieveStep | ReleaseStep
    ) -> str:
        match step:
            case RevokeStep():
                return await Revoking(self._stage, step).go()
            case RetryStep():
                return await Retrying(self._stage, step, self._runbook.params).go()
            case HoldStep():
                held = Holding(self._stage, step, self._broker, self._lease, self._hands)
                return await held.go()
            case SieveStep():
                return await self._sieving.begin(step)
            case ReleaseStep() if self._stage.plan.sieves:
                return await self._sieving.end(step)
            case ReleaseStep():
                return await Releasing(self._stage, step, self._broker).go()

    async def _of_a_queue(self, step: QueueStep) -> str:
        match step.verb:
            case QueueVerb.PAUSE:
                return await self._pauses.pause(step)
            case QueueVerb.RESUME:
                await park_again(self._stage, self._runbook, step)
                return await self._pauses.resume(step)
            case QueueVerb.DRAIN:
                return await Draining(self._stage, step).go()
            case _:
                return await Moving(self._stage, step, self._runbook.params).go()

    async def _worker_step(self, step: WorkerStep, planned: PlannedStep) -> None:
        """A step outside a roll: all of its targets at once, under the guard."""
        targets = [self._stage.targets[name] for name in planned.targets]
        if step.verb.takes_capacity:
            keep = self._stage.keep_available(step)
            snapshot = await self._stage.guard(keep, self._stage.not_begun(step.id, targets))
        else:
            snapshot = await self._stage.look()
        ready = meet(self._stage, step, targets, snapshot)
        await self._stage.verbs.perform(order_of(self._stage, step), ready)
        failed = [target for target in targets if target.failed]
        for target in ready:
            target.done = not target.failed
        if failed:
            raise StepFailed("; ".join(f"{target.name}: {target.failed}" for target in failed))

    async def _control(self, step: ControlStep | ScaleStep, planned: PlannedStep) -> None:
        scope = self._stage.scope(await self._stage.look())
        targets = [self._stage.targets[name] for name in planned.targets]
        if isinstance(step, ScaleStep):
            await all_of([scale(self._stage, step, target) for target in targets])
        else:
            await all_of([controls.send(self._stage, step, one, scope) for one in targets])
        failed = [target for target in targets if target.failed]
        for target in targets:
            target.done = not target.failed
        if failed:
            raise StepFailed("; ".join(f"{one.name}: {one.failed}" for one in failed))

    async def _confirm(self, step: ConfirmStep) -> None:
        """Answered when the run was started, or asked now of whoever follows it."""
        if step.id in self._recall.confirmed:
            return
        question = render(step.question, self._stage.scope(await self._stage.look()))
        if step.id in self._stage.plan.answers:
            who = self._stage.plan.answers[step.id]
        else:
            message = await self._stage.ask(step.id, f"{question} (yes or no)")
            if message is None:
                raise ConfirmationNeeded(f"{question} Nobody is there to answer.")
            if message.answer != "yes":
                raise Aborted(message.who)
            who = message.who
        self._stage.journal.append(
            EventKind.CONFIRMED, step=step.id, outcome=Outcome(Result.DONE, f"{question} {who}")
        )

    async def _check(self, step: CheckStep) -> None:
        if self._told(step.id):
            return
        scope = self._stage.scope(await self._stage.look())
        for attempt in itertools.count(1):
            verdict = step.that.evaluate(scope)
            if verdict.holds or not await self._stage.again(
                step.retries, attempt, step.id, None, verdict.says
            ):
                break
            scope = self._stage.scope(await self._stage.look())
        says = verdict.says
        if not verdict.holds:
            message = render(step.message, scope) if step.message else f"{step.that.source}"
            says = f"{message} ({verdict.says})"
        result = Result.DONE if verdict.holds else Result.FAILED
        self._stage.effects.conclude(step.id, None, result, says)
        if not verdict.holds:
            raise StepFailed(says)

    async def _wait(self, step: WaitStep) -> None:
        def judge(snapshot: FleetSnapshot) -> Judgement:
            verdict = step.until.evaluate(self._stage.scope(snapshot))
            return Judgement(Seen.DONE if verdict.holds else Seen.NOT_YET, verdict.says)

        if self._told(step.id):
            return
        seen = await self._stage.watch.until(
            judge,
            worker=None,
            timeout=self._stage.value(step.timeout),
            safe=True,
            progress=lambda says: self._stage.say(None, says, step.id),
        )
        done = seen.seen is Seen.DONE
        self._stage.effects.conclude(
            step.id, None, Result.DONE if done else Result.FAILED, seen.says
        )
        if not done:
            raise StepFailed(f"{step.until.source}: {seen.says}")

    def _told(self, step: str) -> bool:
        """Whether the journal tells how a check or a wait went. Raise StepFailed if it failed."""
        past = self._recall.next(step, None)
        if past is None or past.outcome is None:
            return False
        if past.outcome.result is Result.FAILED:
            raise StepFailed(past.outcome.says)
        return True
