"""What ends a run where it waits: the operator's pause and three stages of abort, as the run feels
them, and the loss of its lease to somebody else.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from celery_ops.runbook.inbox import Word

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.ports import Clock
    from celery_ops.runbook.inbox import Inbox, Message

POLL_SECONDS = 0.2


class Aborted(Exception):
    """The operator wants the run to end. Not an error: the run's own way of unwinding."""


class Brake:
    """Read from the inbox by a task of its own; asked by everything that waits.

    Stage 1: end at the next safe point and undo the batch. Stage 2: end after the command in
    flight, undo nothing. Stage 3: end at once (`on_third` is called).
    """

    def __init__(self, inbox: Inbox, clock: Clock, on_third: Callable[[], None]) -> None:
        self._inbox = inbox
        self._clock = clock
        self._on_third = on_third
        self.stage = 0
        self.paused = False
        self.by = ""
        self.asking = asyncio.Lock()
        """An answer names its step and no target: one question at a time."""
        self._heeded = False
        self._halted: BaseException | None = None
        self._answers: dict[str, Message] = {}

    async def listen(self) -> None:
        """Until cancelled."""
        while True:
            self._read()
            await self._clock.sleep(POLL_SECONDS)

    def hear(self, message: Message) -> None:
        match message.word:
            case Word.ABORT:
                self.pull(message.who)
            case Word.PAUSE:
                self.paused = True
            case Word.CONTINUE:
                self.paused = False
            case Word.ANSWER:
                if message.step is not None:
                    self._answers[message.step] = message

    def pull(self, who: str) -> None:
        """One stage further; also what SIGTERM does."""
        self.stage += 1
        self.by = who
        if self.stage == 3:
            self._on_third()

    def heed(self) -> None:
        """The run is at its undo, which the first stage asks for and only the second ends."""
        self._heeded = True

    def halt(self, why: BaseException) -> None:
        """End whatever waits, `safe` or not: no operator of this run has a say in it any more."""
        self._halted = why

    def check(self, *, safe: bool) -> None:
        """Raise Aborted, or why the run was halted, if it must end here. `safe`: nothing is half
        done at this point.
        """
        if self._halted is not None:
            raise self._halted
        if self.stage >= 2 or (self.stage == 1 and safe and not self._heeded):
            raise Aborted(self.by)

    async def sleep(self, seconds: float, *, safe: bool = True) -> None:
        """Sleep; at a `safe` point any abort ends it at once, else the second stage of one."""
        until = self._clock.monotonic() + seconds
        while True:
            self.check(safe=safe)
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            await self._clock.sleep(min(left, POLL_SECONDS))

    def forget_answer(self, step: str) -> None:
        """What was said before a question is asked is no answer to it."""
        self._read()
        self._answers.pop(step, None)

    async def answer(self, step: str) -> Message | None:
        """Wait for the answer to a question; None when nobody is there to give one any more."""
        while step not in self._answers:
            self.check(safe=True)
            if not self._inbox.has_follower():
                return None
            await self._clock.sleep(POLL_SECONDS)
        return self._answers.pop(step)

    def _read(self) -> None:
        for message in self._inbox.new():
            self.hear(message)
