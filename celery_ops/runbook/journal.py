"""The journal of a run: one append-only JSON-lines file, and everything that is derived from it.

A run *is* its journal. The first line is the frozen plan; an intent is on disk before its effect,
the result after it. The executor holds a lock on the file, so "nobody runs this" is a fact and
not a guess. The journal owns no meaning beyond that: what to do about a gap is the executor's
business.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from celery_ops import __version__
from celery_ops.errors import JournalError
from celery_ops.model import ClockMark
from celery_ops.runbook.events import (
    EventKind,
    Outcome,
    RunState,
)
from celery_ops.runbook.plan import Plan, PlannedWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from celery_ops.ports import Clock

VERSION = 1
RESERVE_BYTES = 64 * 1024
"""Kept allocated beside the journal: a full disk still leaves room to undo, and to say so."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `intent` says what is about to be done, `expect` what will prove it, `undo` how to
    take it back; `plan` stands in the first line only.

    Beside an intent stand its `verb` (a restart consists of `stop` and `start`) and `worker`: the
    target as it was met right before, which a resumed run compares with. `attempt` is 1, and one
    more each time the run was taken up again. `clock` stands in the first line: the run's time is
    counted from there. `version` is that of celery-ops, where one begins to write. `count` is how
    many messages a result is about.
    """

    seq: int
    at: datetime
    event: EventKind
    step: str | None = None
    target: str | None = None
    attempt: int = 1
    intent: str | None = None
    expect: str | None = None
    undo: str | None = None
    outcome: Outcome | None = None
    plan: Plan | None = None
    verb: str | None = None
    worker: PlannedWorker | None = None
    count: int | None = None
    clock: ClockMark | None = None
    version: str | None = None
    v: int = VERSION

    def to_line(self) -> bytes:
        """The event as one line of JSON, keys that say nothing left out."""
        fields: dict[str, Any] = {
            "v": self.v, "seq": self.seq, "at": self.at, "event": self.event, "step": self.step,
            "target": self.target, "attempt": self.attempt, "intent": self.intent,
            "expect": self.expect, "undo": self.undo, "outcome": self.outcome, "plan": self.plan,
            "verb": self.verb, "worker": self.worker, "count": self.count,
            "clock": self.clock, "version": self.version,
        }  # fmt: skip
        said = {key: value for key, value in fields.items() if value is not None}
        return _encoded(said) + b"\n"


TRANSITIONS = {
    EventKind.STARTED: RunState.RUNNING,
    EventKind.RESUMED: RunState.RUNNING,
    EventKind.UNDOING: RunState.RUNNING,
    EventKind.WAITING: RunState.WAITING,
    EventKind.LEASED: RunState.RUNNING,
    EventKind.LEASE_LOST: RunState.PAUSED,
    EventKind.PAUSED: RunState.PAUSED,
    EventKind.CONTINUED: RunState.RUNNING,
    EventKind.ASKED: RunState.PAUSED,
    EventKind.ANSWERED: RunState.RUNNING,
    EventKind.BATCH: RunState.RUNNING,
    EventKind.INTENT: RunState.RUNNING,
    EventKind.STANDS: RunState.RUNNING,
    EventKind.ABORTING: RunState.RUNNING,
}
"""The state a run is in after each event that changes it; an end says its state itself."""

GOING_ON = frozenset({RunState.PLANNED, RunState.WAITING, RunState.RUNNING, RunState.PAUSED})
"""In these a run has no end yet: without an executor it was interrupted."""

_TAKEN_UP = frozenset({EventKind.RESUMED, EventKind.UNDOING})
_BEGUN = _TAKEN_UP | {EventKind.STARTED}
_SETTLES = _BEGUN | {EventKind.ANSWERED, EventKind.ABORTING, EventKind.ENDED}
"""After these a question is none any more."""
PICK_UP_SECONDS = 10.0
"""Until an executor that was started holds the journal."""

_DECODER = msgspec.json.Decoder(Event)


class Journal:
    """Writes one run's journal; holds the lock of the file while it is open.

    Every event is flushed; `INTENT`, `RESULT` and what changes the state of the run is fsynced too.
    `doing` is where the run is now, in a few words; empty before its first step. `is_cramped`: the
    disk is full, and what is written now is written to what the reserve gave.
    """

    _LIGHT = frozenset({EventKind.PROGRESS})

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open an existing journal. Raise JournalError if another process holds it."""
        self._clock = clock
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise JournalError(f"another process executes the run {path.stem}") from error
        self._reserve = path.with_suffix(".reserve")
        self.is_cramped = False
        try:
            self._mend_torn_line()
            events = list(read(path))
            self._keep_reserve()
        except JournalError:
            os.close(self._file)
            raise
        self._seq = len(events)
        self.doing = ""
        self._attempt = 1 + sum(event.event in _TAKEN_UP for event in events)

    def append(
        self,
        event: EventKind,
        *,
        step: str | None = None,
        target: str | None = None,
        intent: str | None = None,
        expect: str | None = None,
        undo: str | None = None,
        outcome: Outcome | None = None,
        verb: str | None = None,
        worker: PlannedWorker | None = None,
        count: int | None = None,
    ) -> Event:
        """Write one event. Raise JournalError if it could not be made durable."""
        if event in _TAKEN_UP:
            self._attempt += 1
        written = Event(
            seq=self._seq + 1, at=self._clock.now(), event=event, step=step, target=target,
            attempt=self._attempt, intent=intent, expect=expect, undo=undo, outcome=outcome,
            verb=verb, worker=worker, count=count,
            version=__version__ if event in _BEGUN else None,
        )  # fmt: skip
        self._write(written.to_line(), durable=event not in self._LIGHT)
        self._seq = written.seq
        self.doing = _doing(written, self.doing)
        return written

    def close(self) -> None:
        """Give the lock back. The reserve goes with the end of the run."""
        self._reserve.unlink(missing_ok=True)
        os.close(self._file)

    def _write(self, line: bytes, *, durable: bool) -> None:
        try:
            _write_all(self._file, line)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not self._reserve.exists():
                raise JournalError(f"cannot write {self.path}: {error.strerror}") from error
            self._reserve.unlink()
            self.is_cramped = True
            self._mend_torn_line()
            self._write(line, durable=durable)
            return
        if durable:
            os.fsync(self._file)

    def _mend_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            content = os.pread(self._file, size, 0)
            os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def _keep_reserve(self) -> None:
        try:
            self._reserve.touch(mode=0o600)
            with self._reserve.open("wb") as reserve:
                reserve.write(b"\0" * RESERVE_BYTES)
                os.fsync(reserve.fileno())
        except OSError as error:
            says = f"no room for a journal in {self.path.parent}: {error.strerror}"
            raise JournalError(says, fix="Free some disk space; nothing was changed.") from error


