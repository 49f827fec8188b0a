"""Following a run in a terminal or a script, and what signals mean meanwhile."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from celery_ops.cli import exit_codes, show_run, terminal
from celery_ops.cli.boundary import complain
from celery_ops.cli.deployment import opened
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.passphrases import Passphrases
from celery_ops.cli.text import cut, width_of_terminal
from celery_ops.errors import JournalError, OpsError
from celery_ops.runbook.events import EventKind
from celery_ops.runbook.executor import A_BUG
from celery_ops.runbook.recall import NOTIFY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_ops.config.contexts import Context
    from celery_ops.model import TakenRecord
    from celery_ops.runbook.desk import Runs
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import Plan

_STAGES = (
    "aborting: undoing the current batch; Ctrl-C again to stop without undo",
    "stopping after the command in flight, without undo; Ctrl-C again to stop at once",
    "stopping at once",
)
_LOG_LINES = 5
_LOG_PATIENCE = 50
"""Tenths of a second."""
_ERASE_LINE = "\r\x1b[K"


class _Lines:
    """Prints events: as JSON for scripts, as lines for people.

    On a terminal, progress takes the place of the progress before it.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._on_terminal = sys.stdout.isatty()
        self._unfinished = False

    def show(self, event: Event) -> None:
        if self._as_json:
            click.echo(event.to_line(), nl=False)
            return
        if self._unfinished:
            click.echo(_ERASE_LINE, nl=False)
        self._unfinished = self._on_terminal and event.event is EventKind.PROGRESS
        line = show_run.event_line(event)
        if self._unfinished:
            line = cut(line, width_of_terminal() - 1)
        click.echo(line, nl=not self._unfinished)

    def complain(self, text: str) -> None:
        """Say something else, on stderr."""
        if self._unfinished:
            click.echo()
            self._unfinished = False
        complain(text)


