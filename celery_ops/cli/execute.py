"""The process that executes a run: `runs _execute ID`, with what is secret on its stdin."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from celery_ops.cli import engine, exit_codes
from celery_ops.cli.connected import CONTROL_EXCHANGE, EVENT_EXCHANGE
from celery_ops.cli.deployment import opened
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.passphrases import Passphrases
from celery_ops.config import contexts
from celery_ops.config.secret import Secret, masked
from celery_ops.errors import BrokerUnreachable, HostUnreachable, OpsError, UsageError
from celery_ops.fleet.clock import SystemClock
from celery_ops.runbook import journal
from celery_ops.runbook.events import Ending, EventKind, Outcome, Result, RunState
from celery_ops.runbook.executor import Executor
from celery_ops.runbook.journal import Journal
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.report import from_journal

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.model import ClockMark
    from celery_ops.runbook.brake import Brake
    from celery_ops.runbook.desk import RunStore
    from celery_ops.runbook.plan import Plan

_FIX = "It is started by celery-ops itself: celery-ops runbook NAME"
_MOST_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Told:
    """What came through the pipe."""

    broker: Secret
    options: dict[str, object]
    passphrases: dict[Path, Secret] = field(default_factory=dict)
    undo: bool = False
    """Take back what the run has done, in place of beginning it or going on with it."""


class _Line(msgspec.Struct):
    broker: str
    options: dict[str, object] = {}
    passphrases: dict[str, str] = {}
    undo: bool = False


def told_on_stdin() -> Told:
    """Read the one line of secrets. Raise UsageError if there is none."""
    absent = sys.stdin is None or sys.stdin.isatty()
    line = b"" if absent else sys.stdin.buffer.readline(_MOST_BYTES)
    try:
        said = msgspec.json.decode(line, type=_Line)
    except msgspec.DecodeError:
        # Not chained: the decoder's text may quote what it could not read.
        raise UsageError("an executor needs a line of JSON on its stdin", fix=_FIX) from None
    keys = {Path(key): Secret(typed) for key, typed in said.passphrases.items()}
    return Told(Secret(said.broker), said.options, keys, said.undo)


async def execute(run: str, told: Told) -> ExitCode:
    """Execute a run that was planned, to its end. Raise UsageError if it cannot be begun.

    What keeps it from being put together, a broker that is away for one, ends it in its journal.
    """
    store = engine.store()
    plan, began = _planned(store, run, undo=told.undo)
    clock = SystemClock(began)
    kept = Journal(store.path(run), clock)
    executor: Executor | None = None
    try:
        passphrases = Passphrases(known=told.passphrases)  # and nobody to ask
        where = context_of(plan, told)
        async with opened(
            where,
            passphrases=passphrases,
            without_broker=bool(plan.emergency),
            clock=clock,
        ) as deployment:
            executor = Executor(
                journal=kept,
                inbox=store.inbox(run),
                plan=plan,
                broker=deployment.broker,
                surveyor=deployment.surveyor,
                hosts=deployment.hosts,
                clock=clock,
                at_once=_exit_at_once,
                results=deployment.results,
                undo=told.undo,
            )
            _obey_signals(executor.brake)
            return exit_codes.of_ending(await executor.execute())
    except OpsError as error:
        if executor is not None:
            raise
        return exit_codes.of_ending(_never_began(kept, plan, error, undo=told.undo))
    finally:
        kept.close()


def context_of(plan: Plan, told: Told) -> Context:
    """The context as the plan froze it; how its hosts are reached is the configuration's."""
    where = plan.where
    if where.config is None:
        context = contexts.only_broker(told.broker.reveal())
    else:
        found = contexts.load(Path(where.config), os.environ)
        context = contexts.select(found, where.context)
    options = dict(told.options)
    return replace(
        context,
        name=where.context,
        broker=told.broker,
        control_exchange=str(options.pop(CONTROL_EXCHANGE, context.control_exchange)),
        event_exchange=str(options.pop(EVENT_EXCHANGE, context.event_exchange)),
        broker_options=options,
        scope=where.scope,
        services=where.services,
        protected=where.protected,
    )


def _planned(store: RunStore, run: str, *, undo: bool) -> tuple[Plan, ClockMark | None]:
    """The plan of a run that may be executed, and the moment from which it counts its time."""
    if run not in store.ids():
        raise UsageError(f"there is no run {run!r}", fix=_FIX)
    events = list(journal.read(store.path(run)))
    if not events or events[0].plan is None:
        raise UsageError(f"the run {run} has no plan", fix=_FIX)
    state = journal.state_of(events, held=False)
    if undo or state is RunState.INTERRUPTED or len(events) == 1:
        return events[0].plan, events[0].clock
    raise UsageError(f"the run {run} is {state} already", fix=f"celery-ops runs show {run}")


def _obey_signals(brake: Brake) -> None:
    """SIGTERM is an orderly abort, further ones are its further stages; SIGHUP changes nothing.

    Ctrl-C does not come here: the executor has no terminal, its followers do.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, brake.pull, "SIGTERM")
    loop.add_signal_handler(signal.SIGINT, brake.pull, "SIGINT")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _exit_at_once() -> None:
    """The third abort: no undo, no end in the journal, so the run counts as interrupted."""
    os._exit(ExitCode.INTERRUPTED)


def _never_began(kept: Journal, plan: Plan, error: OpsError, *, undo: bool) -> Ending:
    """Its end; one that had begun before stays what it was, and may still owe something."""
    events = list(journal.read(kept.path))
    recall = Recall.of(events)
    state = journal.state_of(events, held=False) if recall.resumes else RunState.FAILED
    report = from_journal(recall, plan, state)
    away = isinstance(error, BrokerUnreachable | HostUnreachable)
    ending = Ending.UNREACHABLE if away else Ending.REFUSED
    ending = Ending.NEEDS_HUMAN if report.owed else ending
    taken_up = EventKind.UNDOING if undo else EventKind.RESUMED
    kept.append(taken_up if recall.resumes else EventKind.STARTED)
    kept.append(
        EventKind.ENDED,
        outcome=Outcome(Result.FAILED, masked(str(error)), state, ending, report),
    )
    return ending