def create(path: Path, plan: Plan, clock: Clock) -> None:
    """Write the first line of a new run, durably, mode 0600. Raise JournalError."""
    mark = ClockMark(clock.now(), clock.monotonic(), clock.boot)
    event = Event(
        seq=1, at=mark.at, event=EventKind.PLANNED, plan=plan, clock=mark, version=__version__
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, event.to_line())
            os.fsync(file)
        finally:
            os.close(file)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        says = f"cannot write the journal {path}: {error.strerror}"
        raise JournalError(says, fix="Nothing was changed.") from error


def read(path: Path) -> Iterator[Event]:
    """Every whole event of a journal; a torn last line is left out.

    Raise JournalError, with the line's number, for anything else that cannot be understood: a line
    that is none of ours or of a version to come, lines that are missing, doubled or out of order.
    """
    yield from _Reader(path).new()


def read_line(line: bytes) -> Event:
    """One event. Raise msgspec.DecodeError, UnicodeDecodeError or RecursionError."""
    return _DECODER.decode(line)


def is_held(path: Path) -> bool:
    """Whether a living process executes this run."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


async def follow(
    path: Path, clock: Clock, *, after: int = 0, interval: float = 0.1
) -> AsyncIterator[Event]:
    """The events from the first on, and new ones as they come.

    `after` is the number of the last event that is known already. Ends after the end of the run, or
    when the run is interrupted: it began, and nobody holds its lock. A run that was not picked up
    by an executor is waited for (10 s), then counts as interrupted.

    Raise JournalError when it cannot be read any more: somebody may have deleted it.
    """
    reader = _Reader(path)
    patience = clock.monotonic() + PICK_UP_SECONDS
    begun = ended = False
    while True:
        held = is_held(path)
        known = reader.seq
        for event in reader.new():
            if event.seq <= after:
                continue
            begun = begun or event.event in _BEGUN
            ended = event.event is EventKind.ENDED
            yield event
        if ended:
            return
        if not held and reader.seq == known and (begun or clock.monotonic() > patience):
            return
        await clock.sleep(interval)


def state_of(events: list[Event], *, held: bool) -> RunState:
    """Where a run stands, from its journal and its lock alone."""
    state = RunState.PLANNED
    for event in events:
        if event.event is EventKind.ENDED:
            state = event.outcome.state if event.outcome and event.outcome.state else state
        else:
            state = TRANSITIONS.get(event.event, state)
    if not held and state in GOING_ON and len(events) > 1:
        return RunState.INTERRUPTED
    return state


def open_question(events: Sequence[Event]) -> Event | None:
    """The `ASKED` event that waits for its answer; what is done to other targets goes on beside."""
    asked = None
    for event in events:
        if event.event is EventKind.ASKED:
            asked = event
        elif event.event in _SETTLES:
            asked = None
    return asked


def _doing(event: Event, before: str) -> str:
    """Where a run is after an event, if it was there `before`."""
    match event.event:
        case EventKind.PAUSED:
            return f"{before or '1'}, paused"
        case EventKind.CONTINUED:
            return before.removesuffix(", paused")
        case EventKind.BATCH if event.outcome is not None:
            return f"{event.step}: {event.outcome.says}"
        case EventKind.ASKED:
            return f"{event.step}: waits for an answer"
        case (
            EventKind.INTENT
            | EventKind.RESULT
            | EventKind.PROGRESS
            | EventKind.STANDS
            | EventKind.ANSWERED
        ):
            if event.step is None:
                return before
            what = " ".join(part for part in (event.verb, event.target) if part)
            there = f"{event.step}: {what}" if what else event.step
            is_there = before.partition(":")[0] == event.step
            return before if event.verb is None and is_there else there
        case _:
            return before


def has_ended(events: Sequence[Event]) -> bool:
    """The last word is an end. It may be resumed, or undone, and then goes on after it."""
    return bool(events) and events[-1].event is EventKind.ENDED


class _Reader:
    """Reads a journal from its first line on, and what was added to it since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._line = 0
        self._version = ""
        self.seq = 0

    def new(self) -> Iterator[Event]:
        """The whole lines that were not read yet. Raise JournalError."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError as error:
            raise JournalError(f"cannot read {self._path}: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.split(b"\n")[:-1]:
            self._line += 1
            yield self._event(line)

    def _event(self, line: bytes) -> Event:
        try:
            event = read_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refusal(f"not an event of a journal: {error}") from error
        if event.at.tzinfo is None:
            raise self._refusal("its time has no zone")
        if event.v > VERSION:
            raise self._refusal(f"an event of format {event.v}, and this reads {VERSION}")
        if event.seq != self.seq + 1:
            raise self._refusal(
                f"event {event.seq} follows event {self.seq}: lines are missing, doubled or out of"
                " order"
            )
        self.seq = event.seq
        self._version = event.version or self._version
        return event

    def _refusal(self, says: str) -> JournalError:
        if self._version not in {"", __version__}:
            says += f" (written by celery-ops {self._version}, this is {__version__})"
        fix = (
            "What the run has taken is told by celery-ops status; celery-ops runs adopt gives it"
            " back without the journal."
        )
        return JournalError(f"{self._path}:{self._line}: {says}", fix=fix)


def _encoded(said: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(said)
    except UnicodeEncodeError:
        # A node may call itself half a surrogate, which JSON can carry and UTF-8 cannot.
        text = json.dumps(msgspec.to_builtins(said), ensure_ascii=False)
        return text.encode(errors="replace")


def _write_all(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
