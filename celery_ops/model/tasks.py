"""One task: as it is sent, and what is told of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A task without arguments that is sent to one queue. It is not begun after it `expires`.

    The same values are the same message, byte for byte: so it is found again by who sent it.
    """

    id: str
    task: str
    queue: str
    expires: datetime
    origin: str
    """Who sent it, as its message tells to whoever looks at it."""


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


@dataclass(frozen=True, slots=True)
class TaskNews:
    """What a worker's event, or a result backend, tells of one task.

    `runtime` is in seconds; `error` is the exception's text, of a failure or a retry.
    """

    state: TaskState
    worker: str | None = None
    runtime: float | None = None
    error: str = ""
