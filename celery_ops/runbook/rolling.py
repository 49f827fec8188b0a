"""The roll: takes workers through its steps in batches, proves each, and stops when too many
failed.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from celery_ops.errors import ConfirmationNeeded
from celery_ops.ports import Command
from celery_ops.runbook import facts
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.journal import EventKind, Outcome, Result
from celery_ops.runbook.judges import Judgement, Seen, Verification
from celery_ops.runbook.loader import render, render_argument
from celery_ops.runbook.schema import (
    CheckStep,
    CurrentWorker,
    OnFail,
    RunStep,
    WaitStep,
    WorkerStep,
)
from celery_ops.runbook.targets import Order
from celery_ops.runbook.worker_verbs import all_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.model import FleetSnapshot
    from celery_ops.runbook.plan import PlannedBatch
    from celery_ops.runbook.schema import InnerStep, Roll
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.targets import Target

CONDITION_TIMEOUT = 10.0


class StepFailed(Exception):
    """A step failed and the run ends here. `undo`: the runbook or the operator asked for the
    undo.
    """

    def __init__(self, says: str, *, undo: bool = False) -> None:
        super().__init__(says)
        self.says = says
        self.undo = undo


class Rolling:
    """One roll of a run."""

    def __init__(self, stage: Stage, roll: Roll, batches: tuple[PlannedBatch, ...]) -> None:
        self._stage = stage
        self._roll = roll
        self._batches = batches
        self._keep = stage.value(roll.keep_available)
        self._failed: list[str] = []

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

    def _came_through(self, batch: PlannedBatch) -> bool:
        """The journal says of every worker of the batch that it was verified."""
        recall, verify = self._stage.recall, self._verify_step
        targets = [self._stage.targets[name] for name in batch.workers]
        proofs = [recall.peek(verify, target.name) for target in targets]
        if not all(one and one.outcome and one.outcome.result is Result.DONE for one in proofs):
            return False
        recall.batch(self._roll.id)
        over = {self._verify_step, *(step.id for step in self._roll.steps)}
        for target in targets:
            recall.forget(target.name, over)
            target.done = True
        return True

    async def _batch(self, batch: PlannedBatch) -> None:
        stage = self._stage
        began = stage.recall.batch(self._roll.id)
        if began is None:
            says = f"batch {batch.number} of {len(self._batches)}: {', '.join(batch.workers)}"
            event = stage.journal.append(
                EventKind.BATCH, step=self._roll.id, outcome=Outcome(Result.UNKNOWN, says)
            )
            began = event.at
        for target in stage.targets.values():
            target.given_up = False  # What could not be put right then may be possible later.
        alive = [stage.targets[name] for name in batch.workers]
        before = {target.name: facts.of_planned(target.planned) for target in alive}
        for step in self._roll.steps:
            await stage.safe_point()
            await self._step(step, alive, began)
            alive = await self._without_failed(alive)
        await self._verify(alive, before, began)
        await self._without_failed(alive)

    async def _step(self, step: InnerStep, alive: list[Target], began: datetime) -> None:
        stage = self._stage
        snapshot = await stage.look()
        chosen = self._applying(step, alive, snapshot, began)
        match step:
            case WorkerStep():
                for target in chosen:
                    stage.refresh_target(step.id, target, step.verb, snapshot)
                await self._worker_step(step, [one for one in chosen if not one.failed])
            case RunStep():
                if step.takes_worker:
                    await stage.guard(self._keep, stage.not_begun(step.id, chosen))
                for target in chosen:
                    if step.takes_worker and not await self._may_be_taken(step, target):
                        continue
                    await run_on_host(stage, step, target, self._scope(target, snapshot, began))
            case CheckStep():
                for target in chosen:
                    if _told(stage, step.id, target):
                        continue
                    verdict = step.that.evaluate(self._scope(target, snapshot, began))
                    if not verdict.holds:
                        target.failed = f"{step.that.source} does not hold: {verdict.says}"
                    _conclude(stage, step.id, target, verdict.says)
            case WaitStep():
                await all_of([self._wait(step, target, began) for target in chosen])

    async def _may_be_taken(self, step: RunStep, target: Target) -> bool:
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
                if past.outcome is None or past.outcome.result is not Result.SKIPPED:
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
            await self._stage.guard(self._keep, self._stage.not_begun(step.id, chosen))
        timeout = self._stage.value(step.timeout)
        order = Order(step.id, step.verb, timeout, step.on_timeout)
        await self._stage.verbs.perform(order, chosen)

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
            return
        scope = {
            "params": stage.params,
            "targets": facts.TargetsFacts(len(stage.targets), frozenset(stage.targets)),
            "before": facts.BeforeFacts(before),
            "step": facts.StepFacts(began),
        }
        hold = stage.value(verify.hold)
        judge = Verification(verify, target.name, scope, hold, stage.clock.now())
        seen = await stage.watch.until(
            judge,
            worker=target.name,
            timeout=stage.value(verify.timeout),
            safe=True,
            progress=lambda says: stage.say(target.name, says, step),
        )
        if seen.seen is Seen.DONE:
            target.done = True
        else:
            target.failed = f"was not verified {seen.says}"
        _conclude(stage, step, target, seen.says)

    async def _without_failed(self, alive: list[Target]) -> list[Target]:
        """Give back what was taken from those that failed, and stop the roll if they are too
        many.
        """
        failed = [target for target in alive if target.failed]
        if not failed:
            return alive
        self._failed += [target.name for target in failed]
        undo = f"{self._roll.id} undo"
        owed = [target for target in failed if target.owed]
        await all_of([self._stage.verbs.put_right(undo, target) for target in owed])
        if len(self._failed) > self._stage.value(self._roll.max_failed):
            await self._too_many(failed)
        return [target for target in alive if not target.failed]

    async def _too_many(self, failed: list[Target]) -> None:
        says = "; ".join(f"{target.name}: {target.failed}" for target in failed)
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
        stage.journal.append(
            EventKind.ASKED,
            step=self._roll.id,
            intent="stop, undo or continue?",
            outcome=Outcome(Result.UNKNOWN, says),
        )
        message = await stage.brake.answer(self._roll.id)
        choice = message.answer if message is not None and message.answer else OnFail.STOP.value
        who = message.who if message is not None else "nobody is there to answer"
        stage.journal.append(
            EventKind.ANSWERED,
            step=self._roll.id,
            outcome=Outcome(Result.DONE, f"{choice} ({who})"),
        )
        return choice

    @property
    def _verify_step(self) -> str:
        return f"{self._roll.id} verify"

    def _scope(self, target: Target, snapshot: FleetSnapshot, began: datetime) -> dict[str, object]:
        worker = snapshot.worker(target.name)
        return {
            **self._stage.scope(snapshot),
            "worker": facts.of_worker(worker) if worker is not None else None,
            "before": facts.BeforeFacts(facts.of_planned(target.planned)),
            "step": facts.StepFacts(began),
        }


async def run_on_host(
    stage: Stage, step: RunStep, target: Target | None, scope: Mapping[str, object]
) -> None:
    """A `run` step, on the host of the current worker or the named one.

    Raise StepFailed without a target, PreconditionFailed if something in the command is not known.
    """
    host = _host_of(stage, step, target)
    name = target.name if target is not None else host
    command = Command(
        tuple(render_argument(part, scope) for part in step.argv),
        env=tuple((key, render_argument(part, scope)) for key, part in step.env),
    )
    past = stage.recall.next(step.id, name)
    if past is not None and past.outcome is not None:
        fine, says = past.outcome.result is Result.DONE, past.outcome.says
    elif past is not None and await _was_done(stage, step.id, name, command):
        fine, says = True, "done, says who resumed the run"
        stage.effects.conclude(step.id, name, Result.DONE, says)
    else:
        undo = shlex.join(render(part, scope) for part in step.undo) or None
        stage.effects.intend(
            step.id, name, str(command), expect="ends with 0", undo=undo, verb="run"
        )
        fine, says = await stage.effects.run(host, command, stage.value(step.timeout))
        stage.effects.conclude(step.id, name, Result.DONE if fine else Result.FAILED, says)
    if fine:
        return
    if target is None:
        raise StepFailed(f"step {step.id}: {says}")
    target.failed = f"{command}: {says}"


def _host_of(stage: Stage, step: RunStep, target: Target | None) -> str:
    if not isinstance(step.on, CurrentWorker):
        return stage.value(step.on)
    if target is None or target.planned.service is None:
        raise StepFailed(f"step {step.id} has no host to run on")
    return target.planned.service.host


async def _was_done(stage: Stage, step: str, name: str, command: Command) -> bool:
    """How a command ended that a run was interrupted in cannot be observed: it is asked.

    True: it was done; False: it is to be run again. Raise ConfirmationNeeded without anybody to
    ask, Aborted for any other answer.
    """
    says = f"{command} was begun on {name}, and it is not known how it ended"
    question = "done, again or stop?"
    stage.journal.append(
        EventKind.ASKED, step=step, target=name, intent=question,
        outcome=Outcome(Result.UNKNOWN, says),
    )  # fmt: skip
    message = await stage.brake.answer(step)
    if message is None:
        raise ConfirmationNeeded(
            f"{says}. Nobody is there to say so.",
            fix="Resume it in a terminal, or give back what was taken: runs undo.",
        )
    said = f"{message.answer} ({message.who})"
    stage.journal.append(
        EventKind.ANSWERED, step=step, target=name, outcome=Outcome(Result.DONE, said)
    )
    if message.answer not in {"done", "again"}:
        raise Aborted(message.who)
    return message.answer == "done"


def _told(stage: Stage, step: str, target: Target) -> bool:
    """Whether the journal tells how a check or a wait went; a failure is the target's."""
    past = stage.recall.next(step, target.name)
    if past is None or past.outcome is None:
        return False
    if past.outcome.result is Result.FAILED:
        target.failed = past.outcome.says
    return True


def _conclude(stage: Stage, step: str, target: Target, says: str) -> None:
    result = Result.FAILED if target.failed else Result.DONE
    stage.effects.conclude(step, target.name, result, target.failed or says)
