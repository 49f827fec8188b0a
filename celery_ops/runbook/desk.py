"""Where runs are made and followed: the one way for the app and the command line to change
anything.

Both make a plan here, both write it as a run's first line, both start the same executor and
follow the same journal. The desk itself changes nothing in a fleet.
"""

from __future__ import annotations

import secrets
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_ops.errors import JournalError, UsageError
from celery_ops.runbook import inbox, journal
from celery_ops.runbook.events import RunState
from celery_ops.runbook.journal import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from celery_ops.ports import Clock, RunLauncher
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.planning import Planner


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A line of the list of runs. `says` is the last thing the run said."""

    id: str
    runbook: str
    context: str
    operator: str
    state: RunState
    began_at: datetime
    changed_at: datetime
    says: str


class RunStore:
    """The directory in which this user's journals are kept."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self._clock = clock
        self._ended: dict[tuple[str, int], RunSummary] = {}
        self.unreadable: tuple[str, ...] = ()
        """Runs that the last list left out, since their journals cannot be understood."""

    def new_id(self) -> str:
        """An id that sorts by time and does not repeat."""
        return f"{self._clock.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"

    def path(self, run: str) -> Path:
        return self.directory / f"{run}.jsonl"

    def inbox(self, run: str) -> Path:
        return self.directory / f"{run}.inbox"

    def log(self, run: str) -> Path:
        return self.directory / f"{run}.log"

    def find(self, wanted: str | None) -> str:
        """The run of that id, unique beginning or end of one; None is the newest. Raise
        UsageError.
        """
        ids = self.ids()
        if wanted is None:
            if not ids:
                raise UsageError("there is no run yet")
            return ids[0]
        found = [run for run in ids if wanted in {run, run[-4:]} or run.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UsageError(f"there is no run {wanted!r}", fix="See `celery-ops runs`.")
        raise UsageError(
            f"{wanted!r} is the beginning of {len(found)} runs: {', '.join(found[:5])}"
        )

    def ids(self) -> list[str]:
        """All runs, newest first."""
        if not self.directory.is_dir():
            return []
        return sorted((path.stem for path in self.directory.glob("*.jsonl")), reverse=True)

    def summary(self, run: str) -> RunSummary:
        """Raise JournalError if the journal cannot be understood.

        An ended run is read once, unless it was taken up again.
        """
        path = self.path(run)
        size = path.stat().st_size if path.exists() else 0
        if (run, size) in self._ended:
            return self._ended[run, size]
        held = journal.is_held(path)
        events = list(journal.read(path))
        if not events or events[0].plan is None:
            raise JournalError(f"{path} does not begin with a plan")
        plan = events[0].plan
        said = [event.outcome.says for event in events if event.outcome is not None]
        summary = RunSummary(
            id=run,
            runbook=plan.runbook,
            context=plan.where.context,
            operator=plan.operator,
            state=journal.state_of(events, held=held),
            began_at=events[0].at,
            changed_at=events[-1].at,
            says=said[-1] if said else "",
        )
        if journal.has_ended(events) and not held:
            self._ended[run, size] = summary
        return summary

    def summaries(self, most: int = 200) -> tuple[RunSummary, ...]:
        """The newest runs. A journal that cannot be read is left to `runs show`, which says why."""
        found = []
        unreadable = []
        for run in self.ids()[:most]:
            try:
                found.append(self.summary(run))
            except JournalError:
                unreadable.append(run)
        self.unreadable = tuple(unreadable)
        return tuple(found)


class Runs:
    """The runs of this user: listed, followed and talked to. Needs no broker."""

    def __init__(self, store: RunStore, *, clock: Clock, operator: str) -> None:
        self.store = store
        self.operator = operator
        self._clock = clock

    def runs(self) -> tuple[RunSummary, ...]:
        """This user's runs, newest first."""
        return self.store.summaries()

    async def follow(
        self, run: str, *, can_answer: bool = True, after: int = 0
    ) -> AsyncIterator[Event]:
        """Every event of a run, from its first on, or those `after` the one of that number.

        Who `can_answer` is known to the executor, which then asks and waits; else it takes silence
        for the safe answer.
        """
        there = inbox.following(self.store.inbox(run)) if can_answer else nullcontext()
        with there:
            async for event in journal.follow(self.store.path(run), self._clock, after=after):
                yield event

    def abort(self, run: str) -> None:
        """As the first (again: second, third) Ctrl-C."""
        self._send(run, inbox.Word.ABORT)

    def pause(self, run: str) -> None:
        self._send(run, inbox.Word.PAUSE)

    def proceed(self, run: str) -> None:
        self._send(run, inbox.Word.CONTINUE)

    def answer(self, run: str, step: str, answer: str) -> None:
        """Answer what an `ASKED` event of that step asked."""
        message = inbox.Message(inbox.Word.ANSWER, self.operator, step, answer)
        inbox.send(self.store.inbox(run), message)

    def question(self, run: str) -> Event | None:
        """What it waits to be answered; None: nothing. Raise JournalError."""
        return journal.open_question(list(journal.read(self.store.path(run))))

    def _send(self, run: str, word: inbox.Word) -> None:
        inbox.send(self.store.inbox(run), inbox.Message(word, self.operator))


class RunDesk(Runs):
    """Plans and starts runs, too."""

    def __init__(
        self,
        *,
        planner: Planner,
        store: RunStore,
        launcher: RunLauncher,
        clock: Clock,
        operator: str,
    ) -> None:
        super().__init__(store, clock=clock, operator=operator)
        self._planner = planner
        self._launcher = launcher

    async def plan(self, runbook: str, given: Mapping[str, str]) -> Plan:
        """Read the fleet and say what the runbook would do to it; changes nothing.

        Raise UsageError, InvalidDocument or BrokerUnreachable. A plan with `refusals` is a value.
        """
        return await self._planner.plan(runbook, given, run=self.store.new_id())

    def start(self, plan: Plan, *, answers: Mapping[str, str], wait: float = 0.0) -> str:
        """Write the plan as a run's first line and start its executor; return the run's id.

        `answers` are confirmations by step, `wait` the seconds to wait for somebody else's lease.
        Raise JournalError; nothing was changed then.
        """
        agreed = replace(plan, answers=dict(answers), wait=wait)
        journal.create(self.store.path(plan.run), agreed, self._clock)
        self._launcher.launch(plan.run)
        return plan.run

    async def now_selected(self, plan: Plan) -> frozenset[str]:
        """The workers that the selectors of a plan mean today. Raise UsageError, InvalidDocument or
        BrokerUnreachable.
        """
        return await self._planner.selected(plan)

    def take_up(self, run: str, *, undo: bool = False) -> None:
        """Start an executor that goes on with an interrupted run, or takes back what a run did.

        What was said to it before is forgotten, a pause too: taking it up is the operator's word to
        go on. That it was being aborted is in its journal, and stays. Raise JournalError.
        """
        inbox.clear(self.store.inbox(run))
        self._launcher.launch(run, undo=undo)
