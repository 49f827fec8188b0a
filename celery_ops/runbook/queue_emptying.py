"""When a queue is empty: nothing waits in it, nobody holds or runs anything of it, and it stays so.

Pure, fed with looks at the whole fleet. What waits elsewhere counts: tasks with an ETA and those
that a rate limit holds back are unacknowledged at the broker; of those that run some are
acknowledged already, and may send themselves again. Unknown is never zero.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from celery_ops.config.units import as_duration, counted
from celery_ops.model import WorkerState
from celery_ops.runbook import queue_word

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, Queue, Reading, Task, Worker

T = TypeVar("T")

LEAST_QUIET = 5.0
"""Seconds for which it must be seen to stay empty; longer where a retry was seen to wait longer."""
QUIET_WHERE_COUNTED_LATE = 15.0
"""The same where what the broker tells is some seconds late: RabbitMQ's management API counts every
five what a quorum queue tells it every five, and is asked every three.
"""
LEAST_LOOKS = 4
RATE_OVER = 30.0
"""Seconds over which the rate is taken, and the fewest that it can be told from."""
RATE_FROM = 5.0
_MOST_IDS = 20_000
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """One look. `is_empty`: and it stayed so for long enough. `says` is what is waited for, or the
    evidence; `kind` is the same without its numbers.
    """

    is_empty: bool
    says: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Held:
    """Tasks of the queue as workers show them. `strange`: running, of an unknown queue, by workers
    that consume this one; `unsure` are those that they hold and that do not run. `unheard`: of whom
    it is not known what they hold, and why.
    """

    running: tuple[Task, ...] = ()
    waiting: tuple[Task, ...] = ()
    reserved: int = 0
    strange: int = 0
    unsure: int = 0
    unheard: tuple[str, ...] = ()


class Emptying:
    """Follows a queue until it is empty."""

    def __init__(self, queue: str) -> None:
        self.countdown = 0.0
        """Seconds: the longest that a task was seen to wait for another try."""
        self._queue = queue
        self._empty_from: float | None = None
        self._looks = 0
        self._ran: OrderedDict[str, None] = OrderedDict()
        self._etas: OrderedDict[str, datetime] = OrderedDict()
        self._sizes: deque[tuple[float, int]] = deque()

    def look(self, snapshot: FleetSnapshot, since: datetime, now: float) -> Progress:
        """The next look: all that was read from `since` on; `now` is in seconds, monotonic."""
        queue = next((one for one in snapshot.queues if one.name == self._queue), None)
        held = _held(self._queue, snapshot, since)
        self._note_retries(held, snapshot.at)
        missing = tuple(self._missing(queue, held, snapshot))
        if missing:
            self._empty_from, self._looks = None, 0
            says = "; ".join(says for says, _ in missing)
            return Progress(
                False, says + self._rate(queue, now), " ".join(kind for _, kind in missing)
            )
        self._empty_from = now if self._empty_from is None else self._empty_from
        self._looks += 1
        least = QUIET_WHERE_COUNTED_LATE if snapshot.gives_back else LEAST_QUIET
        quiet, stay = now - self._empty_from, max(least, self.countdown)
        why = ", the longest countdown of a retry" if self.countdown > least else ""
        if quiet >= stay and self._looks >= LEAST_LOOKS:
            who = _by_whose_word(queue, snapshot)
            says = f"empty, nothing of it is held or runs{who}, and it stayed so for"
            says = f"{says} {as_duration(stay)}"
            return Progress(True, says + why, "empty")
        says = f"empty; watched whether it stays so for {as_duration(stay)}{why}"
        return Progress(False, says, "watched")

    def forget(self) -> None:
        """Nothing could be seen: that it was empty, and how fast it got so, is to be seen anew."""
        self._empty_from, self._looks = None, 0
        self._sizes.clear()

    def _missing(
        self, queue: Queue | None, held: _Held, snapshot: FleetSnapshot
    ) -> Iterator[tuple[str, str]]:
        """What is not zero, or not known to be; each in words, with and without numbers."""
        if queue is None or queue.ready is None:
            yield "how many wait is not known", "ready?"
        elif queue.ready:
            yield f"{queue.ready} ready", "ready"
        if queue is not None and queue.ready and queue.consumers == 0:
            paused = snapshot.pauses_of(self._queue)
            mend = f": it is paused ({paused[0].mend})" if paused else ""
            yield f"nobody consumes it now{mend}", "unconsumed"
        if snapshot.delayed and queue_word.may_be_delayed(self._queue, snapshot):
            what = counted(snapshot.delayed, "message")
            yield f"{what} in the queues for delayed delivery, for it or for others", "delayed"
        if queue is None or (queue.unacked is None and not snapshot.gives_back):
            yield "how many are held is not known", "held?"
        elif queue.unacked is None:
            yield from _by_word(queue, held, snapshot)
        elif queue.unacked or held.reserved or held.waiting:
            shown = held.reserved + len(held.waiting)
            late = sum(task.acknowledged is not True for task in held.running)
            unseen = queue.unacked - shown - late
            number = max(queue.unacked, shown)
            yield f"{number} held by workers{_of_these(held, unseen, queue, snapshot)}", "held"
        if held.running:
            yield f"{counted(len(held.running), 'task')} of it running", "running"
        if held.strange:
            what = counted(held.strange, "running task")
            yield f"{what} of which the queue cannot be told", "strange"
        if held.unheard:
            shown_names = "; ".join(held.unheard[:_MOST_NAMES])
            more = len(held.unheard) - _MOST_NAMES
            yield f"{shown_names}{f'; and {more} more' if more > 0 else ''}", "unheard"

    def _note_retries(self, held: _Held, at: datetime) -> None:
        """A task that ran, or waited for an earlier moment, and waits now, is tried again then."""
        for task in held.running:
            _remember(self._ran, task.id, None)
        for task in held.waiting:
            if task.eta is None:
                continue
            before = self._etas.get(task.id)
            is_again = task.id in self._ran if before is None else task.eta > before
            if is_again:
                self.countdown = max(self.countdown, (task.eta - at).total_seconds())
            if before != task.eta:
                _remember(self._etas, task.id, task.eta)

    def _rate(self, queue: Queue | None, now: float) -> str:
        """How fast it gets shorter, and when it is empty at that rate; empty: that is not known."""
        if queue is None or queue.ready is None or queue.unacked is None:
            self._sizes.clear()
            return ""
        size = queue.ready + queue.unacked
        self._sizes.append((now, size))
        while now - self._sizes[0][0] > RATE_OVER:
            self._sizes.popleft()
        began, before = self._sizes[0]
        seconds = now - began
        if seconds < RATE_FROM or not queue.ready:
            return ""
        rate = (before - size) / seconds
        if rate <= 0:
            return f"; it did not get shorter in {as_duration(float(round(seconds)))}"
        return f"; {rate:.1f}/s fewer, so empty in about {as_duration(float(round(size / rate)))}"


def _of_these(held: _Held, unseen: int, queue: Queue, snapshot: FleetSnapshot) -> str:
    """What is known of held messages."""
    parts = []
    if held.waiting:
        etas = [task.eta for task in held.waiting if task.eta is not None]
        last = f", the last in {as_duration(_left(max(etas), snapshot.at))}" if etas else ""
        parts.append(f"{len(held.waiting)} until their ETA{last}")
    if queue.orphans:
        parts.append(
            f"{queue.orphans} left by a dead worker: celery-ops runbook restore-orphans gives them"
            " back"
        )
    elif unseen > 0:
        told = [one.why for one in snapshot.unproven if one.queue == queue.name]
        why = told[0] if told else "just taken, held by a rate limit, or left"
        parts.append(f"{unseen} shown by no worker: {why}")
    return f" ({'; '.join(parts)})" if parts else ""


def _by_word(queue: Queue, held: _Held, snapshot: FleetSnapshot) -> Iterator[tuple[str, str]]:
    """What is held, as those say who hold it: the broker does not."""
    shown = held.reserved + len(held.waiting)
    if shown:
        yield f"{shown} held by workers{_of_these(held, 0, queue, snapshot)}, they say", "held"
    if held.unsure:
        yield f"{counted(held.unsure, 'held task')} of which the queue cannot be told", "unsure"
    for says in queue_word.unproved(queue, snapshot):
        yield says, "unproved"


def _by_whose_word(queue: Queue | None, snapshot: FleetSnapshot) -> str:
    """Who says that nothing is held, where it is not the broker."""
    if queue is None or queue.unacked is not None:
        return ""
    return f", by the word of {queue_word.consumers(queue, snapshot)}"


def _left(moment: datetime, now: datetime) -> float:
    return float(max(0, round((moment - now).total_seconds())))


def _held(queue: str, snapshot: FleetSnapshot, since: datetime) -> _Held:
    running: list[Task] = []
    waiting: list[Task] = []
    reserved = strange = unsure = 0
    unheard = []
    for worker in snapshot.workers:
        doubt = _doubt(worker, since)
        if doubt:
            unheard.append(f"{worker.name} {doubt}")
        running += _of(worker.active, queue)
        waiting += _of(worker.scheduled, queue)
        reserved += len(_of(worker.reserved, queue))
        if queue in (worker.queues or ()) and worker.active is not None:
            strange += sum(task.queue is None for task in worker.active.value)
            unsure += sum(
                task.queue is None
                for part in (worker.reserved, worker.scheduled)
                for task in (() if part is None else part.value)
            )
    if not unheard and not snapshot.complete and not snapshot.counted:
        unheard.append("somebody who listens has not answered yet")
    return _Held(tuple(running), tuple(waiting), reserved, strange, unsure, tuple(unheard))


def _of(tasks: Reading[tuple[Task, ...]] | None, queue: str) -> list[Task]:
    return [] if tasks is None else [task for task in tasks.value if task.queue == queue]


def _doubt(worker: Worker, since: datetime) -> str:
    """Why it may hold or run something that it does not show; empty: it does not."""
    if worker.state is WorkerState.STOPPED:
        return ""
    for part, what in (
        (worker.active, "runs"),
        (worker.reserved, "has reserved"),
        (worker.scheduled, "holds until its ETA"),
    ):
        if part is None or part.at < since:
            says = f": {worker.says}" if worker.says else ""
            return f"does not say what it {what} ({worker.state}{says})"
    return ""


def _remember(kept: OrderedDict[str, T], id_: str, value: T) -> None:
    """The newest are kept."""
    kept[id_] = value
    kept.move_to_end(id_)
    if len(kept) > _MOST_IDS:
        kept.popitem(last=False)
