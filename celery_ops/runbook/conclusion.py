"""How a run ends: what is half done is put right, or taken back; and what is left is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, OpsError
from celery_ops.ports import Command
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.journal import Ending, Owed, Report, Result, RunState, read
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.rolling import StepFailed
from celery_ops.runbook.schema import WorkerStep, WorkerVerb
from celery_ops.runbook.targets import Order
from celery_ops.runbook.undo import Irreversible, Reversal, reversals
from celery_ops.runbook.worker_verbs import all_of

if TYPE_CHECKING:
    from celery_ops.model import TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.schema import Runbook
    from celery_ops.runbook.stage import Stage
    from celery_ops.runbook.targets import Target

UNDO_TIMEOUT = 120.0
"""Seconds, for one act that is taken back."""


@dataclass(slots=True)
class Course:
    """How the run goes, and why it ended as it did."""

    state: RunState = RunState.SUCCEEDED
    ending: Ending = Ending.DONE
    says: str = ""


class Conclusion:
    """The last part of a run."""

    def __init__(self, stage: Stage, runbook: Runbook, broker: Broker) -> None:
        self._stage = stage
        self._runbook = runbook
        self._broker = broker

    async def conclude(self, course: Course, *, undo: bool) -> Report:
        """Undo what is half done, check `finally`, and say what is left. `undo`: that was asked for
        in place of going on.
        """
        if course.ending in {Ending.STOPPED, Ending.UNDONE, Ending.ABORTED}:
            await self._put_right(course)
            if course.ending is Ending.UNDONE:
                course.state = RunState.UNDONE
                await self._take_back(course)
        began = course.ending not in {Ending.LEASE_HELD, Ending.REFUSED, Ending.UNCONFIRMED}
        if began and course.ending is not Ending.UNREACHABLE:
            await self._finally(course)
        report = await self._report(course)
        if report.owed or (report.left_drained and course.ending is not Ending.DONE):
            if course.ending is Ending.UNDONE:
                course.state = RunState.UNDO_FAILED
            course.ending = Ending.NEEDS_HUMAN
            if course.state is RunState.SUCCEEDED:
                course.state = RunState.FAILED
        if undo and course.ending is Ending.UNDONE:
            course.ending = Ending.DONE  # that is what was asked for
        return report

    async def _put_right(self, course: Course) -> None:
        """Give back what is still owed to anybody, unless somebody else has the lease by now: then
        the report says what is owed. A second abort ends even this.
        """
        if not self._stage.effects.may_go_on:
            return

        async def right(target: Target) -> None:
            try:
                await self._stage.verbs.put_right("undo", target)
            except OpsError as error:
                target.failed = target.failed or error.says
                self._stage.effects.conclude("undo", target.name, Result.FAILED, error.says)

        targets = self._stage.targets.values()
        try:
            await all_of([right(one) for one in targets if one.owed and not one.given_up])
        except Aborted:
            course.state, course.ending = RunState.INTERRUPTED, Ending.INTERRUPTED

    async def _take_back(self, course: Course) -> None:
        """Reverse what the current batch has done beyond what it owes, the newest first."""
        done = Recall.of(read(self._stage.journal.path))
        for one in reversals(done, self._runbook):
            if isinstance(one, Irreversible):
                self._worsen_undo(course, str(one))
                continue
            if not self._stage.effects.may_go_on:
                self._worsen_undo(course, f"{one}: somebody else has the lease")
                continue
            try:
                await self._reverse(one)
            except Aborted:
                course.state, course.ending = RunState.INTERRUPTED, Ending.INTERRUPTED
                return
            except (StepFailed, OpsError) as error:
                self._worsen_undo(course, f"{one}: {error.says}")

    async def _reverse(self, one: Reversal) -> None:
        """Raise StepFailed or an OpsError if it could not be taken back."""
        target = self._stage.targets.get(one.target)
        step = f"undo {one.step}"
        if one.argv:
            service = target.planned.service if target is not None else None
            host = one.target if service is None else service.host
            command = Command(one.argv)
            self._stage.effects.intend(
                step, one.target, str(command), expect="ends with 0", undo=None, verb="undo"
            )
            fine, says = await self._stage.effects.run(host, command, UNDO_TIMEOUT)
            self._stage.effects.conclude(
                step, one.target, Result.DONE if fine else Result.FAILED, says
            )
            if not fine:
                raise StepFailed(says)
            return
        if target is None:
            raise StepFailed(f"{one.target} is none of the run's targets")
        snapshot = await self._stage.guard(self._stage.keep_available(), [one.target])
        self._stage.refresh_target(step, target, WorkerVerb.STOP, snapshot)
        kept, target.failed = target.failed, ""
        await self._stage.verbs.perform(Order(step, WorkerVerb.STOP, UNDO_TIMEOUT), [target])
        failed, target.failed = target.failed, kept
        if failed:
            raise StepFailed(failed)
        await self._stage.effects.give_back("service", target.planned)
        target.down = False

    def _worsen_undo(self, course: Course, says: str) -> None:
        course.says = f"{course.says}; not undone: {says}" if course.says else f"not undone: {says}"
        course.state, course.ending = RunState.UNDO_FAILED, Ending.NEEDS_HUMAN

    async def _finally(self, course: Course) -> None:
        if not self._runbook.finally_:
            return
        try:
            scope = self._stage.scope(await self._stage.look())
        except BrokerUnreachable as error:
            self._worsen(course, error.says)
            return
        for step in self._runbook.finally_:
            verdict = step.that.evaluate(scope)
            result = Result.DONE if verdict.holds else Result.FAILED
            self._stage.effects.conclude(
                step.id, None, result, f"{step.that.source}: {verdict.says}"
            )
            if not verdict.holds:
                self._worsen(course, f"{step.that.source} does not hold at the end: {verdict.says}")

    def _worsen(self, course: Course, says: str) -> None:
        course.says = f"{course.says}; {says}" if course.says else says
        if course.ending is Ending.DONE:
            course.state, course.ending = RunState.FAILED, Ending.STOPPED

    async def _report(self, course: Course) -> Report:
        """What the broker says is still taken by this run, and what came of each target."""
        try:
            taken = [one for one in await self._broker.taken() if one.run == self._stage.plan.run]
        except BrokerUnreachable:
            return self.report_from_memory()
        meant = self._left_on_purpose() if course.ending is Ending.DONE else set()
        owed = tuple(_owed(one) for one in taken if one.key not in meant)
        return replace(
            self._names(),
            left_drained=tuple(_owed(one) for one in taken if one.key in meant),
            owed=owed,
        )

    def report_from_memory(self) -> Report:
        owed = [
            _owed(
                self._stage.effects.record("service" if target.down else "queues", target.planned)
            )
            for target in self._stage.targets.values()
            if target.owed
        ]
        return replace(self._names(), owed=tuple(owed))

    def _names(self) -> Report:
        """Each target once. One that is back without having been verified (an abort) is done."""
        done, failed, not_started = [], [], []
        for one in self._stage.targets.values():
            if one.failed or (one.owed and not one.done):
                failed.append(one.name)
            elif one.done or one.renewed:
                done.append(one.name)
            else:
                not_started.append(one.name)
        return Report(tuple(done), tuple(failed), not_started=tuple(not_started))

    def _left_on_purpose(self) -> set[str]:
        """A runbook whose last word to a worker is drain or stop means to leave it so."""
        meant: set[str] = set()
        for step, planned in zip(self._runbook.steps, self._stage.plan.steps, strict=True):
            if not isinstance(step, WorkerStep):
                continue
            for name in planned.targets:
                meant -= {f"queues:{name}", f"service:{name}"}
                if step.verb is WorkerVerb.DRAIN:
                    meant.add(f"queues:{name}")
                if step.verb is WorkerVerb.STOP:
                    meant.add(f"service:{name}")
        return meant


def _owed(record: TakenRecord) -> Owed:
    is_stopped = record.kind == "service"
    return Owed(f"{record.worker} is {'stopped' if is_stopped else 'drained'}", record.mend)
