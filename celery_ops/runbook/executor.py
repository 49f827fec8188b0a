"""Executes a run: from its journal's first line to its end.

Knows no runbook by name. It owns the order of things (lease, preflight, steps); `conclusion` owns
how it ends, `worker_verbs` and `rolling` what is done to workers, `effects` alone changes anything.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked
from celery_ops.errors import (
    BrokerUnreachable,
    ConfirmationNeeded,
    LeaseBroken,
    LeaseHeld,
    LeaseLost,
    PreconditionFailed,
    RecordUnreadable,
)
from celery_ops.model import Holder
from celery_ops.runbook import conclusion
from celery_ops.runbook.brake import Aborted, Brake
from celery_ops.runbook.conclusion import Conclusion, Course
from celery_ops.runbook.cutting_off import losses
from celery_ops.runbook.effects import Effects
from celery_ops.runbook.events import Ending, EventKind, Outcome, Report, Result, RunState
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.inbox import Inbox
from celery_ops.runbook.journal import read, state_of
from celery_ops.runbook.lasting import Lasting
from celery_ops.runbook.lease_keeper import LeaseKeeper
from celery_ops.runbook.loader import loads, render
from celery_ops.runbook.notice import Notice
from celery_ops.runbook.params import parse_params
from celery_ops.runbook.performing import Performer
from celery_ops.runbook.queue_consumers import Pauses
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.schema import (
    CheckStep,
)
from celery_ops.runbook.sieving import Sieving
from celery_ops.runbook.stage import Stage
from celery_ops.runbook.task_events import TaskEvents
from celery_ops.runbook.watch import Watch
from celery_ops.runbook.worker_verbs import WorkerVerbs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_ops.fleet.survey import Surveyor
    from celery_ops.ports import Broker, Clock, Hosts, Results
    from celery_ops.runbook.journal import Journal
    from celery_ops.runbook.plan import Plan

REMINDED_EVERY = 5.0
"""Seconds from one look at the broker's records of this run to the next."""
A_BUG = "a bug: "
"""How the end of a run begins that ended by a mistake of ours; its details are in the run's log."""


