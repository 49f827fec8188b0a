"""How a run ends: what is half done is put right, or taken back; and what is left is said."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, LeaseBroken, LeaseHeld, LeaseLost, OpsError
from celery_ops.ports import Command
from celery_ops.runbook import facts
from celery_ops.runbook.activating import switch
from celery_ops.runbook.beats import kept_stopped, left_stopped
from celery_ops.runbook.brake import Aborted
from celery_ops.runbook.cleanup import STEP, Cleanup
from celery_ops.runbook.events import Ending, Owed, Report, Result, RunState
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.journal import read
from celery_ops.runbook.loader import render_argument
from celery_ops.runbook.moving_back import forget_tickets, left_parked, take_back
from celery_ops.runbook.notices import notify
from celery_ops.runbook.orders import Order
from celery_ops.runbook.queue_plans import left_paused
from celery_ops.runbook.recall import UNDO, Recall
from celery_ops.runbook.report import again, cause, causes, held, paused
from celery_ops.runbook.scaling import scale_back
from celery_ops.runbook.schema import (
    CheckStep,
    NotifyStep,
    OnTimeout,
    QueueStep,
    Roll,
    WorkerStep,
    WorkerVerb,
)
from celery_ops.runbook.undo import Irreversible, Reversal, reversals, stopped_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.queue_consumers import Pauses
    from celery_ops.runbook.schema import Runbook
    from celery_ops.runbook.sieving import Sieving
    from celery_ops.runbook.stage import Stage

ABORTED_BY = "aborted by "
UNDO_TIMEOUT = 120.0
"""Seconds, for one act that is taken back."""
EVENTS_PATIENCE = 60.0
BETWEEN_TRIES = 5.0
"""Seconds, for task events that are to be switched off while the broker is away."""


@dataclass(slots=True)
class Course:
    """How the run goes, and why it ended as it did."""

    state: RunState = RunState.SUCCEEDED
    ending: Ending = Ending.DONE
    says: str = ""
    err: str = ""
    """What a command wrote that the run failed on."""
    began: bool = False
    """It held the lease, and was told what it owes."""
    step: str = ""
    """The one that was under way when it was aborted."""

    def aborted(self, by: str, stage: int, step: str = "") -> None:
        """The first stage takes the batch back and is an end; after the others the run can be gone
        on with.
        """
        self.step = step
        self.state, self.ending = RunState.ABORTED, Ending.ABORTED
        if stage > 1:
            self.state, self.ending = RunState.INTERRUPTED, Ending.INTERRUPTED
        self.says = f"{ABORTED_BY}{by}"


class Conclusion:
    """The last part of a run."""

    def __init__(
        self,
        stage: Stage,
        runbook: Runbook,
        broker: Broker,
        *,
        pauses: Pauses,
        sieving: Sieving,
        undo: bool,
    ) -> None:
        """`undo`: to take back what was done was asked for, in place of going on."""
        self._stage = stage
        self._runbook = runbook
        self._broker = broker
        self._undo = undo
        self._pauses = pauses
        self._sieving = sieving
        keeps = frozenset() if undo else kept_stopped(runbook, stage.plan)
        self._cleanup = Cleanup(stage, broker, pauses, keeps=keeps)
        self._stopped_again: dict[str, PlannedWorker] = {}
        """Schedulers whose start was taken back, by name: they are owed as they were before."""
        self.gave_back: list[str] = []
        """What came of messages that were given back, step by step."""

    async def conclude(self, course: Course) -> Report:
        """Undo what is half done, check `finally`, and say what is left."""
        ends = {Ending.DONE, Ending.STOPPED, Ending.UNDONE, Ending.ABORTED}
        await self._pauses.stop()
        self._stopped_again = stopped_again(Recall.of(read(self._stage.journal.path)))
        for name in self._stopped_again:
            self._stage.targets[name].down, self._stage.targets[name].returned = False, True
        if course.began and course.ending in ends:
            try:
                await self._events_off()
                await self._releases_first(course)
                await self._cleanup.put_right(failed_only=course.ending is Ending.DONE)
            except (Aborted, LeaseBroken) as error:
                _break_off(course, error)
            except LeaseHeld as error:
                course.says = _joined(course.says, error.says)
            await self._reverse_all(course)
        nothing_done = {Ending.REFUSED, Ending.UNCONFIRMED, Ending.UNREACHABLE}
        if course.began and course.ending not in nothing_done:
            await self._finally(course)
        report = await self._report(course)
        pulled = self._stage.brake.stage
        if pulled and course.ending is Ending.DONE:
            # Too late to change anything; that it was wanted is told nevertheless.
            course.aborted(f"{self._stage.brake.by}, when all was done", pulled)
        is_asked_for = course.ending is (Ending.UNDONE if self._undo else Ending.DONE)
        if report.owed or (report.left_drained and not is_asked_for):
            if course.ending is Ending.UNDONE:
                course.state = RunState.UNDO_FAILED
            if course.ending is Ending.DONE:
                course.state = RunState.FAILED
            course.ending = Ending.NEEDS_HUMAN
        if self._undo and course.ending is Ending.UNDONE:
            # It is what was asked for; but an abort never ends well.
            course.ending = Ending.ABORTED if pulled else Ending.DONE
        if course.began and course.ending not in nothing_done:
            await self._tell(course)
        return self._explained(report, course)

    async def _reverse_all(self, course: Course) -> None:
        """What the end of a run asks to be reversed. Raise BrokerUnreachable."""
        if course.ending is Ending.UNDONE:
            course.state = RunState.UNDONE
            await self._take_back(course)
        if course.ending is Ending.ABORTED and course.step:
            await self._take_back(course, course.step)
        if course.ending is not Ending.INTERRUPTED:
            # Last: what waits for workers that got their queues back goes on until then.
            course.says = _joined(course.says, await self._sieving.give_back())

    async def _events_off(self) -> None:
        """Task events that a probe needed, also of workers behind a broker that is away for a
        moment. They do no harm: who cannot be told is named, and keeps them. Raise LeaseBroken.
        """
        events, clock = self._stage.task_events, self._stage.clock
        until = clock.monotonic() + EVENTS_PATIENCE
        try:
            await events.switch_off()
            while events.owed and self._stage.effects.away and clock.monotonic() < until:
                await self._stage.brake.sleep(BETWEEN_TRIES, safe=False)
                await events.switch_off()
        except LeaseBroken:
            raise
        except OpsError as error:
            names = ", ".join(events.owed)
            self._stage.say(None, f"task events of {names} stay on: {error.says}")

    def _explained(self, report: Report, course: Course) -> Report:
        found = causes(self._stage.targets.values())
        if course.err and not found:
            found = (cause("", f"{course.says}\n{course.err}"),)
        goes_on = again(report, self._stage.plan, self._runbook, course.state)
        return replace(report, causes=found, again=goes_on)

    async def _releases_first(self, course: Course) -> None:
        """Of workers that are down, for they are about to be started, and not with what would not
        start. What fails of it is tried again, and told, when all else is taken back.
        """
        is_aborted = course.ending is Ending.ABORTED and bool(course.step)
        if not (is_aborted or course.ending is Ending.UNDONE):
            return
        done = Recall.of(read(self._stage.journal.path))
        step = course.step if is_aborted else None
        for one in reversals(done, self._runbook, self._stage.plan, step):
            target = self._stage.targets.get(one.target)
            if isinstance(one, Irreversible) or not one.release or target is None:
                continue
            if not (target.down and self._stage.effects.may_go_on):
                continue
            try:
                await self._switch_back(f"{UNDO}{one.step}", one)
            except (LeaseBroken, LeaseHeld):
                raise
            except (StepFailed, OpsError) as error:
                self._stage.say(one.target, error.says, STEP)

    async def _take_back(self, course: Course, step: str | None = None) -> None:
        """Reverse what the current batch has done beyond what it owes, the newest first; with a
        `step`: no other's.
        """
        self._stage.brake.heed()
        done = Recall.of(read(self._stage.journal.path))
        for one in reversals(done, self._runbook, self._stage.plan, step):
            if isinstance(one, Irreversible):
                self._worsen_undo(course, str(one))
                continue
            if not self._stage.effects.may_go_on:
                self._worsen_undo(course, f"{one}: somebody else has the lease")
                continue
            try:
                self._stage.brake.check(safe=False)
                await self._reverse(one)
                if (target := self._stage.targets.get(one.target)) is not None:
                    target.returned, target.renewed, target.done = True, False, False
            except (Aborted, LeaseBroken) as error:
                _break_off(course, error)
                return
            except (StepFailed, OpsError) as error:
                self._worsen_undo(course, f"{one}: {error.says}")

    async def _reverse(self, one: Reversal) -> None:
        """Raise StepFailed or an OpsError if it could not be taken back."""
        target = self._stage.targets.get(one.target)
        step = f"{UNDO}{one.step}"
        if one.argv:
            await self._run_back(step, one)
            return
        if one.messages:
            await self._messages_back(one)
            return
        if one.release:
            await self._release_back(step, one)
            return
        if target is None:
            raise StepFailed(f"{one.target} is none of the run's targets")
        if one.processes is not None:
            await scale_back(self._stage, step, target, one.processes, timeout=UNDO_TIMEOUT)
            return
        await self._stop_again(step, target)

    async def _messages_back(self, one: Reversal) -> None:
        for step in self._runbook.steps:
            if isinstance(step, QueueStep) and step.id == one.step:
                self.gave_back += await take_back(self._stage, step, one.target)

    async def _release_back(self, step: str, one: Reversal) -> None:
        """And a worker that runs another one by now is restarted. Raise StepFailed."""
        stage, target = self._stage, self._stage.targets.get(one.target)
        await self._switch_back(step, one)
        if target is None or target.owed:
            return
        snapshot = await stage.look()
        worker = snapshot.worker(target.name)
        if worker is None or worker.release == one.release:
            return
        stage.refresh_target(f"{step} restart", target, WorkerVerb.RESTART, snapshot)
        kept, target.failed = target.failed, ""
        if worker.answers or worker.busy_solo:
            order = Order(f"{step} drain", WorkerVerb.DRAIN, UNDO_TIMEOUT, OnTimeout.PROCEED)
            await stage.verbs.perform(order, [target])
        if not target.failed:
            await stage.verbs.perform(
                Order(f"{step} restart", WorkerVerb.RESTART, UNDO_TIMEOUT), [target]
            )
        if target.owed:
            await stage.verbs.put_right(STEP, target)
        failed, target.failed = target.failed, kept
        if failed and failed != kept:
            raise StepFailed(failed)

    async def _switch_back(self, step: str, one: Reversal) -> None:
        """Raise StepFailed."""
        self._stage.effects.intend(
            step, one.target, f"make {one.release} the current release of {one.host} again",
            expect="it is the one that services are started with", undo=None, verb="undo",
        )  # fmt: skip
        await switch(
            self._stage, step, one.target, one.host, one.release, expect=None, timeout=UNDO_TIMEOUT
        )

    async def _stop_again(self, step: str, target: Target) -> None:
        """Drained first, for it may have begun tasks since. Raise StepFailed.

        A scheduler runs none. That it is stopped stays recorded: nobody else tells which ones are
        to be started again.
        """
        stage = self._stage
        if target.planned.is_beat:
            stage.refresh_target(step, target, WorkerVerb.STOP, await stage.look())
            await stage.verbs.perform(Order(step, WorkerVerb.STOP, UNDO_TIMEOUT), [target])
            if target.failed:
                raise StepFailed(target.failed)
            self._stopped_again[target.name] = target.planned
            target.down = False
            return
        snapshot = await stage.guard(stage.keep_available(), [target.name])
        stage.refresh_target(step, target, WorkerVerb.STOP, snapshot)
        kept, target.failed = target.failed, ""
        if not stage.plan.emergency:
            await stage.verbs.perform(Order(step, WorkerVerb.DRAIN, UNDO_TIMEOUT), [target])
        if not target.failed:
            await stage.verbs.perform(Order(step, WorkerVerb.STOP, UNDO_TIMEOUT), [target])
        failed = target.failed
        if target.queues_taken:
            await stage.verbs.put_right(STEP, target)
        target.failed = kept
        if failed:
            raise StepFailed(failed)
        await stage.effects.give_back("service", target.planned)
        target.down = False

    async def _run_back(self, step: str, one: Reversal) -> None:
        scope = await self._scope_of(one) if one.env else {}
        env = tuple((key, render_argument(text, scope)) for key, text in one.env)
        command = Command(one.argv, env=env)
        self._stage.effects.intend(
            step, one.target, str(command), expect="ends with 0", undo=None, verb="undo"
        )
        came = await self._stage.effects.run(one.host, command, UNDO_TIMEOUT)
        self._stage.effects.conclude(step, one.target, came.result, came.says)
        if came.result is not Result.DONE:
            raise StepFailed(came.says)

    async def _scope_of(self, one: Reversal) -> dict[str, object]:
        """What the values of a command can name: a worker's are those that it has now."""
        snapshot = await self._stage.look()
        scope = self._stage.scope(snapshot)
        target = self._stage.targets.get(one.target)
        if target is not None:
            worker, before = snapshot.worker(one.target), facts.of_planned(target.planned)
            scope["worker"] = before if worker is None else facts.of_worker(worker)
            scope["before"] = facts.BeforeFacts(before)
        return scope

    def _worsen_undo(self, course: Course, says: str) -> None:
        course.says = _joined(course.says, f"not undone: {says}")
        course.ending = Ending.NEEDS_HUMAN
        if course.state is not RunState.ABORTED:
            course.state = RunState.UNDO_FAILED

    async def _tell(self, course: Course) -> None:
        """Notify, now that it is known how the run ended; of a good end nothing stays behind."""
        if course.ending is Ending.DONE:
            await forget_tickets(self._stage)
        for step in self._runbook.finally_:
            if isinstance(step, NotifyStep):
                await notify(self._stage, step, course.ending.value, course.says, at_end=True)

    async def _finally(self, course: Course) -> None:
        checks = [step for step in self._runbook.finally_ if isinstance(step, CheckStep)]
        if not checks:
            return
        try:
            scope = self._stage.scope(await self._stage.look())
        except BrokerUnreachable as error:
            self._worsen(course, error.says)
            return
        for step in checks:
            verdict = step.that.evaluate(scope)
            result = Result.DONE if verdict.holds else Result.FAILED
            self._stage.effects.conclude(
                step.id, None, result, f"{step.that.source}: {verdict.says}"
            )
            if not verdict.holds:
                self._worsen(course, f"{step.that.source} does not hold at the end: {verdict.says}")

    def _worsen(self, course: Course, says: str) -> None:
        course.says = _joined(course.says, says)
        if course.ending is Ending.DONE:
            course.state, course.ending = RunState.FAILED, Ending.STOPPED
        if self._undo and course.ending is Ending.UNDONE:
            course.ending = Ending.STOPPED  # all was taken back, and yet not all is well

    async def _report(self, course: Course) -> Report:
        """What the broker says is still taken by this run, and what came of each target."""
        if self._broker.identity != self._stage.plan.where.identity:
            return self.report_from_memory()
        try:
            with suppress(LeaseLost):  # whoever has it now may have given it all back
                await self._stage.effects.remind()
            everything = await self._broker.taken()
            parked = await left_parked(self._stage) + await self._sieving.left()
        except BrokerUnreachable:
            return self.report_from_memory()
        taken = [one for one in everything if one.run == self._stage.plan.run]
        taken += [one for one in everything if one in self._pauses.unreturned.values()]
        is_well = course.ending is Ending.DONE
        meant = self._left_on_purpose(taken) if is_well else set()
        if self._undo:
            meant |= {f"service:{name}" for name in self._stopped_again}
        left = [one for one in taken if one.key in meant]
        await self._stage.effects.note_as_meant(left)
        owed = self._all_owed([one for one in taken if one.key not in meant])
        return replace(
            self._names(),
            left_drained=self._all_owed([one for one in left if one.paused is None]),
            left_paused=paused(left),
            left_parked=parked if is_well else (),
            owed=owed if is_well else owed + parked,
        )

    def report_from_memory(self) -> Report:
        records = [
            self._stage.effects.record("service" if target.down else "queues", target.planned)
            for target in self._stage.targets.values()
            if target.owed
        ]
        records += [
            self._stage.effects.record("service", one) for one in self._stopped_again.values()
        ]
        records += self._pauses.owed.values()
        return replace(self._names(), owed=self._all_owed(records))

    def _all_owed(self, records: Sequence[TakenRecord]) -> tuple[Owed, ...]:
        """A queue that is paused is one thing, of however many workers, and so is a hold."""
        owed = [self._owed(one) for one in records if one.kind in {"queues", "service"}]
        return (*owed, *paused(records), *held(records))

    def _owed(self, record: TakenRecord) -> Owed:
        """What is left, as far as it is known: a host that is silent tells nothing."""
        target = self._stage.targets.get(record.worker)
        if record.kind != "service":
            says = f"{record.worker} is drained"
        elif target is not None and target.unseen:
            says = f"{record.worker} may be stopped: {target.unseen}"
        else:
            says = f"{record.worker} is stopped"
        return Owed(says, record.mend)

    def _names(self) -> Report:
        """Each target once. One that is back without having been verified (an abort) is done."""
        done, failed, deferred, not_started, returned = [], [], [], [], []
        for one in self._stage.targets.values():
            if one.failed or (one.owed and not one.done):
                failed.append(one.name)
            elif one.done or (one.renewed and not self._undo):
                done.append(one.name)
            elif one.put_off:
                deferred.append(one.name)
            elif one.returned:
                returned.append(one.name)
            else:
                not_started.append(one.name)
        targets = self._stage.targets.values()
        left_out = {one.name: one.left_out for one in targets if one.left_out}
        left_out = {**self._stage.plan.left_out, **left_out}
        done = [name for name in done if name not in left_out]
        not_started += [name for name in left_out if name not in not_started]
        return Report(
            tuple(done),
            tuple(failed),
            tuple(deferred),
            tuple(not_started),
            left_out=left_out,
            returned=tuple(returned),
        )

    def _left_on_purpose(self, taken: Sequence[TakenRecord]) -> set[str]:
        """A runbook whose last word to a worker is drain or stop, or to a queue pause, means to
        leave it so.
        """
        queues = left_paused(self._runbook, {"params": self._stage.params})
        meant = {record.key for record in taken if record.paused in queues}
        for step, planned in zip(self._runbook.steps, self._stage.plan.steps, strict=True):
            if isinstance(step, Roll) and step.for_good:
                settled = {one.name for one in self._stage.targets.values() if one.settled}
                meant |= {f"service:{name}" for name in settled.intersection(planned.targets)}
            if not isinstance(step, WorkerStep):
                continue
            for name in planned.targets:
                meant -= {f"queues:{name}", f"service:{name}"}
                if step.verb is WorkerVerb.DRAIN:
                    meant.add(f"queues:{name}")
                if step.verb is WorkerVerb.STOP:
                    meant.add(f"service:{name}")
        return meant | left_stopped(self._runbook, self._stage.plan)


def _break_off(course: Course, why: Aborted | LeaseBroken) -> None:
    """The operator, or another one, wants nothing more to be done."""
    course.state, course.ending = RunState.INTERRUPTED, Ending.INTERRUPTED
    if isinstance(why, LeaseBroken):
        course.says = _joined(course.says, why.says)


def _joined(before: str, says: str) -> str:
    return "; ".join(filter(None, (before, says)))
