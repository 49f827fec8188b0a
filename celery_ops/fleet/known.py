"""What was learned of each node so far.

It remembers and does not judge: states are told in `states`.

Everything here is fed from outside (rounds, heartbeats) and asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from celery_ops.fleet import replies
from celery_ops.fleet.drain import DrainProof, DrainReading
from celery_ops.fleet.sightings import Sightings
from celery_ops.model import (
    ConsumedQueue,
    Heartbeat,
    Incarnation,
    Reading,
    RegisteredTask,
    Task,
    WorkerStats,
)
from celery_ops.ports import Question, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

T = TypeVar("T")

LOST_AFTER = 6.0
"""Seconds without a sign of life until a node is called silent, or three of its heartbeats'
intervals.
"""
STATS_TRIES = 3
DRAIN_QUESTIONS = frozenset(
    {Question.ACTIVE, Question.RESERVED, Question.ACTIVE_QUEUES, Question.STATS}
)

Answers = dict[Question, list[Reply]]


@dataclass(frozen=True, slots=True)
class Asking:
    """One round as it concerned a node: what was asked, and when on the monotonic clock."""

    questions: frozenset[Question]
    asked: float
    ended: float


@dataclass(slots=True)
class Standstill:
    """Since when (monotonic) a worker has left ready messages alone, and its `processed` all the
    while.
    """

    since: float
    processed: int
    queue: str


@dataclass(slots=True)
class KnownNode:
    """One node name and everything heard under it."""

    name: str
    mine: bool = True
    heartbeat: Reading[Heartbeat] | None = None
    goodbye_at: datetime | None = None
    stats: Reading[WorkerStats] | None = None
    consuming: Reading[tuple[ConsumedQueue, ...]] | None = None
    active: Reading[tuple[Task, ...]] | None = None
    reserved: Reading[tuple[Task, ...]] | None = None
    scheduled: Reading[tuple[Task, ...]] | None = None
    registered: Reading[tuple[RegisteredTask, ...]] | None = None
    replied_at: datetime | None = None
    missed_since: datetime | None = None
    """When the first round was asked that it has not answered since; None while it answers."""
    listens_at: datetime | None = None
    """When the broker last counted it among the listeners although it did not answer.

    A stopped process is still connected, so this is no sign of life.
    """
    unreadable: str | None = None
    doubled: bool = False
    """Two processes answered the last round under this name."""
    sightings: Sightings = field(default_factory=Sightings)
    rounds_of_pong_only: int = 0
    stats_tries: int = STATS_TRIES
    registered_tries: int = STATS_TRIES
    consumed_before: tuple[ConsumedQueue, ...] = ()
    """What this incarnation consumed when it last consumed anything."""
    drain: DrainProof | None = None
    standstill: Standstill | None = None
    _raw_consumed: object = None

    # --- what follows from it ---

    @property
    def pid(self) -> int | None:
        """Of the newest of stats and heartbeat."""
        stats, beat = self.stats, self.heartbeat
        if stats is None or (
            beat is not None
            and beat.at > stats.at
            and beat.value.online
            and beat.value.pid is not None
        ):
            return beat.value.pid if beat is not None else None
        return stats.value.pid

    @property
    def incarnation(self) -> Incarnation | None:
        if self.stats is None or self.stats.value.started_at is None:
            return None
        return Incarnation(self.name, self.stats.value.pid, self.stats.value.started_at)

    @property
    def processed(self) -> int | None:
        """The newest count of tasks of this life."""
        stats, beat = self.stats, self.heartbeat
        if beat is not None and (stats is None or beat.at > stats.at):
            return beat.value.processed
        return stats.value.processed if stats is not None else None

    @property
    def seen_at(self) -> datetime | None:
        """The last sign of life; a goodbye is one."""
        beat_at = self.heartbeat.at if self.heartbeat is not None else None
        signs = (self.replied_at, beat_at)
        return max((sign for sign in signs if sign is not None), default=None)

    @property
    def lost_after(self) -> timedelta:
        interval = self.heartbeat.value.interval if self.heartbeat is not None else 0.0
        return timedelta(seconds=max(LOST_AFTER, 3 * min(interval, 60.0)))

    @property
    def is_answering(self) -> bool:
        return self.replied_at is not None and self.missed_since is None

    @property
    def is_scheduler(self) -> bool:
        """Since Celery 5.7 a beat may answer ping, and ping only.

        What has no stats is no worker.
        """
        if self.stats is not None or self.heartbeat is not None:
            return False
        return self.rounds_of_pong_only >= (1 if self.name.startswith("celerybeat@") else 2)

    @property
    def wants_stats(self) -> bool:
        is_there = self.is_answering or self.heartbeat is not None
        return is_there and self.stats_tries > 0 and self.unreadable is None

    @property
    def may_be_drained(self) -> bool:
        """It consumes nothing, so its stats belong to every round: they are part of the proof."""
        return self.is_answering and self.consuming is not None and not self.consuming.value

    @property
    def wants_registered(self) -> bool:
        wanted = self.registered is None and self.registered_tries > 0
        can_tell = self.is_answering and self.unreadable is None and not self.doubled
        return wanted and can_tell and not self.is_scheduler

    def is_beating(self, now: datetime) -> bool:
        """Its heartbeats came within the last three intervals."""
        beat = self.heartbeat
        return beat is not None and beat.value.online and now - beat.at < self.lost_after

    def rival_pids(self, now: datetime) -> tuple[int, ...]:
        """Pids that are alive side by side under this name."""
        return self.sightings.rivals(now, self.lost_after)

    # --- what is fed in ---

    def hear(self, heartbeat: Heartbeat, at: datetime) -> None:
        if not heartbeat.online:
            self.goodbye_at = at
            self.heartbeat = Reading(heartbeat, at)
            if heartbeat.pid is not None:
                self.sightings.forget(heartbeat.pid)
            return
        if self._tells_of_a_new_life(heartbeat):
            self.stats_tries = STATS_TRIES
            if self.missed_since is not None and self.stats is not None:
                # The new life has not been asked yet: the silence was its predecessor's.
                self.missed_since = at
        self.goodbye_at = None
        self.heartbeat = Reading(heartbeat, at)
        self._sight(heartbeat.pid, at)

    def miss(self, asked_at: datetime) -> None:
        """It was asked and did not answer at all."""
        if self.missed_since is None:
            self.missed_since = asked_at
        self.doubled = False
        self.drain = None
        self.standstill = None
        self.stats_tries = max(0, self.stats_tries - 1)

    def learn(self, given: Answers, asking: Asking) -> None:
        """What it answered to a round. What it was asked and did not tell is unknown from now on.

        Stats and registered tasks are kept: they are facts of an incarnation, not of a moment.
        """
        everything = [reply for answers in given.values() for reply in answers]
        if self.missed_since is not None or self.replied_at is None or self.goodbye_at is not None:
            self.stats_tries = STATS_TRIES
        self.replied_at = max(reply.at for reply in everything)
        self.missed_since = None
        self.listens_at = None
        if self.goodbye_at is not None and self.goodbye_at < self.replied_at:
            self.goodbye_at = None
        self.doubled = _is_doubled(given)
        refused = [reply.unreadable for reply in everything if reply.unreadable is not None]
        self.unreadable = refused[0] if len(refused) == len(everything) else None
        self._learn_kind(given, asking.questions)
        self._learn_stats(given.get(Question.STATS, ()), asking.questions)
        self._learn_parts(given, asking.questions)
        self._learn_drain(given, asking)

    def note_standstill(self, at: float, ready: Mapping[str, int]) -> None:
        """Keep count of how long it leaves ready messages alone.

        `ready` is of queues with messages.
        """
        waiting = next(
            (queue.name for queue in self._consumed() if ready.get(queue.name, 0) > 0), None
        )
        idle = self.is_answering and self.active is not None and not self.active.value
        processed = self.processed
        if waiting is None or not idle or processed is None:
            self.standstill = None
        elif self.standstill is None or self.standstill.processed != processed:
            self.standstill = Standstill(at, processed, waiting)
        else:
            self.standstill.queue = waiting

    # --- in detail ---

    def _consumed(self) -> tuple[ConsumedQueue, ...]:
        return self.consuming.value if self.consuming is not None else ()

    def _tells_of_a_new_life(self, heartbeat: Heartbeat) -> bool:
        if self.stats is None or self.goodbye_at is not None:
            return True
        if heartbeat.pid is not None and heartbeat.pid != self.stats.value.pid:
            return True
        before = self.heartbeat.value.processed if self.heartbeat is not None else None
        return (
            before is not None and heartbeat.processed is not None and heartbeat.processed < before
        )

    def _sight(self, pid: int | None, at: datetime) -> None:
        if pid is not None:
            self.sightings.add(pid, at, self.lost_after)

    def _learn_kind(self, given: Answers, asked: frozenset[Question]) -> None:
        if set(given) != {Question.PING}:
            self.rounds_of_pong_only = 0
        elif len(asked) > 1:
            self.rounds_of_pong_only += 1

    def _learn_stats(self, answers: Sequence[Reply], asked: frozenset[Question]) -> None:
        if Question.STATS not in asked:
            return
        self.stats_tries = max(0, self.stats_tries - 1)
        for reply in answers:
            before = self.stats.value if self.stats is not None else None
            read = replies.stats(reply, before=before)
            if read is None:
                continue
            if before is None or (before.pid, before.started_at) != (read.pid, read.started_at):
                self._begin_new_life()
            self.stats = Reading(read, reply.at)
            self.stats_tries = 0
            self._sight(read.pid, reply.at)

    def _begin_new_life(self) -> None:
        self.registered = None
        self.registered_tries = STATS_TRIES
        self.consumed_before = ()
        self.drain = None
        self.standstill = None

    def _learn_parts(self, given: Answers, asked: frozenset[Question]) -> None:
        if Question.ACTIVE in asked:
            self.active = _reading(given, Question.ACTIVE, replies.tasks)
        if Question.RESERVED in asked:
            self.reserved = _reading(given, Question.RESERVED, replies.tasks)
        if Question.SCHEDULED in asked:
            self.scheduled = _reading(given, Question.SCHEDULED, replies.scheduled)
        if Question.ACTIVE_QUEUES in asked:
            self._learn_consuming(given)
        if Question.REGISTERED in asked:
            read = _reading(given, Question.REGISTERED, replies.registered)
            self.registered = read or self.registered

    def _learn_consuming(self, given: Answers) -> None:
        # Declarations hardly ever change; writing a thousand of them anew each second is not free.
        answers = given.get(Question.ACTIVE_QUEUES)
        if answers and self.consuming is not None and answers[-1].value == self._raw_consumed:
            self.consuming = Reading(self.consuming.value, answers[-1].at)
        else:
            self.consuming = _reading(given, Question.ACTIVE_QUEUES, replies.consumed)
            self._raw_consumed = answers[-1].value if answers else None
        if self.consuming is not None and self.consuming.value:
            self.consumed_before = self.consuming.value

    def _learn_drain(self, given: Answers, asking: Asking) -> None:
        """Only a round that asked everything can go on with the proof; a lesser one can end it."""
        if not asking.questions & DRAIN_QUESTIONS - {Question.STATS}:
            return
        if self._consumed():
            self.drain = None
            return
        has_stats = Question.STATS in given
        reading = DrainReading(
            asked=asking.asked,
            ended=asking.ended,
            incarnation=self.incarnation if has_stats else None,
            consuming=_names(self.consuming),
            active=_number(self.active),
            reserved=_number(self.reserved),
            processed=self._stats_processed() if has_stats else None,
        )
        if asking.questions >= DRAIN_QUESTIONS:
            self.drain = (self.drain or DrainProof()).after(reading)
        elif self.drain is None or reading.active or reading.reserved:
            self.drain = DrainProof(obstacles=reading.without_stats or DrainProof().obstacles)

    def _stats_processed(self) -> int | None:
        return self.stats.value.processed if self.stats is not None else None


def answers_by_node(
    given: Mapping[Question, Collection[Reply]],
) -> dict[str, Answers]:
    """A round's replies, sorted by who gave them."""
    found: dict[str, Answers] = {}
    for question, answers in given.items():
        for reply in answers:
            found.setdefault(reply.node, {}).setdefault(question, []).append(reply)
    return found


def _is_doubled(given: Answers) -> bool:
    """Two answers of one node to one question come from two processes.

    Equal stats are the exception: they carry clocks and counters, so they are one answer delivered
    twice.
    """
    stats = given.get(Question.STATS, [])
    if len(stats) > 1:
        return any(reply.value != stats[0].value for reply in stats[1:])
    return any(len(answers) > 1 for answers in given.values())


def _reading(
    given: Answers, question: Question, parse: Callable[[Reply], T | None]
) -> Reading[T] | None:
    answers = given.get(question)
    if not answers:
        return None
    parsed = parse(answers[-1])
    return None if parsed is None else Reading(parsed, answers[-1].at)


def _number(tasks: Reading[tuple[Task, ...]] | None) -> int | None:
    return None if tasks is None else len(tasks.value)


def _names(queues: Reading[tuple[ConsumedQueue, ...]] | None) -> tuple[str, ...] | None:
    return None if queues is None else tuple(queue.name for queue in queues.value)