class Executor:
    """One run, executed by this process; the journal it holds is the lock.

    A run that was interrupted is gone on with: see `recall`.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        inbox: Path,
        plan: Plan,
        broker: Broker,
        surveyor: Surveyor,
        hosts: Hosts,
        clock: Clock,
        at_once: Callable[[], None],
        results: Results | None = None,
        undo: bool = False,
    ) -> None:
        """`at_once` ends the process: the third abort. `undo`: take back what the run has done, in
        place of going on with it. Raise InvalidDocument for a bad runbook.
        """
        self._plan = plan
        self._runbook = loads(plan.source, plan.file)
        self._params = parse_params(self._runbook, plan.params)
        self._journal = journal
        self._broker = broker
        self._clock = clock
        self._undo = undo
        self._leased = False
        events = list(read(journal.path))
        self._recall = Recall.of(events)
        self._was = state_of(events, held=False)
        self._knows = not self._recall.resumes
        """What it owes: nothing yet, or what the broker told when it was taken up again."""
        self._notice = Notice(plan, broker, clock)
        self.brake = Brake(Inbox(inbox), clock, at_once)
        self._keeper = LeaseKeeper(
            broker.lease,
            Holder(plan.operator, plan.run, plan.runbook, clock.now()),
            clock,
            journal,
            broken_by=self._notice.broken_by,
            halt=self.brake.halt,
            takes_over=self._recall.resumes,
        )
        self._hands = partial(Effects, plan=plan, hosts=hosts, journal=journal, clock=clock)
        self._effects = self._hands(broker=broker, keeper=self._keeper)
        watch = Watch(surveyor, clock, self.brake)
        self._effects.made = int(self._recall.changed_something)
        # What is taken back is done anew, whatever was tried before.
        recall = Recall() if undo else self._recall
        verbs = WorkerVerbs(
            effects=self._effects, watch=watch, hosts=hosts, journal=journal, clock=clock,
            recall=recall, lasting=Lasting(broker, clock), by_supervisor=bool(plan.emergency),
        )  # fmt: skip
        self._under_way = ""
        """The step that is performed now, or in which the run was aborted."""
        self._stage = Stage(
            plan=plan, params=self._params, surveyor=surveyor, hosts=hosts, clock=clock,
            journal=journal, brake=self.brake, effects=self._effects, watch=watch, verbs=verbs,
            recall=recall, task_events=TaskEvents(self._effects, self._recall.acts),
            results=results,
        )  # fmt: skip
        for target in self._stage.targets.values():
            target.queues_taken, target.down = self._recall.leaves(target.name)
        self._pauses = Pauses(self._stage, broker)
        self._sieving = Sieving(self._stage, broker, self._hands)
        self._performer = Performer(
            self._stage, self._runbook, broker, lease=self._keeper, hands=self._hands,
            pauses=self._pauses, sieving=self._sieving, recall=self._recall,
        )  # fmt: skip
        self._conclusion = Conclusion(
            self._stage,
            self._runbook,
            broker,
            pauses=self._pauses,
            sieving=self._sieving,
            undo=undo,
        )

    async def execute(self) -> Ending:
        """Run it to its end and return how it ended; the end is the journal's last line."""
        begins = EventKind.RESUMED if self._recall.resumes else EventKind.STARTED
        begins = EventKind.UNDOING if self._undo else begins
        self._journal.append(begins, intent=f"pid {os.getpid()} on {socket.gethostname()}")
        beside = [asyncio.create_task(one) for one in (self.brake.listen(), self._remind())]
        course = Course()
        report = Report()
        try:
            await self._go(course)
            report = await self._conclusion.conclude(course)
        except Exception as error:
            report = self._conclusion.report_from_memory()
            course.state = self._failure
            course.ending = Ending.NEEDS_HUMAN if report.owed else Ending.BUG
            course.says = f"{A_BUG}{type(error).__name__}: {masked(str(error))}"
            await self._end(course, report)
            raise
        finally:
            for one in beside:
                one.cancel()
            await self._sieving.stop()
        await self._end(course, report)
        return course.ending

    # --- the order of things ---

    async def _go(self, course: Course) -> None:
        """Everything up to the end of the steps; what went wrong is in `course` afterwards."""
        try:
            self._plan.where.must_be(self._broker.address, self._broker.identity)
            await self._keeper.acquire(self._plan.wait, self._waiting, self.brake.sleep)
            self._journal.append(EventKind.LEASED)
            self._leased = True
            await self._notice.begins(resumes=self._recall.resumes)
            await self._recollect()
            self._knows = course.began = True
            if self._undo:
                course.state, course.ending = RunState.UNDONE, Ending.UNDONE
                return
            if not self._recall.changed_something:
                await self._preflight()
            self._go_on_aborting()
            for step, planned in zip(self._runbook.steps, self._plan.steps, strict=True):
                await self._stage.safe_point()
                self._under_way = step.id
                if await self._performer.applies(step):
                    await self._performer.perform(step, planned)
                if not self.brake.stage:
                    self._under_way = ""
            await self._performer.finish()
            self.brake.check(safe=True)
        except LeaseHeld as error:
            self._failed(course, self._stopped_or(Ending.LEASE_HELD), error.says)
        except ConfirmationNeeded as error:
            self._failed(course, Ending.UNCONFIRMED, str(error))
            course.state = self._was if self._recall.resumes else course.state
        except PreconditionFailed as error:
            self._failed(course, self._stopped_or(Ending.REFUSED), str(error))
        except StepFailed as failed:
            self._failed(course, Ending.UNDONE if failed.undo else Ending.STOPPED, failed.says)
        except Aborted as aborted:
            course.aborted(str(aborted), self.brake.stage, self._under_way)
            course.state = course.state if self._knows else self._was
            says = Outcome(Result.UNKNOWN, course.says)
            self._journal.append(EventKind.ABORTING, step=self._under_way or None, outcome=says)
        except LeaseBroken as error:
            course.state, course.ending = RunState.INTERRUPTED, Ending.INTERRUPTED
            course.says = error.says
        except (BrokerUnreachable, LeaseLost) as error:
            self._failed(course, self._stopped_or(Ending.UNREACHABLE), error.says)

    def _go_on_aborting(self) -> None:
        """Raise Aborted if the run was being aborted when its executor died."""
        if self._recall.aborting:
            self._under_way = self._recall.aborted_in
            raise Aborted(self._recall.aborting.removeprefix(conclusion.ABORTED_BY))

    async def _recollect(self) -> None:
        """What the targets of an interrupted run are owed, by the broker's own records.

        Where a record is gone that its last act should have left, somebody else gave it back
        meanwhile (`runs adopt`), or the broker forgot it: the target is begun with anew.
        """
        if not self._recall.resumes:
            return
        records = [one for one in await self._broker.taken() if one.run == self._plan.run]
        self._effects.recall(records)
        taken = {one.key for one in records}
        self._effects.made += self._pauses.recollect(records)
        for target in self._stage.targets.values():
            target.queues_taken = f"queues:{target.name}" in taken
            target.down = f"service:{target.name}" in taken
            # It may have been recorded right before the executor died, and never be intended.
            self._effects.made += target.owed
            # An undo does not walk through the steps again that would tell it.
            target.done = self._undo and self._recall.was_verified(target.name)
            last = self._recall.last(target.name)
            if last is None:
                continue
            target.planned = self._recall.met(target.name) or target.planned
            if last.leaves_owed and not target.owed:
                self._recall.forget(target.name)
                self._stage.say(target.name, "was given back by somebody else: it is taken anew")

    async def _remind(self) -> None:
        """Again and again: what others go by must not be lost with a server of the broker's."""
        while True:
            await self._clock.sleep(REMINDED_EVERY)
            try:
                forgotten = await self._effects.remind()
            except (BrokerUnreachable, LeaseLost, RecordUnreadable):
                continue
            for record in forgotten:
                says = f"the broker had forgotten what is taken ({record.what}): recorded once more"
                self._stage.say(record.worker, says)

    async def _preflight(self) -> None:
        snapshot = await self._stage.look()
        for step in self._runbook.preflight:
            if not isinstance(step, CheckStep):
                continue
            verdict = step.that.evaluate(self._stage.scope(snapshot))
            if not verdict.holds:
                message = render(step.message, self._stage.scope(snapshot)) if step.message else ""
                raise PreconditionFailed(f"{message or step.that.source} ({verdict.says})")
        if self._plan.refusals:
            raise PreconditionFailed("; ".join(self._plan.refusals))

    # --- the end ---

    async def _end(self, course: Course, report: Report) -> None:
        """The lease goes first: whoever saw the end may begin the next run."""
        await self._keeper.release()
        if self._leased:
            await self._notice.ended(course)
        says = course.says or self._came_through(report)
        result = Result.DONE if course.ending is Ending.DONE else Result.FAILED
        outcome = Outcome(result, says, course.state, course.ending, report)
        self._journal.append(EventKind.ENDED, outcome=outcome)

    def _came_through(self, report: Report) -> str:
        """What a run that ended well has done."""
        targets = self._stage.targets.values()
        if self._undo:
            names = ", ".join((*report.returned, *self._pauses.returned))
            parts = [f"taken back: {names}"] if names else []
            return "; ".join(parts + self._conclusion.gave_back) or "nothing was left to take back"
        came = self._performer.came_to or [f"{len(report.done)} of {len(targets)} done"]
        return "; ".join((*came, *losses(targets)))

    @property
    def _failure(self) -> RunState:
        """The state of a run that failed. One that could not be gone on with, as long as it was not
        told what it owes, stays what it was: it can be gone on with another time.
        """
        return RunState.FAILED if self._knows else self._was

    def _stopped_or(self, nothing_done: Ending) -> Ending:
        return Ending.STOPPED if self._effects.made and self._knows else nothing_done

    def _failed(self, course: Course, ending: Ending, says: str) -> None:
        course.state, course.ending = self._failure, ending
        course.says, _, course.err = says.partition("\n")

    def _waiting(self, says: str) -> None:
        self._journal.append(EventKind.WAITING, outcome=Outcome(Result.UNKNOWN, says))
