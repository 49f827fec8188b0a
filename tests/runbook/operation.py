"""A whole operation on the stand-in fleet: plan a runbook, execute it, look at what came of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from celery_ops.config.contexts import Probe
from celery_ops.doctor import examine
from celery_ops.fleet.clock import SteadyClock
from celery_ops.fleet.survey import Surveyor
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, Result
from celery_ops.runbook.executor import Executor
from celery_ops.runbook.journal import Journal
from celery_ops.runbook.library import Library
from celery_ops.runbook.plan import Where
from celery_ops.runbook.planning import Planner
from tests.rig.runbooks import write_runbook
from tests.standin.broker import StandinBroker, StandinResults
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet
from tests.standin.hosts import StandinHosts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from celery_ops.model import ClockMark, FleetSnapshot
    from celery_ops.ports import Clock
    from celery_ops.runbook.events import Outcome
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import Plan

OPERATOR = "ann@desk"
J = TypeVar("J", bound=Journal)


class Operation:
    """One operator with a home directory of her own, on a fleet that others may share."""

    def __init__(
        self,
        directory: Path,
        fleet: StandinFleet | None = None,
        broker: StandinBroker | None = None,
        *,
        operator: str = OPERATOR,
    ) -> None:
        self.fleet = fleet or StandinFleet(VirtualClock())
        self.clock = self.fleet.clock
        self.broker = self._stamps = broker or StandinBroker(self.fleet)
        self.now: Clock = self.clock
        self.hosts = StandinHosts(self.fleet)
        self.probe: Probe | None = Probe("app.ping", ("default",))
        self.results: StandinResults | None = None
        self.directory = directory
        self.operator = operator
        self.user_runbooks = directory / "runbooks"
        self.runs = 0
        self.executor: Executor | None = None
        self.beside: list[asyncio.Future[None]] = []
        """What goes on in the fleet by itself."""

    def process(self, since: ClockMark | None = None) -> Clock:
        """The clock of a process that begins now: what it asks for is stamped by it."""
        self.now = self._stamps.clock = SteadyClock(self.clock, since)
        return self.now

    def surveyor(self) -> Surveyor:
        return Surveyor(
            self.broker,
            self.hosts,
            context="test",
            services=self.fleet.refs,
            clock=self.now,
            diagnose=examine,
        )

    async def plan(self, name: str, **params: str) -> Plan:
        self.runs += 1
        clock = self.process()
        planner = Planner(
            surveyor=self.surveyor(),
            hosts=self.hosts,
            library=Library(self.user_runbooks),
            where=self.where(),
            clock=clock,
            operator=self.operator,
            backups=self.directory / "backups",
            results=self.results,
        )
        return await planner.plan(name, params, run=f"20261120-030000-{self.runs:04x}")

    def where(self) -> Where:
        return Where(
            context="test",
            broker=self.broker.address,
            identity=self.broker.identity,
            protected=False,
            scope=("*",),
            services=self.fleet.refs,
            probe=self.probe,
            results="" if self.results is None else self.results.address,
        )

    async def execute(self, plan: Plan) -> Ran:
        """Execute with every confirmation given."""
        return await self.take_up(self.write_down(plan))

    def write_down(self, plan: Plan, *, agreed: bool = True) -> Path:
        """The journal of a run that is to be executed, every confirmation given if `agreed`."""
        given = plan.confirmations if agreed else ()
        answers = {one.step: f"yes ({self.operator})" for one in given}
        path = self.directory / "runs" / f"{plan.run}.jsonl"
        answered = replace(plan, answers={**plan.answers, **answers})
        journal.create(path, answered, self.now)
        return path

    async def take_up(
        self, path: Path, *, undo: bool = False, then: Callable[[Event], None] | None = None
    ) -> Ran:
        """Execute a run whose journal has been written; `then` is told each line right after."""
        executor, held = self.begin(
            path, lambda path, clock: ToldJournal(path, clock, then), undo=undo
        )
        try:
            ending = await executor.execute()
        finally:
            held.close()
        return Ran(ending, list(journal.read(path)))

    def begin(
        self, path: Path, opened: Callable[[Path, Clock], J], *, undo: bool = False
    ) -> tuple[Executor, J]:
        """An executor, and the journal that it writes, which is `opened` with its clock."""
        (planned, *_) = journal.read(path)
        assert planned.plan is not None
        clock = self.process(planned.clock)
        held = opened(path, clock)
        self.executor = Executor(
            journal=held,
            inbox=path.with_suffix(".inbox"),
            plan=planned.plan,
            broker=self.broker,
            surveyor=self.surveyor(),
            hosts=self.hosts,
            clock=clock,
            at_once=lambda: None,
            results=self.results,
            undo=undo,
        )
        return self.executor, held

    async def run(self, name: str, **params: str) -> Ran:
        return await self.execute(await self.plan(name, **params))

    async def run_while(
        self, name: str, meanwhile: Callable[[], Awaitable[None]], **params: str
    ) -> Ran:
        """Run it with something else going on beside it."""
        return await self.run_and(self.write_down(await self.plan(name, **params)), meanwhile)

    async def run_and(self, path: Path, meanwhile: Callable[[], Awaitable[None]]) -> Ran:
        """Take a run up with something else going on beside it."""
        beside = asyncio.ensure_future(meanwhile())
        try:
            return await self.take_up(path)
        finally:
            beside.cancel()
            with suppress(asyncio.CancelledError):
                await beside

    async def look(self) -> FleetSnapshot:
        return await self.surveyor().refresh()

    def write_runbook(self, name: str, text: str) -> None:
        write_runbook(self.user_runbooks.parent, name, text)


class ToldJournal(Journal):
    """Tells of each line that was written."""

    def __init__(self, path: Path, clock: Clock, then: Callable[[Event], None] | None) -> None:
        super().__init__(path, clock)
        self._then = then

    def append(self, event: EventKind, **said: Any) -> Event:
        written = super().append(event, **said)
        if self._then is not None:
            self._then(written)
        return written


class Ran:
    """How a run went."""

    def __init__(self, ending: Ending, events: list[Event]) -> None:
        self.ending = ending
        self.events = events

    @property
    def end(self) -> Outcome:
        outcome = self.events[-1].outcome
        assert self.events[-1].event is EventKind.ENDED
        assert outcome is not None
        return outcome

    @property
    def effects(self) -> list[tuple[str | None, str | None]]:
        return [
            (event.target, event.intent) for event in self.events if event.event is EventKind.INTENT
        ]

    def results(self, target: str) -> list[tuple[str | None, Result, str]]:
        return [
            (event.step, event.outcome.result, event.outcome.says)
            for event in self.events
            if event.event is EventKind.RESULT and event.target == target and event.outcome
        ]

    def told(self) -> str:
        """Everything the run said, for a failing test's message."""
        lines = []
        for event in self.events[1:]:
            says = event.outcome.says if event.outcome else event.intent
            lines.append(f"{event.at:%H:%M:%S} {event.event} {event.step} {event.target}: {says}")
        return "\n".join(lines)