class Follower:
    """Shows one run until it ends, or until nobody executes it any more.

    With `steers`, Ctrl-C and SIGTERM go to the run; else Ctrl-C only ends the following.
    `context` is where an interrupted run may have left something taken; None: not known here.
    Of a run that was taken up again only what comes `after` that event is shown; `plan` is its own.
    """

    def __init__(
        self,
        runs: Runs,
        run: str,
        *,
        as_json: bool,
        steers: bool,
        context: Context | None,
        after: int = 0,
        plan: Plan | None = None,
    ) -> None:
        self._runs = runs
        self._run = run
        self._as_json = as_json
        self._lines = _Lines(as_json=as_json)
        self._steers = steers
        self._context = context
        self._pulled = 0
        self._after = after
        self._plan = plan
        self._has_effects = plan is not None
        self._end: Event | None = None
        self._stands = False
        """What it is for is so, and it goes on: who steers it has seen enough."""
        self._asking: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> int:
        """Show it all, and return the exit code."""
        self._task = asyncio.create_task(self._show())
        try:
            with self._signals():
                await self._task
        except asyncio.CancelledError:
            self._lines.complain(f"The run goes on: celery-ops runs follow {self._run}")
            return exit_codes.of_signal(signal.SIGINT)
        except JournalError as error:
            if self._plan is None:
                raise
            return await self._lost(error)
        finally:
            self._ask_no_more()
        return await self._concluded()

    async def _show(self) -> None:
        can_answer = terminal.can_ask()
        async for event in self._runs.follow(self._run, can_answer=can_answer, after=self._after):
            self._note(event)
            self._lines.show(event)
            if event.event is EventKind.STANDS and self._steers:
                self._stands = True
                return
            if event.event is EventKind.ASKED and can_answer:
                self._ask_no_more()
                self._asking = asyncio.create_task(self._ask(event))
            elif event.event in {EventKind.ANSWERED, EventKind.ABORTING, EventKind.ENDED}:
                self._ask_no_more()

    def _note(self, event: Event) -> None:
        self._plan = event.plan or self._plan
        self._has_effects = self._has_effects or (
            event.event is EventKind.INTENT and event.verb != NOTIFY
        )
        if event.event is EventKind.ENDED:
            self._end = event

    async def _ask(self, event: Event) -> None:
        outcome = event.outcome
        reason = "" if outcome is None else f"{outcome.says}\n"
        answer = await terminal.ask_meanwhile(f"{reason}{event.intent or ''}")
        # An empty line, or an ended input, must not leave the run waiting: `stop` is safe.
        self._runs.answer(self._run, event.step or "", answer.lower() or "stop")

    def _ask_no_more(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    # --- signals ---

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        hang_up = signal.getsignal(signal.SIGHUP)
        if self._steers:
            loop.add_signal_handler(signal.SIGTERM, self._terminated)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, hang_up)
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)

    def _interrupted(self) -> None:
        if self._steers and self._pulled < len(_STAGES):
            self._lines.complain(_STAGES[self._pulled])
            self._pulled += 1
            self._runs.abort(self._run)
        elif self._task is not None:
            self._task.cancel()

    def _terminated(self) -> None:
        if not self._pulled:
            self._interrupted()

    # --- the end ---

    async def _concluded(self) -> int:
        if self._stands:
            self._lines.complain(f"It goes on by itself: celery-ops runs follow {self._run}")
            return ExitCode.DONE
        outcome = self._end.outcome if self._end is not None else None
        if outcome is None or outcome.ending is None or self._plan is None:
            return await self._broken_off()
        for line in show_run.end_lines(outcome, self._plan, width_of_terminal()):
            click.echo(line, err=self._as_json)
        code = exit_codes.of_ending(outcome.ending)
        if outcome.says.startswith(A_BUG):
            await self._until_logged()
        if code in {ExitCode.BUG, ExitCode.NEEDS_HUMAN}:
            self._show_log()
        return code

    async def _until_logged(self) -> None:
        """A bug's details are written by the executor after its run's end; it may take a moment."""
        log = self._runs.store.log(self._run)
        for _ in range(_LOG_PATIENCE):
            if log.is_file() and log.stat().st_size:
                return
            await asyncio.sleep(0.1)

    async def _broken_off(self) -> int:
        """No end in the journal: what is left is the broker's to tell, not ours to guess."""
        say = self._lines.complain
        say(f"celery-ops: {self._run} was interrupted: nobody executes it any more")
        say(f"celery-ops runs resume {self._run} goes on with it, runs undo takes it back.")
        self._show_log()
        taken = await self._left_taken()
        # What is about to be taken is recorded right before its intent is.
        if not self._has_effects and not taken:
            known = "" if taken is not None else ", as far as its journal tells"
            say(f"Nothing had been changed{known}.")
            return ExitCode.INTERRUPTED
        is_left = self._say_what_is_left(taken)
        return ExitCode.NEEDS_HUMAN if is_left else ExitCode.INTERRUPTED

    async def _lost(self, error: JournalError) -> int:
        """The journal cannot be read any more, and nobody but the broker tells of the run."""
        say = self._lines.complain
        say(f"celery-ops: {error.says}")
        say("Whether the run goes on is not known here: celery-ops runs --all tells.")
        if self._say_what_is_left(await self._left_taken()):
            say(f"Once it runs no more, celery-ops runs adopt {self._run} gives that back.")
        return ExitCode.NEEDS_HUMAN

    def _say_what_is_left(self, taken: list[TakenRecord] | None) -> bool:
        """Whether something is taken by the run, or may be."""
        if taken is None:
            self._lines.complain(
                "What it left is not known here: celery-ops status shows what is taken."
            )
            return True
        for record in taken:
            mend = record.mend if self._plan is None else show_run.mend(record.mend, self._plan)
            what = f"its {record.kind}" if record.kind in {"queues", "service"} else record.what
            left = f"{record.worker} is left without {what}" if record.worker else record.what
            self._lines.complain(f"{left}: {mend}")
        return bool(taken)

    async def _left_taken(self) -> list[TakenRecord] | None:
        """None where that is not known."""
        if self._context is None:
            return None
        try:
            without = self._plan is not None and bool(self._plan.emergency)
            async with opened(
                self._context, passphrases=Passphrases(), without_broker=without
            ) as deployment:
                taken = await deployment.broker.taken()
        except OpsError:
            # Unknown, and said to be so by the caller: the run's own end is the matter here.
            return None
        return [record for record in taken if record.run == self._run]

    def _show_log(self) -> None:
        path = self._runs.store.log(self._run)
        if not path.is_file():
            return
        lines = path.read_text("utf-8", "backslashreplace").splitlines()[-_LOG_LINES:]
        for line in lines:
            self._lines.complain(f"  {line}")
        if lines:
            self._lines.complain(f"All of it is in {path}")
