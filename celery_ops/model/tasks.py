"""One task: as it is sent, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A task that is sent to one queue. It is not begun after it `expires`, nor before its `eta`.

    The same values are the same message, byte for byte: so it is found again by who sent it.
    `args` and `kwargs` are of JSON's types, with those that kombu marks (`__type__`) as they are.
    """

    id: str
    task: str
    queue: str
    expires: datetime | None
    origin: str
    """Who sent it, as its message tells to whoever looks at it."""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    priority: int = 0
    root: str | None = None
    """The task that began all of it; None: itself."""
    parent: str | None = None
    first: bool = False
    """It is served before what waits, by a broker that can do that."""
    tag: str = ""
    """Tells this message from every other one, also of the same task; empty: its id does."""


class TaskState(StrEnum):
    """How far a task has come; the values are Celery's own."""

    RECEIVED = "RECEIVED"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    REJECTED = "REJECTED"

    @property
    def is_end(self) -> bool:
        return self not in {TaskState.RECEIVED, TaskState.STARTED, TaskState.RETRY}


class TaskPlace(StrEnum):
    """Where a task is: waiting in its queue, held by somebody and not acknowledged, or in a worker
    that tells of it.
    """

    WAITING = "waiting"
    HELD = "held"
    RESERVED = "reserved"
    SCHEDULED = "scheduled"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class SeenTask:
    """A task where it was seen; `at` is when that was read, by our clock.

    `since`: it runs since then, or was delivered then. `ahead`: so many messages of its queue are
    served before it. `arguments` are shortened, and masked. What is not told is None.
    """

    id: str
    task: str | None
    place: TaskPlace
    at: datetime
    queue: str | None = None
    worker: str | None = None
    since: datetime | None = None
    eta: datetime | None = None
    ahead: int | None = None
    retries: int | None = None
    origin: str | None = None
    priority: int | None = None
    redelivered: bool | None = None
    sent_at: datetime | None = None
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class StoredCall:
    """What a task was called with, as a result backend keeps it of Celery's `result_extended`.

    `args` and `kwargs` are JSON values, and whole; a date and other types of kombu's are in them as
    kombu writes them, `{"__type__": …, "__value__": …}`. `routing_key` is the queue's name wherever
    the task was sent to a queue and not to an exchange.
    """

    task: str
    args: list[object] = field(repr=False)
    kwargs: dict[str, object] = field(repr=False)
    routing_key: str | None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """All that a result backend keeps of one task. `state` is Celery's word for it, or a task's
    own; empty where what is kept cannot be read, and `unreadable` says why.

    `ended` is `ended_at` as it is stored: with the task's id it names this end of it for all time.
    `call` is None where it cannot be sent again from what is stored, and `uncalled` says why.
    """

    state: str
    task: str | None = None
    worker: str | None = None
    queue: str | None = None
    retries: int | None = None
    ended_at: datetime | None = None
    error: str = ""
    traceback: str = ""
    unreadable: str = ""
    exception: str | None = None
    """The name of its type, of a failure."""
    ended: str = ""
    group: str | None = None
    call: StoredCall | None = field(default=None, repr=False)
    uncalled: str = ""


@dataclass(frozen=True, slots=True)
class TaskNews:
    """What a worker's event, or a result backend, tells of one task.

    `runtime` is in seconds; `error` is the exception's text, of a failure or a retry. `id` is the
    task's, where an event tells it.
    """

    state: TaskState
    worker: str | None = None
    runtime: float | None = None
    error: str = ""
    id: str = ""
