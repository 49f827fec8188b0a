"""What can be asked of a fleet, and the answers. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from datetime import datetime

    from celery_ops.model import StoredResult, TaskNews


class Question(StrEnum):
    """Control methods that change nothing in a worker. The value is Celery's own name."""

    PING = "ping"
    STATS = "stats"
    ACTIVE = "active"
    RESERVED = "reserved"
    SCHEDULED = "scheduled"
    ACTIVE_QUEUES = "active_queues"
    REGISTERED = "registered"
    CONF = "conf"
    REVOKED = "revoked"

    @property
    def is_of_the_fleet(self) -> bool:
        """Its answers are part of every picture of the fleet; those of others are asked for."""
        return self not in {Question.CONF, Question.REVOKED}


@dataclass(frozen=True, slots=True)
class Reply:
    """One node's raw answer. Exactly one of `value`, `error`, `unreadable` tells.

    `error` is the worker's own error text; `unreadable` names a content type we refuse to load.
    """

    node: str
    at: datetime
    value: object = None
    error: str | None = None
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """All that was answered to some questions that were asked at once.

    `replies[question]` is in order of arrival and keeps duplicates: two of one node are two
    processes under one name. `expected` is how many nodes were listening, where the broker can
    tell.
    """

    asked_at: datetime
    ended_at: datetime
    replies: Mapping[Question, tuple[Reply, ...]]
    expected: int | None
    complete: bool
    """Every expected reply came; False: the deadline came first."""
    unasked: str = ""
    """Why nobody could be asked at all: then nothing is known of any worker."""


@dataclass(frozen=True, slots=True)
class Unacked:
    """A message that a consumer holds: `tag` is the broker's name for this delivery."""

    tag: str
    task_id: str | None
    queue: str | None
    since: datetime
    task: str | None = None


class GivenBack(StrEnum):
    """What came of giving a held message back.

    `GONE`: it is not held in that delivery any more: acknowledged, given back by somebody else, or
    delivered again. `UNROUTABLE`: the one queue it came from cannot be told, or it is no message.
    """

    DONE = "done"
    GONE = "gone"
    UNROUTABLE = "unroutable"


@dataclass(frozen=True, slots=True)
class QueueReading:
    """One queue's size as the broker tells it. `unacked` is None where it cannot be told apart.

    `consumers` is how many the broker counts, whoever they are; None where it does not count.
    """

    name: str
    ready: int
    unacked: int | None
    by_priority: tuple[tuple[int, int], ...] = ()
    bytes: int | None = None
    """Memory of the ready ones, about; None where it was not looked at."""
    heads: tuple[str, ...] | None = None
    """Which message is served next, one a priority step: the same text is the same message."""
    consumers: int | None = None


@dataclass(frozen=True, slots=True)
class QueuesReading:
    """All queues that were found. `notes` says what could not be found out."""

    at: datetime
    queues: tuple[QueueReading, ...]
    unacked: tuple[Unacked, ...] | None = None
    """Every held message, or None where that is not told, or above the cap."""
    notes: tuple[str, ...] = ()
    keeps_held: bool = True
    """What a consumer held stays held when it dies; False: the broker gives it back by itself."""
    unlisted: str = ""
    """Why there may be queues that nobody named and that were not found; empty: all were."""
    delayed: int | None = None
    """Messages in the broker's own queues for delayed delivery, of all queues together; None: not
    known.
    """
    beat_lock: float | None = None
    """Seconds for which RedBeat's lock is held still; None: none is seen there."""


class Followed(Protocol):
    """Tasks, from now on, by what workers announce of them (if their task events are on)."""

    async def news(self, timeout: float) -> tuple[TaskNews, ...]:
        """What came since the last call, as soon as anything did; nothing after that many s."""
        ...


class Results(Protocol):
    """A result backend, to be read."""

    async def news(self, task: str) -> TaskNews | None:
        """What is stored of the task with that id, if anything is. Raise ResultsUnreachable."""
        ...

    async def stored(self, task: str) -> StoredResult | None:
        """All that is stored of it; None: nothing is. Raise ResultsUnreachable."""
        ...

    async def stored_of(self, tasks: Sequence[str]) -> dict[str, StoredResult]:
        """The same of several, by their ids; one that nothing is stored of is missing."""
        ...

    def all_stored(self) -> AsyncGenerator[dict[str, StoredResult], None]:
        """What is stored of every task, by their ids, in portions and in no order. One that ends
        meanwhile may be told twice. Close it (`contextlib.aclosing`). Raise ResultsUnreachable.
        """
        ...
