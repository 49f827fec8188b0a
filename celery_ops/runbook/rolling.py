"""The roll: takes workers through its steps in batches, proves each, and stops when too many
failed.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from celery_ops.runbook import controls, facts
from celery_ops.runbook.activating import activate_for
from celery_ops.runbook.commands import host_of, run_on_host
from celery_ops.runbook.cutting_off import recollect
from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.gathering import all_of
from celery_ops.runbook.hazards import absence
from celery_ops.runbook.judges import Judgement, Seen
from celery_ops.runbook.meeting import meet, order_of
from celery_ops.runbook.plan import PlannedBatch
from celery_ops.runbook.put_off import PutOff, Turns
from celery_ops.runbook.recall import VERIFY
from celery_ops.runbook.release_steps import ActivateStep, WatchStep
from celery_ops.runbook.roll_words import OnFail
from celery_ops.runbook.scaling import scale
from celery_ops.runbook.schema import (
    CheckStep,
    ControlStep,
    ProbeStep,
    RunStep,
    ScaleStep,
    WaitStep,
    WorkerStep,
)
from celery_ops.runbook.slots import skips
from celery_ops.runbook.verification import Verification
from celery_ops.runbook.watching import watch_targets
from celery_ops.runbook.worker_probing import probe_targets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.schema import InnerStep, Roll
    from celery_ops.runbook.stage import Stage


class Rolling:
    """One roll of a run."""

    def __init__(self, stage: Stage, roll: Roll, batches: tuple[PlannedBatch, ...]) -> None:
        self._stage = stage
        self._roll = roll
        self._batches = batches
        self._keep = stage.value(roll.keep_available)
        self._failed: list[str] = []
        self._put_off: list[PutOff] = []
        self._canaries = {name for one in batches if one.canary for name in one.workers}
        self._once = self._done_once()
        """What is done once a host, by step and host: how it failed there, empty if it did not."""

    def _done_once(self) -> dict[tuple[str, str], str]:
        stage = self._stage
        steps = {one.id: one for one in self._roll.steps if isinstance(one, RunStep)}
        return {
            (act.step, host_of(stage, steps[act.step], stage.targets[act.target])): ""
            for act in stage.recall.acts
            if act.step in steps and steps[act.step].once_per_host
            if act.began and act.outcome and act.outcome.result is Result.DONE
            if not act.taken_back
            if act.target in stage.targets
        }

    async def go(self) -> None:
        """Raise StepFailed, PreconditionFailed (the guard) or Aborted; the batch under way is then
        still owed what was taken from it.
        """
        settle = self._stage.value(self._roll.settle)
        for batch in self._batches:
            if self._came_through(batch):
                continue
            await self._stage.safe_point()
            await self._batch(batch)
            if batch is not self._batches[-1]:
                await self._stage.brake.sleep(settle)
        if self._put_off:
            await self._come_back(settle)

    async def _come_back(self, settle: float) -> None:
        """Those that were put off have another turn, one at a time, each as soon as it is free.

        Raise StepFailed if there are any that do not come free in the time that a drain has.
        """
        waiting, self._put_off = self._put_off, []
        turns = Turns(self._stage, f"{self._roll.id} later", waiting)
        number = len(self._batches)
        while (target := await turns.next()) is not None:
            number += 1
            target.put_off = ""
            batch = PlannedBatch(number, (target.name,), ())
            if self._came_through(batch):
                continue
            await self._stage.brake.sleep(settle)
            await self._stage.safe_point()
            await self._batch(batch)
        left = [one.target for one in waiting if one.target.put_off]
        if left:
            says = "; ".join(f"{one.name}: deferred, and {one.put_off}" for one in left)
            raise StepFailed(says)

    def _came_through(self, batch: PlannedBatch) -> bool:
        """The journal says of every worker of the batch that it was verified."""
        recall, verify = self._stage.recall, self._verify_step
        inner = [step.id for step in self._roll.steps]
        if any(recall.was_put_off(inner, name) for name in batch.workers):
            return False
        targets = [self._stage.targets[name] for name in batch.workers]
        proofs = [recall.peek(verify, target.name) for target in targets]
        if not all(one and one.outcome and one.outcome.result is Result.DONE for one in proofs):
            return False
        recall.batch(self._roll.id)
        over = {self._verify_step, *inner}
        for target in targets:
            recall.forget(target.name, over)
            target.done, target.settled = True, self._roll.for_good
        return True

    async def _batch(self, batch: PlannedBatch) -> None:
        stage = self._stage
        began = stage.recall.batch(self._roll.id)
        if began is None:
            names = ", ".join(batch.workers)
            says = f"batch {batch.number} of {len(self._batches)}: {names}"
            if batch.number > len(self._batches):
                says = f"again, as it was put off: {names}"
            event = stage.journal.append(
                EventKind.BATCH, step=self._roll.id, outcome=Outcome(Result.UNKNOWN, says)
            )
            began = event.at
        for target in stage.targets.values():
            target.given_up = False  # What could not be put right then may be possible later.
        alive = [stage.targets[name] for name in batch.workers]
        for target in alive:
            target.done = False  # An earlier step may be done with it; its roll is not.
        if skips(self._roll.offline, {"params": stage.params}):
            alive = await self._present(alive, began)
        before = {target.name: facts.of_planned(target.planned) for target in alive}
        for step in self._roll.steps:
            await stage.safe_point()
            await self._step(step, alive, began)
            alive = await self._without_put_off(step, alive, last=batch.number > len(self._batches))
            alive = await self._without_failed(alive)
        await self._verify(alive, before, began)
        await self._without_failed(alive)

    async def _present(self, alive: list[Target], began: datetime) -> list[Target]:
        """Leave out those that cannot be reached and with whom nothing was begun yet."""
        stage = self._stage
        snapshot = await stage.look()
        for target in alive:
            if any(stage.recall.peek(step.id, target.name) for step in self._roll.steps):
                continue
            past = stage.recall.next(self._roll.id, target.name)
            if past is not None and past.outcome is not None:
                target.left_out = past.outcome.says
                continue
            scope = self._scope(target, snapshot, began)
            steps = [
                step
                for step in self._roll.steps
                if step.when is None or step.when.evaluate(scope).truth is not Truth.FAILS
            ]
            target.left_out = absence(steps, target.planned, snapshot) or ""
            if target.left_out:
                stage.effects.conclude(self._roll.id, target.name, Result.SKIPPED, target.left_out)
        return [target for target in alive if not target.left_out]

    async def _step(self, step: InnerStep, alive: list[Target], began: datetime) -> None:
        stage = self._stage
        snapshot = await stage.look()
        chosen = self._applying(step, alive, snapshot, began)
        match step:
            case WorkerStep():
                await self._worker_step(step, meet(stage, step, chosen, snapshot))
            case RunStep():
                if step.takes_worker:
                    await self._guard(step, chosen)
                for target in chosen:
                    await self._run(step, target, self._scope(target, snapshot, began))
            case ScaleStep():
                await all_of([scale(stage, step, one) for one in chosen])
            case ControlStep():
                if step.takes_worker:
                    await self._guard(step, chosen)
                await all_of([self._send(step, one, snapshot, began) for one in chosen])
            case ActivateStep():
                await activate_for(stage, step, chosen)
            case CheckStep():
                await all_of([self._check(step, one, snapshot, began) for one in chosen])
            case ProbeStep() | WatchStep() | WaitStep():
                await self._observe(step, chosen, began)

    async def _observe(
        self, step: ProbeStep | WatchStep | WaitStep, chosen: list[Target], began: datetime
    ) -> None:
        match step:
            case ProbeStep():
                await probe_targets(self._stage, step, chosen)
            case WatchStep():
                await watch_targets(self._stage, step, chosen)
            case WaitStep():
                await all_of([self._wait(step, target, began) for target in chosen])

    async def _send(
        self, step: ControlStep, target: Target, snapshot: FleetSnapshot, began: datetime
    ) -> None:
        if step.takes_worker and not await self._may_be_taken(step, target):
            return
        await controls.send(self._stage, step, target, self._scope(target, snapshot, began))

    async def _may_be_taken(self, step: RunStep | ControlStep, target: Target) -> bool:
        """Whether it is as drained as it was, if it was, now that a command takes it away; what
        lives after that was not drained.
        """
        past = self._stage.recall.peek(step.id, target.name)
        if past is None and not await self._stage.verbs.stays_drained(step.id, target):
            return False
        target.drained = None
        return True

    def _applying(
        self, step: InnerStep, alive: list[Target], snapshot: FleetSnapshot, began: datetime
    ) -> list[Target]:
        """Those for which the step's `when` holds."""
        applying = []
        for target in alive:
            past = self._stage.recall.peek(step.id, target.name)
            if past is not None:
                if past.outcome is not None and past.outcome.result is Result.SKIPPED:
                    self._stage.recall.next(step.id, target.name)
                    recollect(target, past.outcome)
                else:
                    applying.append(target)
                continue
            scope = self._scope(target, snapshot, began)
            if step.when is None or step.when.evaluate(scope).holds:
                applying.append(target)
                continue
            says = Outcome(Result.SKIPPED, f"{step.when.source} does not hold")
            self._stage.journal.append(
                EventKind.RESULT, step=step.id, target=target.name, outcome=says
            )
        return applying

    async def _worker_step(self, step: WorkerStep, chosen: list[Target]) -> None:
        if not chosen:
            return
        if step.verb.takes_capacity:
            await self._guard(step, chosen)
        await self._stage.verbs.perform(order_of(self._stage, step), chosen)

    async def _guard(self, step: InnerStep, chosen: list[Target]) -> None:
        taking = self._stage.not_begun(step.id, chosen)
        await self._stage.guard(self._keep, taking, for_good=self._roll.for_good)

    async def _run(self, step: RunStep, target: Target, scope: Mapping[str, object]) -> None:
        if step.takes_worker and not await self._may_be_taken(step, target):
            return
        if not step.once_per_host:
            await run_on_host(self._stage, step, target, scope)
            return
        host = host_of(self._stage, step, target)
        came = self._once.get((step.id, host))
        if came is None:
            await run_on_host(self._stage, step, target, scope)
            self._once[step.id, host] = target.failed
            return
        target.failed = came
        _conclude(self._stage, step.id, target, f"was done on {host}, once for all", skips=True)

    async def _check(
        self, step: CheckStep, target: Target, snapshot: FleetSnapshot, began: datetime
    ) -> None:
        if _told(self._stage, step.id, target):
            return
        for attempt in itertools.count(1):
            verdict = step.that.evaluate(self._scope(target, snapshot, began))
            says = f"{step.that.source} does not hold: {verdict.says}"
            if verdict.holds or not await self._stage.again(
                step.retries, attempt, step.id, target.name, says
            ):
                break
            snapshot = await self._stage.look()
        target.failed = "" if verdict.holds else says
        _conclude(self._stage, step.id, target, verdict.says)

    async def _wait(self, step: WaitStep, target: Target, began: datetime) -> None:
        if _told(self._stage, step.id, target):
            return

        def judge(snapshot: FleetSnapshot) -> Judgement:
            verdict = step.until.evaluate(self._scope(target, snapshot, began))
            return Judgement(Seen.DONE if verdict.holds else Seen.NOT_YET, verdict.says)

        seen = await self._stage.watch.until(
            judge,
            worker=target.name,
            service=target.planned.service,
            timeout=self._stage.value(step.timeout),
            safe=True,
            progress=lambda says: self._stage.say(target.name, says, step.id),
        )
        if seen.seen is not Seen.DONE:
            target.failed = f"{step.until.source}: {seen.says}"
        _conclude(self._stage, step.id, target, seen.says)

    async def _verify(
        self, alive: list[Target], before: dict[str, facts.WorkerFacts], began: datetime
    ) -> None:
        await all_of([self._verify_one(target, before[target.name], began) for target in alive])

    async def _verify_one(self, target: Target, before: facts.WorkerFacts, began: datetime) -> None:
        stage, verify, step = self._stage, self._roll.verify, self._verify_step
        if _told(stage, step, target):
            target.done = not target.failed
            target.settled = target.done and self._roll.for_good
            return
        before = facts.next_life(before, target.planned) if target.renewed else before
        scope = {
            "params": stage.params,
            "targets": facts.of_targets(stage.targets, 0, ()),
            "before": facts.BeforeFacts(before),
            "step": facts.StepFacts(began, target.name in self._canaries),
        }
        hold = stage.value(verify.hold)
        now, down = stage.clock.now(), target.down
        # What it runs is told by its host, which is not asked for anything else.
        is_told_by_host = any("worker.release" in one.names for one in verify.that)
        seen = await stage.watch.until(
            Verification(verify, target.name, scope, hold, now, down=down),
            worker=target.name,
            service=target.planned.service if down or is_told_by_host else target.vouching,
            timeout=stage.value(verify.timeout),
            safe=True,
            progress=lambda says: stage.say(target.name, says, step),
        )
        if seen.seen is Seen.DONE:
            target.done, target.settled = True, self._roll.for_good
        else:
            target.failed = f"was not verified {seen.says}"
        _conclude(stage, step, target, seen.says)

    async def _without_put_off(
        self, step: InnerStep, alive: list[Target], *, last: bool
    ) -> list[Target]:
        """Give their queues back to those whose turn is to come again; `last`: it was that one."""
        put_off = [target for target in alive if target.put_off]
        undo = f"{self._roll.id} {'later undo' if last else 'undo'}"
        for target in put_off:
            if target.owed:
                await self._stage.verbs.put_right(undo, target)
            else:
                self._stage.recall.forget(target.name, {undo})  # it was given back, and is over
            if not last and not target.failed and isinstance(step, WorkerStep):
                self._put_off.append(PutOff(target, self._stage.value(step.timeout), step.id))
        return [target for target in alive if not target.put_off or target.failed]

    async def _without_failed(self, alive: list[Target]) -> list[Target]:
        """Give back what was taken from those that failed, and stop the roll if they are too
        many.
        """
        failed = [target for target in alive if target.failed]
        if not failed:
            return alive
        self._failed += [target.name for target in failed]
        undo = f"{self._roll.id} undo"
        too_many = len(self._failed) > self._stage.value(self._roll.max_failed)
        switches = any(isinstance(step, ActivateStep) for step in self._roll.steps)
        # Who is down is started when its release is back: with this one it did not come up.
        later = too_many and switches and self._roll.on_fail is OnFail.UNDO
        owed = [target for target in failed if target.owed and not (later and target.down)]
        await all_of([self._stage.verbs.put_right(undo, target) for target in owed])
        if too_many:
            await self._too_many(failed)
        return [target for target in alive if not target.failed]

    async def _too_many(self, failed: list[Target]) -> None:
        says = "; ".join(f"{target.name}: {target.failed.splitlines()[0]}" for target in failed)
        choice = self._roll.on_fail.value
        if self._roll.on_fail is OnFail.ASK:
            choice = await self._ask(says)
        if choice == "continue":
            return
        raise StepFailed(says, undo=choice == OnFail.UNDO.value)

    async def _ask(self, says: str) -> str:
        """Stop, undo or continue; without anybody to ask, stop."""
        stage = self._stage
        given = stage.recall.answer(self._roll.id)
        if given is not None:
            return given.partition(" ")[0]
        message = await stage.ask(self._roll.id, "stop, undo or continue?", says=says)
        if message is not None:
            return message.answer or OnFail.STOP.value
        nobody = Outcome(Result.DONE, f"{OnFail.STOP.value} (nobody is there to answer)")
        stage.journal.append(EventKind.ANSWERED, step=self._roll.id, outcome=nobody)
        return OnFail.STOP.value

    @property
    def _verify_step(self) -> str:
        return f"{self._roll.id}{VERIFY}"

    def _scope(self, target: Target, snapshot: FleetSnapshot, began: datetime) -> dict[str, object]:
        worker = snapshot.worker(target.name)
        return {
            **self._stage.scope(snapshot),
            "worker": facts.of_worker(worker) if worker is not None else None,
            "before": facts.BeforeFacts(facts.of_planned(target.planned)),
            "step": facts.StepFacts(began, target.name in self._canaries),
        }


def _told(stage: Stage, step: str, target: Target) -> bool:
    """Whether the journal tells how a check or a wait went; a failure is the target's."""
    past = stage.recall.next(step, target.name)
    if past is None or past.outcome is None:
        return False
    if past.outcome.result is Result.FAILED:
        target.failed = past.outcome.says
    return True


def _conclude(stage: Stage, step: str, target: Target, says: str, *, skips: bool = False) -> None:
    fine = Result.SKIPPED if skips else Result.DONE
    result = Result.FAILED if target.failed else fine
    stage.effects.conclude(step, target.name, result, target.failed or says)
