"""What goes up: facts from outside, and what views want done.

The app handles facts and wishes; a run's events go to the screen that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from celery_ops.config.secret import Secret
    from celery_ops.fleet.peeking import Look
    from celery_ops.model import FleetSnapshot, Reading, ServiceRef
    from celery_ops.runbook.desk import RunSummary
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.schema import Param
    from celery_ops.tui.frame import Frame
    from celery_ops.tui.lines import Line
    from celery_ops.tui.picture import Subject
    from celery_ops.tui.queue_screen import QueueScreen


class Replaceable(Message):
    """A fact that the next of its kind makes obsolete: a slow screen skips some."""

    def can_replace(self, message: Message) -> bool:
        return type(message) is type(self)


@dataclass
class SnapshotTaken(Replaceable):
    """The fleet at one moment."""

    snapshot: FleetSnapshot


@dataclass
class WatchEnded(Message):
    """No snapshots come any more, and why."""

    why: Reading[str]


@dataclass
class LedgerRead(Replaceable):
    """The demo's ledger, or why it could not be read."""

    ledger: Reading[Mapping[str, int | None]] | None
    error: str | None = None


@dataclass
class RunsListed(Replaceable):
    """This user's runs, newest first."""

    runs: tuple[RunSummary, ...]


@dataclass
class PictureWanted(Message):
    """A screen is seen again, and what it shows is old."""

    frame: Frame


@dataclass
class DescribeAsked(Message):
    """Somebody wants to know everything of something."""

    subject: Subject


@dataclass
class RawAsked(Message):
    """Somebody wants the data of something."""

    subject: Subject


@dataclass
class LogAsked(Message):
    """Somebody wants to follow the log of a service."""

    service: ServiceRef


@dataclass
class CopyAsked(Message):
    """Somebody wants a text in the clipboard."""

    text: str


@dataclass
class ChangeAsked(Message):
    """Somebody wants to see the plan of a runbook with these parameters, for what they name."""

    runbook: str
    given: Mapping[str, str]
    names: tuple[str, ...]
    noun: str


@dataclass
class ScaleAsked(Message):
    """Somebody wants more or fewer of these workers, of which so many run; or larger pools."""

    names: tuple[str, ...]
    running: int


@dataclass
class QueueAsked(Message):
    """Somebody wants to see the page of a queue."""

    queue: str


@dataclass
class LookAsked(Message):
    """Somebody wants to see the next messages of a queue, at most so many."""

    screen: QueueScreen
    queue: str
    limit: int


@dataclass
class MessageAsked(Message):
    """Somebody wants to see one message of a queue, as these lines."""

    title: str
    lines: list[Line]


@dataclass
class MessagesRead(Replaceable):
    """What waits in a queue, or why that cannot be looked at."""

    look: Reading[Look] | None
    error: str | None = None


@dataclass
class RunbooksListed(Replaceable):
    """The runbooks that there are, and their parameters."""

    runbooks: Mapping[str, tuple[Param, ...]]


@dataclass
class RunAsked(Message):
    """Somebody wants to follow a run."""

    run: str


@dataclass
class PlanAgreed(Message):
    """Somebody read the plan and wants to go on to its confirmation."""

    plan: Plan


class Steer(StrEnum):
    """What can be said to a run that goes on."""

    ABORT = "abort"
    PAUSE = "pause"
    PROCEED = "proceed"


@dataclass
class SteerAsked(Message):
    """Somebody wants to say something to a run; an abort is confirmed already."""

    run: str
    steer: Steer


@dataclass
class AnswerGiven(Message):
    """Somebody answered what a run asked."""

    run: str
    step: str
    answer: str


@dataclass
class PassphraseAsked(Message):
    """A host wants a key that is encrypted; `answer` takes its passphrase, or that it is not
    known.
    """

    key: Path
    answer: asyncio.Future[Secret | None]


@dataclass
class RunEventSeen(Message):
    """The next event of a run's journal. Never replaced: each one counts."""

    event: Event


@dataclass
class FollowEnded(Message):
    """A run's journal has no more to tell; `error` is set if it could not be read on."""

    error: str | None


@dataclass
class LogRead(Message):
    """Lines of a log that came together. Whoever shows them sets `taken`: no more come before."""

    lines: tuple[str, ...]
    at: datetime
    taken: asyncio.Event


@dataclass
class LogBroke(Message):
    """A log is not followed any more, why, and in how many seconds it is tried again.

    `began_at` is when it broke; `at` is the last attempt.
    """

    why: str
    began_at: datetime
    at: datetime
    pause: float

    def since(self, now: datetime) -> float:
        """Seconds since it broke."""
        return (now - self.began_at).total_seconds()

    def again_in(self, now: datetime) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self.pause - (now - self.at).total_seconds())
