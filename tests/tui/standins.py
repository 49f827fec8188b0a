"""Stand-ins for what the app is given: a collector fed by hand, a desk without an executor."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery_ops.errors import OpsError, UsageError
from celery_ops.fleet.peeking import Look, Placed
from celery_ops.model import Incarnation, StoredMessage, WorkerState
from celery_ops.runbook.desk import RunSummary
from celery_ops.runbook.events import Ending, EventKind, Outcome, Owed, Report, Result, RunState
from celery_ops.runbook.journal import Event
from celery_ops.runbook.library import Library
from celery_ops.runbook.plan import (
    Confirmation,
    Plan,
    PlannedAction,
    PlannedBatch,
    PlannedStep,
    PlannedWorker,
    QueueCapacity,
    Where,
)
from tests.tui.fleets import NOW, RUN, ago, consumed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from pathlib import Path

    from celery_ops.model import FleetSnapshot, ServiceRef


class HandClock:
    """Time that passes when a test says so; whoever sleeps wakes when it has passed."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now
        self._elapsed = 0.0
        self._passed = asyncio.Event()

    @property
    def boot(self) -> str:
        return ""

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        until = self._elapsed + seconds
        while self._elapsed < until:
            await self._passed.wait()

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._elapsed += seconds
        self._passed.set()
        self._passed = asyncio.Event()


class FedCollector:
    """Gives the snapshots that are put in; an error put in is raised."""

    def __init__(self, *first: FleetSnapshot) -> None:
        self._queue: asyncio.Queue[FleetSnapshot | Exception] = asyncio.Queue()
        self.put(*first)

    def put(self, *snapshots: FleetSnapshot | Exception) -> None:
        for snapshot in snapshots:
            self._queue.put_nowait(snapshot)

    async def snapshots(self) -> AsyncIterator[FleetSnapshot]:
        while True:
            snapshot = await self._queue.get()
            if isinstance(snapshot, Exception):
                raise snapshot
            yield snapshot


@dataclass
class FedLogs:
    """Logs that are written by the test; an error that is put in breaks the log off, None ends it.

    `following` is how many are read now, `begun` how often one was begun.
    """

    following: int = 0
    begun: list[ServiceRef] = field(default_factory=list)
    _batches: asyncio.Queue[tuple[str, ...] | OpsError | None] = field(
        default_factory=asyncio.Queue
    )

    def write(self, *lines: str) -> None:
        self._batches.put_nowait(lines)

    def break_off(self, why: OpsError | None = None) -> None:
        self._batches.put_nowait(why)

    @property
    def unread(self) -> int:
        return self._batches.qsize()

    async def follow(self, service: ServiceRef) -> AsyncGenerator[tuple[str, ...], None]:
        self.begun.append(service)
        self.following += 1
        try:
            while (said := await self._batches.get()) is not None:
                if isinstance(said, OpsError):
                    raise said
                yield said
        finally:
            self.following -= 1


@dataclass
class Drawer:
    """Messages as the test lays them in; an error that is laid in is raised."""

    waiting: list[StoredMessage] = field(default_factory=list)
    fails: OpsError | None = None
    looked: list[tuple[str, int]] = field(default_factory=list)

    async def look(self, queue: str, limit: int) -> Look:
        self.looked.append((queue, limit))
        if self.fails is not None:
            raise self.fails
        placed = (Placed(place, one) for place, one in enumerate(self.waiting[:limit], start=1))
        wanted = tuple(placed)
        return Look(len(self.waiting), 0, len(wanted), wanted)

    def arguments(self, message: StoredMessage) -> str:
        return message.args or ""


def message(number: int, **changes: Any) -> StoredMessage:
    """One that waits, of the demo's task."""
    one = StoredMessage(
        raw=b"x" * 500,
        id=f"c0ffee00-0000-4000-8000-{number:012d}",
        task="demo.numbered",
        retries=0,
        origin="gen1@demo",
        redelivered=False,
        args=f"({number},)",
    )
    return replace(one, **changes)


