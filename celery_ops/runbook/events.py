"""What a journal tells: the kinds of events, how effects and runs end, and the report of an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """Everything that can stand in a journal."""

    PLANNED = "planned"
    STARTED = "started"
    RESUMED = "resumed"
    UNDOING = "undoing"
    WAITING = "waiting"
    LEASED = "leased"
    LEASE_LOST = "lease_lost"
    CONFIRMED = "confirmed"
    ASKED = "asked"
    ANSWERED = "answered"
    BATCH = "batch"
    INTENT = "intent"
    RESULT = "result"
    PROGRESS = "progress"
    STANDS = "stands"
    """What the run is for is so from now on, and stays so until another run ends it."""
    PAUSED = "paused"
    CONTINUED = "continued"
    ABORTING = "aborting"
    ENDED = "ended"


class Result(StrEnum):
    """How one effect, step or check went. `UNKNOWN` is settled by observing, never by repeating."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    DEFERRED = "deferred"
    """Not now: what was taken is given back, and its turn comes again."""


class RunState(StrEnum):
    """Where a run stands. `INTERRUPTED`: no end in its journal, and nobody holds its lock."""

    PLANNED = "planned"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"
    ABORTED = "aborted"
    INTERRUPTED = "interrupted"


class Ending(StrEnum):
    """Why a run ended as it did; `cli` chooses the exit code from it."""

    DONE = "done"
    STOPPED = "stopped"
    UNDONE = "undone"
    NEEDS_HUMAN = "needs_human"
    ABORTED = "aborted"
    REFUSED = "refused"
    LEASE_HELD = "lease_held"
    UNCONFIRMED = "unconfirmed"
    INTERRUPTED = "interrupted"
    UNREACHABLE = "unreachable"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Owed:
    """Something that a run left behind, and the command that mends it."""

    says: str
    mend: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a target failed: one line, and the last lines of what a command wrote to stderr.

    No `target`: a step that is none's.
    """

    target: str
    says: str
    err: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a run in names: every target is in exactly one of the first four, or `returned`:
    what was done to it was taken back, and all that it was owed was given back.

    `again` is the command that goes on with those that are not done. `left_paused` are queues, and
    `left_parked` messages, that were paused and parked on purpose.
    """

    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    not_started: tuple[str, ...] = ()
    left_drained: tuple[Owed, ...] = ()
    owed: tuple[Owed, ...] = ()
    causes: tuple[Cause, ...] = ()
    again: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why some of those that were not started could not be reached."""
    returned: tuple[str, ...] = ()
    left_paused: tuple[Owed, ...] = ()
    left_parked: tuple[Owed, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `state`, `ending` and `report` only when the run ended."""

    result: Result
    says: str
    state: RunState | None = None
    ending: Ending | None = None
    report: Report | None = None
