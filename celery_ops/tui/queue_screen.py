"""The page of one queue: its numbers, who works it off, and the messages that wait in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from celery_ops.tui import queue_page
from celery_ops.tui.bars import Bar, Part
from celery_ops.tui.commands import Where, bindings
from celery_ops.tui.frame import Frame
from celery_ops.tui.lines import Line, Lines, line
from celery_ops.tui.messages import ChangeAsked, CopyAsked, LookAsked, RawAsked
from celery_ops.tui.picture import Kind, Subject
from celery_ops.tui.queue_messages import MessagesView
from celery_ops.tui.queues import change_of, may_change
from celery_ops.tui.text import Tone

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from celery_ops.model import Queue
    from celery_ops.tui.messages import MessagesRead
    from celery_ops.tui.picture import Picture
    from celery_ops.tui.seams import MessageReader

AT_ONCE = 100
"""Messages that are looked at, and that `more` adds."""
MOST = 1_000
HOLD_TASK = "hold-task"
"""The runbook that H opens the plan of; without it there is no such key."""


class QueueScreen(Frame):
    """Follows the fleet while it is open; the messages are looked at when somebody asks."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Where.QUEUE), *bindings(Where.QUEUES)]

    def __init__(self, picture: Picture, queue: str, reader: MessageReader | None) -> None:
        super().__init__(picture)
        self._queue = queue
        self._title = Bar(id="title")
        self._facts = Lines(id="facts")
        self._messages = None if reader is None else MessagesView(picture, reader)
        self._limit = AT_ONCE

    def content(self) -> ComposeResult:
        yield self._title
        yield self._facts
        if self._messages is not None:
            yield self._messages.data_bind(Frame.picture)

    def watch_picture(self, before: Picture, now: Picture) -> None:
        if not self.is_mounted:
            return
        self._draw()
        if before.runbooks is not now.runbooks:
            self.refresh_bindings()

    def on_mount(self) -> None:
        super().on_mount()
        self._title.show([Part(f"queue {self._queue}", Tone.STRONG)])
        self._draw()
        if self._messages is not None:
            self._messages.table.focus()
        self.action_look()

    def on_messages_read(self, message: MessagesRead) -> None:
        if self._messages is None:
            return
        self._messages.error = message.error
        if message.look is not None:
            self._messages.look = message.look
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "change":
            return self.queue is not None and may_change(parameters[0], self.picture)
        if action == "hold_task":
            return self._may_hold
        if action == "more":
            return self._more_there
        return action != "look" or self._messages is not None

    def action_look(self) -> None:
        """Look at the messages, once more."""
        if self._messages is not None:
            self.post_message(LookAsked(self, self._queue, self._limit))

    def action_more(self) -> None:
        self._limit = min(MOST, self._limit + AT_ONCE)
        self.action_look()

    def action_change(self, runbook: str) -> None:
        queue = self.queue
        if queue is not None:
            self.post_message(change_of(runbook, queue))

    def action_hold_task(self) -> None:
        """Ask for the plan of holding all tasks of the name under the cursor."""
        if (task := self._task_name) is not None:
            self.post_message(ChangeAsked(HOLD_TASK, {"tasks": task}, (task,), "task"))

    def action_raw(self) -> None:
        self.post_message(RawAsked(Subject(Kind.QUEUE, self._queue)))

    def action_copy(self) -> None:
        self.post_message(CopyAsked(self._queue))

    def action_back(self) -> None:
        self.dismiss()

    @property
    def queue(self) -> Queue | None:
        """The queue as the snapshot has it that is shown; None: it is not there any more."""
        queues = self.picture.shown.queues if self.picture.shown else ()
        return next((one for one in queues if one.name == self._queue), None)

    @property
    def _task_name(self) -> str | None:
        row = self._messages.table.row if self._messages is not None else None
        return None if row is None else row.message.task

    @property
    def _may_hold(self) -> bool:
        there = HOLD_TASK in self.picture.runbooks and not self.picture.read_only
        return there and self._messages is not None

    @property
    def _more_there(self) -> bool:
        look = self._messages.look if self._messages is not None else None
        return look is not None and look.value.left > 0 and self._limit < MOST

    def _draw(self) -> None:
        queue = self.queue
        gone = [line(("  There is no such queue any more.", Tone.WARN))]
        self._facts.show(
            gone if queue is None else [*queue_page.lines(queue, self.picture), Line()]
        )