def library(directory: Path, *names: str, **params: str) -> Library:
    """Real files of these runbooks, each with a parameter `queue`; `params` are told, too."""
    for name in names:
        told = "".join(
            f"  {param}: {{type: text, help: {help}}}\n"
            for param, help in {"queue": "Which one", **params}.items()
        )
        text = f"name: {name}\nsummary: A test.\nrisk: low\nparams:\n{told}"
        (directory / f"{name}.yaml").write_text(text + "steps:\n  - confirm: Sure?\n")
    return Library(None, shipped_directory=directory)


@dataclass
class PaperDesk:
    """A desk that keeps what it is told. Journals are fed by the test with `write`."""

    operator: str = "ann@bastion"
    plan_made: Plan | OpsError | None = None
    listed: tuple[RunSummary, ...] = ()
    start_fails: OpsError | None = None
    planning: asyncio.Event = field(default_factory=asyncio.Event)
    planned: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    cancelled: int = 0
    started: list[tuple[Plan, dict[str, str]]] = field(default_factory=list)
    said: list[tuple[str, ...]] = field(default_factory=list)
    following: int = 0
    _journals: dict[str, list[Event | None]] = field(default_factory=lambda: defaultdict(list))
    _written: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.planning.set()

    async def plan(self, runbook: str, given: Mapping[str, str]) -> Plan:
        self.planned.append((runbook, dict(given)))
        try:
            await self.planning.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.plan_made, OpsError):
            raise self.plan_made
        if self.plan_made is None:
            raise UsageError(f"there is no runbook {runbook!r}")
        return self.plan_made

    def start(self, plan: Plan, *, answers: Mapping[str, str]) -> str:
        if self.start_fails is not None:
            raise self.start_fails
        self.started.append((plan, dict(answers)))
        return plan.run

    def runs(self) -> tuple[RunSummary, ...]:
        return self.listed

    async def follow(self, run: str) -> AsyncIterator[Event]:
        self.following += 1
        try:
            read = 0
            while True:
                while read == len(self._journals[run]):
                    await self._written.wait()
                event = self._journals[run][read]
                read += 1
                if event is None:
                    return
                yield event
                if event.event is EventKind.ENDED:
                    return
        finally:
            self.following -= 1

    def abort(self, run: str) -> None:
        self.said.append(("abort", run))

    def pause(self, run: str) -> None:
        self.said.append(("pause", run))

    def proceed(self, run: str) -> None:
        self.said.append(("proceed", run))

    def answer(self, run: str, step: str, answer: str) -> None:
        self.said.append(("answer", run, step, answer))

    def write(self, *events: Event | None, run: str = RUN) -> None:
        """Add to a run's journal; None: nobody executes it any more."""
        self._journals[run] += events
        self._written.set()
        self._written = asyncio.Event()


def planned_worker(name: str, *queues: str) -> PlannedWorker:
    return PlannedWorker(
        name=name,
        state=WorkerState.ONLINE,
        incarnation=Incarnation(name, 4711, ago(600)),
        queues=consumed(*queues),
        service=None,
        identity="1763640000",
        active=2,
        reserved=1,
        scheduled=0,
        longest=2.6,
        stop_grace=600.0,
    )


