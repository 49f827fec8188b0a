"""The app: owner of the picture, and the place where messages become actions.

Constructed with ports only. It does no I/O itself: feeds bring the facts, `Changes` talks to the
desk.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.reactive import var

from celery_ops.tui.aside import Aside
from celery_ops.tui.changes import Changes
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.confirm import PassphraseScreen
from celery_ops.tui.crash import crash_text
from celery_ops.tui.feeds import Feeds
from celery_ops.tui.frame import Frame
from celery_ops.tui.log_screen import LogScreen
from celery_ops.tui.main_screen import MainScreen
from celery_ops.tui.messages import PassphraseAsked
from celery_ops.tui.palette import KeyCommands
from celery_ops.tui.pauses import make_full_collections_rare
from celery_ops.tui.picture import BLANK, Picture
from celery_ops.tui.queue_screen import QueueScreen
from celery_ops.tui.runs import LIVE
from celery_ops.tui.text_screen import DescribeScreen, RawScreen, TextScreen, help_lines
from celery_ops.tui.theme import DARK, LIGHT, THEMES, first_theme

if TYPE_CHECKING:
    from textual.binding import BindingType

    from celery_ops.config.secret import Secret
    from celery_ops.ports import Clock
    from celery_ops.tui import messages
    from celery_ops.tui.seams import (
        Collector,
        Desk,
        LedgerReader,
        Library,
        LogReader,
        MessageReader,
        Reporter,
    )

TICK = 0.5
"""Seconds between two drawings of the ages."""


class OpsApp(App[None]):
    """Shows one context. Without a desk, or `read_only`, nothing can be changed from it."""

    CSS_PATH = Path(__file__).with_name("styles.tcss")
    TITLE = "celery-ops"
    COMMANDS: ClassVar = {KeyCommands}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.APP)]

    picture: var[Picture] = var(BLANK)

    def __init__(
        self,
        collector: Collector,
        desk: Desk | None,
        *,
        context: str,
        protected: bool,
        read_only: bool,
        ledger: LedgerReader | None = None,
        logs: LogReader | None = None,
        library: Library | None = None,
        messages: MessageReader | None = None,
        clock: Clock,
        reporter: Reporter | None = None,
    ) -> None:
        """`ledger` is the demo's; `reporter` writes a bug's details to a file, which is named."""
        # With colours of its own Textual would draw greys, with the terminal's own it draws none.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self._collector = collector
        self._desk = desk
        self._ledger = ledger
        self._logs = logs
        self._library = library
        self._messages = messages
        self._clock = clock
        self._reporter = reporter
        self._aside = Aside()
        self._changes = Changes(self, desk, self._aside) if desk is not None else None
        may_write = desk is not None and not read_only
        first = Picture(context, protected=protected, read_only=not may_write, now=clock.now())
        self.set_reactive(OpsApp.picture, first)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = first_theme(
            colors=self.console.color_system,
            no_color=self.no_color,
            colorfgbg=os.environ.get("COLORFGBG", ""),
        ).name

    def get_default_screen(self) -> MainScreen:
        return MainScreen(
            self.picture,
            may_write=not self.picture.read_only,
            with_runs=self._desk is not None,
            with_ledger=self._ledger is not None,
        )

    def watch_picture(self, picture: Picture) -> None:
        """Hand the picture to what can be seen; a covered screen asks when it is seen again."""
        for screen in reversed(self.screen_stack if self.is_running else ()):
            if isinstance(screen, Frame):
                screen.picture = picture
            if not screen.is_modal:
                break

    def on_mount(self) -> None:
        if not self.is_headless:
            make_full_collections_rare()
        self.set_interval(TICK, self.tick)
        feeds = Feeds(self.post_message, self._clock)
        self.run_worker(feeds.watch(self._collector), group="feed")
        if self._desk is not None:
            self.run_worker(feeds.list_runs(self._desk, self._aside), group="feed")
        if self._library is not None:
            self.run_worker(feeds.list_runbooks(self._library, self._aside), group="feed")
        if self._ledger is not None:
            self.run_worker(feeds.read_ledger(self._ledger), group="feed")

    def on_unmount(self) -> None:
        self._aside.close()

    def on_picture_wanted(self, message: messages.PictureWanted) -> None:
        message.frame.picture = self.picture

    def on_snapshot_taken(self, message: messages.SnapshotTaken) -> None:
        newest, now = message.snapshot, self._clock.now()
        shown = self.picture.shown if self.picture.frozen_at is not None else newest
        self.picture.depths.note(newest)
        self.picture = replace(self.picture, newest=newest, shown=shown, unwatched=None, now=now)

    def on_watch_ended(self, message: messages.WatchEnded) -> None:
        since = self.picture.unwatched.at if self.picture.unwatched else message.why.at
        self.picture = replace(self.picture, unwatched=replace(message.why, at=since))

    def on_ledger_read(self, message: messages.LedgerRead) -> None:
        ledger = message.ledger or self.picture.ledger
        self.picture = replace(self.picture, ledger=ledger, ledger_error=message.error)

    def on_runs_listed(self, message: messages.RunsListed) -> None:
        if message.runs != self.picture.runs:
            self.picture = replace(self.picture, runs=message.runs)

    def on_runbooks_listed(self, message: messages.RunbooksListed) -> None:
        if message.runbooks != self.picture.runbooks:
            self.picture = replace(self.picture, runbooks=message.runbooks)

    def on_queue_asked(self, message: messages.QueueAsked) -> None:
        self.push_screen(QueueScreen(self.picture, message.queue, self._messages))

    def on_look_asked(self, message: messages.LookAsked) -> None:
        if self._messages is None:
            return
        screen, feeds = message.screen, Feeds(message.screen.post_message, self._clock)
        looking = feeds.look(self._messages, message.queue, message.limit)
        screen.run_worker(looking, group="look", exclusive=True)

    def on_message_asked(self, message: messages.MessageAsked) -> None:
        self.push_screen(TextScreen(self.picture, message.title, message.lines))

    def on_describe_asked(self, message: messages.DescribeAsked) -> None:
        self.push_screen(DescribeScreen(self.picture, message.subject))

    def on_raw_asked(self, message: messages.RawAsked) -> None:
        self.push_screen(RawScreen(self.picture, message.subject))

    def on_log_asked(self, message: messages.LogAsked) -> None:
        if self._logs is None:
            self.notify("There are no hosts here, and so no logs.", severity="warning")
            return
        screen = LogScreen(self.picture, message.service)
        self.push_screen(screen)
        feeds = Feeds(screen.post_message, self._clock)
        screen.run_worker(feeds.follow_log(self._logs, message.service), group="log")

    def on_copy_asked(self, message: messages.CopyAsked) -> None:
        self.copy_to_clipboard(message.text)
        self.notify("copied", timeout=1.5)

    def on_change_asked(self, message: messages.ChangeAsked) -> None:
        if self._changes is not None:
            self._changes.open_plan(message, self.picture)

    def on_scale_asked(self, message: messages.ScaleAsked) -> None:
        if self._changes is not None:
            self._changes.open_scale(message, self.picture)

    def on_plan_agreed(self, message: messages.PlanAgreed) -> None:
        if self._changes is not None:
            self._changes.confirm(message.plan, self.picture)

    def on_run_asked(self, message: messages.RunAsked) -> None:
        if self._changes is not None:
            self._changes.follow(message.run, self.picture)

    async def on_steer_asked(self, message: messages.SteerAsked) -> None:
        if self._changes is not None:
            await self._changes.steer(message)

    async def on_answer_given(self, message: messages.AnswerGiven) -> None:
        if self._changes is not None:
            await self._changes.answer(message)

    def on_passphrase_asked(self, message: messages.PassphraseAsked) -> None:
        def answered(passphrase: Secret | None) -> None:
            if not message.answer.done():
                message.answer.set_result(passphrase)

        self.push_screen(PassphraseScreen(message.key), answered)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "view":
            return self._main is not None and self._main.has(str(parameters[0]))
        return True

    def action_view(self, view: str) -> None:
        """Open a view from wherever we are; what was open above it is closed."""
        main = self._main
        if main is None:
            return
        while self.screen is not main:
            self.pop_screen()
        main.open(view)

    def action_help(self) -> None:
        lines = help_lines(self.picture)
        self.push_screen(TextScreen(self.picture, "keys and signs", lines))

    def action_freeze(self) -> None:
        """Keep the snapshot on the screen; its age goes on."""
        frozen = None if self.picture.frozen_at is not None else self._clock.now()
        shown = self.picture.shown if frozen is not None else self.picture.newest
        self.picture = replace(self.picture, frozen_at=frozen, shown=shown)

    def action_light_or_dark(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def action_leave(self) -> None:
        """Quit; say how to find the runs that go on without the screen."""
        live = [run.id for run in self.picture.runs or () if run.state in LIVE]
        says = "\n".join(f"The run goes on: celery-ops runs follow {run}" for run in live)
        self.exit(message=says or None)

    async def ask_passphrase(self, key: Path) -> Secret | None:
        """Ask for a key's passphrase while all else goes on; None: it is not known."""
        answer: asyncio.Future[Secret | None] = asyncio.get_running_loop().create_future()
        self.post_message(PassphraseAsked(key, answer))
        return await answer

    def tick(self) -> None:
        """Look at the same facts at a later moment."""
        self.picture = replace(self.picture, now=self._clock.now())

    @property
    def _main(self) -> MainScreen | None:
        bottom = self.screen_stack[0] if self.screen_stack else None
        return bottom if isinstance(bottom, MainScreen) else None

    def _handle_exception(self, error: Exception) -> None:
        """Textual's seam for what nobody caught (8.2.8); its own would print local variables."""
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
            self._exit_renderables.append(crash_text(error, self._reporter))
        self._close_messages_no_wait()