def plan(**changes: Any) -> Plan:
    """Rolling through two workers, one after the other."""
    names = ("fast1@demo", "fast2@demo")
    roll = PlannedStep(
        id="2",
        says="roll through 2 workers in 2 batches of at most 1",
        targets=names,
        batches=tuple(
            PlannedBatch(
                number,
                (name,),
                (QueueCapacity("default", 2, 1, 1), QueueCapacity("mail", 2, 1, 1)),
                canary=number == 1,
            )
            for number, name in enumerate(names, start=1)
        ),
        actions=tuple(
            PlannedAction(step, name, does, undo)
            for step, does, undo in (
                ("2.1", "cancel_consumer queue=default", "add_consumer queue=default"),
                ("2.2", "supervisorctl restart fast", None),
            )
            for name in names
        ),
    )
    made = Plan(
        run=RUN,
        runbook="rolling-restart",
        file="runbooks/rolling-restart.yaml",
        source="",
        risk="medium",
        summary="Restart workers a few at a time; no task is lost.",
        params={"workers": ",".join(names), "batch": "25%"},
        allow_gap=(),
        where=Where("demo", "redis://127.0.0.1:6379/0", "identity", False, (), ()),
        operator="ann@bastion",
        at=NOW,
        targets=tuple(planned_worker(name, "default", "mail") for name in names),
        healthy={"default": 2, "mail": 2},
        steps=(PlannedStep("1", "confirm: Restart 2 workers, 1 at a time?"), roll),
        confirmations=(Confirmation("1", "Restart 2 workers, 1 at a time?"),),
        hazards=("fast1@demo holds 3 ETA tasks: not waited for, given back at a stop",),
    )
    return replace(made, **changes)


def summary(run: str = RUN, state: RunState = RunState.RUNNING, says: str = "") -> RunSummary:
    return RunSummary(
        id=run,
        runbook="rolling-restart",
        context="demo",
        operator="ann@bastion",
        state=state,
        began_at=ago(60),
        changed_at=ago(1),
        says=says or "batch 1 of 2: fast1@demo",
    )


def events(*, to_the_end: bool = True) -> list[Event]:
    """The journal of a restart of two workers."""
    told: list[tuple[EventKind, str | None, str | None, str | None, Outcome | None]] = [
        (EventKind.STARTED, None, None, "pid 4242 on bastion", None),
        (EventKind.LEASED, None, None, None, None),
    ]
    for number, name in enumerate(("fast1@demo", "fast2@demo"), start=1):
        told += [
            (EventKind.BATCH, "2", None, None, _unknown(f"batch {number} of 2: {name}")),
            (EventKind.INTENT, "2.1", name, "cancel_consumer queue=default", None),
            (EventKind.PROGRESS, "2.1", name, None, _unknown("2 tasks run, the longest for 3s")),
            (EventKind.RESULT, "2.1", name, None, _done("holds nothing")),
            (EventKind.INTENT, "2.2", name, "supervisorctl restart fast", None),
            (EventKind.RESULT, "2.2", name, None, _done("runs as pid 5000")),
            (EventKind.RESULT, "2 verify", name, None, _done("online, consumes default mail")),
        ]
    planned = Event(1, ago(30), EventKind.PLANNED, plan=plan())
    found = [
        Event(
            seq, ago(30) + timedelta(seconds=seq), kind,
            step=step, target=target, intent=intent, outcome=outcome,
        )
        for seq, (kind, step, target, intent, outcome) in enumerate(told, start=2)
    ]  # fmt: skip
    return [planned, *found, *([ended()] if to_the_end else [])]


def ended(state: RunState = RunState.SUCCEEDED, *owed: Owed) -> Event:
    report = Report(done=("fast1@demo", "fast2@demo"), owed=owed)
    done = state is RunState.SUCCEEDED
    outcome = Outcome(
        Result.DONE if done else Result.FAILED,
        "2 of 2 done" if done else "fast2@demo did not come back",
        state,
        Ending.DONE if done else Ending.NEEDS_HUMAN,
        report,
    )
    return Event(99, NOW, EventKind.ENDED, outcome=outcome)


def asked(intent: str = "stop, undo or continue?") -> Event:
    says = Outcome(Result.UNKNOWN, "fast1@demo: did not come back within 2m")
    return Event(50, NOW, EventKind.ASKED, step="2", intent=intent, outcome=says)


def event(kind: EventKind, *, seq: int = 60, says: str = "") -> Event:
    return Event(seq, NOW, kind, outcome=_unknown(says) if says else None)


def _done(says: str) -> Outcome:
    return Outcome(Result.DONE, says)


def _unknown(says: str) -> Outcome:
    return Outcome(Result.UNKNOWN, says)
