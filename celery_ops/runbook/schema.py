"""A runbook as it was read: typed, checked, and without any behaviour.

The steps are closed unions: a new verb fails the type check wherever it is not handled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from celery_ops.config.units import Count
from celery_ops.runbook.release_steps import ActivateStep, WatchStep
from celery_ops.runbook.roll_words import Offline, OnFail, Order
from celery_ops.runbook.task_steps import (
    HoldStep,
    ReleaseStep,
    RetryStep,
    RevokeStep,
    SieveStep,
)

if TYPE_CHECKING:
    from celery_ops.config.document import Place
    from celery_ops.runbook.expressions import Condition

T = TypeVar("T")


class Risk(StrEnum):
    """How much a runbook can hurt. `HIGH` asks for the context's name."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ParamType(StrEnum):
    """What a parameter may be. `WORKERS` is a selector, `COUNT` a number or a percentage.

    `previous` for a `RELEASE` becomes a name when the plan is made.
    """

    WORKERS = "workers"
    COUNT = "count"
    DURATION = "duration"
    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    RELEASE = "release"


Value = Count | float | int | bool | str
"""What a parameter is worth: durations are seconds (float), workers and text are str."""


@dataclass(frozen=True, slots=True)
class Param:
    """A declared parameter. `default` is None where the operator has to say it."""

    name: str
    type: ParamType
    default: Value | None
    help: str
    place: Place


@dataclass(frozen=True, slots=True)
class Reference:
    """`${{ params.batch }}`: stands alone for a value and keeps its type."""

    path: tuple[str, ...]
    place: Place

    def __str__(self) -> str:
        return "${{ " + ".".join(self.path) + " }}"


@dataclass(frozen=True, slots=True)
class Constant(Generic[T]):
    """A value written out in the file."""

    value: T


Slot = Constant[T] | Reference
"""A value that is written out or referred to; a reference was checked to have the type T."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text for people, with references in it; these are shown as people write them (`25%`,
    `10m`).
    """

    parts: tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a step that failed is tried again; the pause (seconds) doubles each time."""

    times: Slot[int]
    pause: Slot[float]


NO_RETRIES = Retries(Constant(0), Constant(0.0))
ANY_RUN = "*"
DEFAULT_SILENCE = 5.0
OTHERS_REFUSED, OTHERS_IGNORED = "refuse", "ignore"


class OnTimeout(StrEnum):
    """What a drain does whose tasks do not end in time."""

    FAIL = "fail"
    DEFER = "defer"
    """Its queues are given back, and it has its turn again after all the others."""
    PROCEED = "proceed"

    @property
    def never_cuts_off(self) -> bool:
        """Whatever the drain is followed by, no running task is cut off."""
        return self is not OnTimeout.PROCEED


class WorkerVerb(StrEnum):
    """What can be done to a worker."""

    DRAIN = "drain"
    RESUME = "resume"
    STOP = "stop"
    START = "start"
    RESTART = "restart"

    @property
    def takes_capacity(self) -> bool:
        """The worker stops consuming for a while, or for good: the guard is asked first."""
        return self in {WorkerVerb.DRAIN, WorkerVerb.STOP, WorkerVerb.RESTART}


@dataclass(frozen=True, slots=True)
class CurrentWorker:
    """The word `worker` inside a roll: the target whose turn it is."""


@dataclass(frozen=True, slots=True)
class WorkerStep:
    """`drain: worker`, `restart: ${{ params.workers }}` …; `timeout` in seconds. `keep_available`
    is for a step outside of a roll; None: the parameter of that name. A stop `for_good` lasts when
    the host boots again; a drain that `passes_over` does not wait for who cannot be asked.
    """

    id: str
    verb: WorkerVerb
    target: CurrentWorker | Slot[str]
    timeout: Slot[float]
    on_timeout: OnTimeout
    when: Condition | None
    place: Place
    retries: Retries = NO_RETRIES
    keep_available: Slot[Count] | None = None
    for_good: bool = False
    passes_over: bool = False


@dataclass(frozen=True, slots=True)
class WaitStep:
    """Nothing is done until a condition holds; failing to is a failure."""

    id: str
    what: Text
    until: Condition
    timeout: Slot[float]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class CheckStep:
    """A condition that must hold now."""

    id: str
    that: Condition
    message: Text | None
    when: Condition | None
    place: Place
    retries: Retries = NO_RETRIES


@dataclass(frozen=True, slots=True)
class DoctorStep:
    """None of these rules may find anything about the targets. Preflight only."""

    id: str
    rules: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class ConfirmStep:
    """Asks the operator before anything is changed."""

    id: str
    question: Text
    place: Place


@dataclass(frozen=True, slots=True)
class RunStep:
    """An argv on a host: the current worker's (`on` is CurrentWorker) or a named one.

    `takes_worker` says that it takes the current worker's capacity away, and is guarded for it.
    `once_per_host`: once in the whole roll for all targets of a host.
    """

    id: str
    argv: tuple[Text, ...]
    env: tuple[tuple[str, Text], ...]
    on: CurrentWorker | Slot[str]
    timeout: Slot[float]
    takes_worker: bool
    undo: tuple[Text, ...]
    when: Condition | None
    place: Place
    retries: Retries = NO_RETRIES
    once_per_host: bool = False


@dataclass(frozen=True, slots=True)
class Verify:
    """What must be seen of each target after its steps, and for how long it must stay so."""

    that: tuple[Condition, ...]
    hold: Slot[float]
    timeout: Slot[float]
    place: Place


@dataclass(frozen=True, slots=True)
class RestoreStep:
    """`restore: orphans`: messages of dead workers go back to their queues.

    `queue` and `vouched` are globs, separated by commas; `older_than` is in seconds.
    """

    id: str
    queue: Slot[str]
    older_than: Slot[float]
    vouched: Slot[str]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class BeatStep:
    """`stop: beat`, `start: beat`, `restart: beat`: every scheduler that is configured as a
    service. What is stopped is recorded, and just that is started again; with `owed_by`, a glob,
    what these earlier runs have stopped. For `silence` seconds it is watched who sends; `others`,
    which are not configured or would be second senders, are refused or ignored. There may be none
    if it is `optional`; an `Offline` says what is done about unknown ones, and `gives_back` whether
    a run that ends in between starts it.
    """

    id: str
    verb: WorkerVerb
    timeout: Slot[float]
    when: Condition | None
    place: Place
    owed_by: Slot[str] = Constant(ANY_RUN)
    silence: Slot[float] = Constant(DEFAULT_SILENCE)
    others: Slot[str] = Constant(OTHERS_REFUSED)
    offline: Slot[str] = Constant(Offline.FAIL)
    optional: bool = False
    gives_back: bool = True
    forgets: Slot[str] | None = None
    """`forget: NAMES`, with commas between them: those are owed their start no more. Then nothing
    is started.
    """


@dataclass(frozen=True, slots=True)
class NotifyStep:
    """An argv on the operator's own machine, to tell somebody. Its failure fails nothing."""

    id: str
    argv: tuple[Text, ...]
    env: tuple[tuple[str, Text], ...]
    when: Condition | None
    place: Place


Argument = Text | bool | int | float | None | tuple["Argument", ...]
"""An argument of a control command: text with references in it, or as JSON has it."""


@dataclass(frozen=True, slots=True)
class ControlStep:
    """Any control command, by Celery's own name, directed at its targets and never at everybody.

    Nothing proves what it does but the replies: a `wait` or a `verify` after it does.
    """

    id: str
    method: str
    arguments: tuple[tuple[str, Argument], ...]
    target: CurrentWorker | Slot[str]
    timeout: Slot[float]
    takes_worker: bool
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class ScaleStep:
    """`scale: worker`: the pool grows or shrinks `to` so many processes, or `by` so many."""

    id: str
    target: CurrentWorker | Slot[str]
    to: Slot[int] | None
    by: Slot[int] | None
    timeout: Slot[float]
    when: Condition | None
    place: Place


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """The context's probe task is sent to each of these queues, and its end is proved; of the
    current worker, that it runs one.

    A text may name several queues, separated by commas; `configured` stands for the context's own,
    `consumed` for all that our workers consume. `timeout` in seconds; None: the context's. An
    `optional` one is left out where there is none; one that is `first` goes before what waits.
    """

    id: str
    queues: tuple[Slot[str], ...] | CurrentWorker
    timeout: Slot[float] | None
    when: Condition | None
    place: Place
    optional: bool = False
    first: bool = False
    priorities: Slot[bool] = Constant(value=False)  # also in which order they are served


class QueueVerb(StrEnum):
    """What can be done to a queue's messages and consumers."""

    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    BACKUP = "backup"
    PARK = "park"
    UNPARK = "unpark"
    MOVE = "move"
    PURGE = "purge"
    RESTORE = "restore"
    RETURN = "return"
    UNWRAP = "unwrap"


@dataclass(frozen=True, slots=True)
class QueueStep:
    """`move: mail`, `drain: queue`, `restore: backup` …; what a verb has no key for is None.

    `to` is the queue that messages go to, `rate` how many at most in which time (`100/s`), `filter`
    and `limit` which of them; `file` is that of a backup, which is restored once, and once more for
    each name that `again` gives. Empty texts, and a limit of 0, are as none. What the runs
    `owed_by`, a glob, have paused is resumed.
    """

    id: str
    verb: QueueVerb
    queue: Slot[str] | None
    to: Slot[str] | None
    file: Text | None
    filter: Condition | Reference | None
    limit: Slot[int] | None
    rate: Slot[str] | None
    timeout: Slot[float] | None
    when: Condition | None
    place: Place
    again: Slot[str] | None = None
    owed_by: Slot[str] = Constant(ANY_RUN)
    fields: tuple[tuple[str, Slot[str]], ...] = ()
    """Where a wrapper has the fields of its original: `task`, `id`, `args`, `kwargs`, `queue`."""


InnerStep = (
    WorkerStep
    | WaitStep
    | CheckStep
    | RunStep
    | ControlStep
    | ScaleStep
    | ProbeStep
    | ActivateStep
    | WatchStep
)


@dataclass(frozen=True, slots=True)
class Roll:
    """Takes workers through its steps in batches.

    `running` is how many of them are to run afterwards: where it starts some, as many of the
    stopped ones as that takes; else as many of the running ones as are too many.
    """

    id: str
    workers: Slot[str]
    order: Order
    canary: Slot[int]
    batch: Slot[Count]
    keep_available: Slot[Count]
    max_failed: Slot[int]
    settle: Slot[float]
    on_fail: OnFail
    offline: Slot[str]
    steps: tuple[InnerStep, ...]
    verify: Verify
    place: Place
    when: Condition | None = None
    running: Slot[int] | None = None

    @property
    def for_good(self) -> bool:
        """What it takes does not come back."""
        return any(isinstance(step, WorkerStep) and step.for_good for step in self.steps)

    @property
    def starts(self) -> bool:
        """Its first effect on a worker is to start it."""
        verbs = [step.verb for step in self.steps if isinstance(step, WorkerStep)]
        return verbs[:1] == [WorkerVerb.START]


Step = (
    WorkerStep
    | WaitStep
    | CheckStep
    | ConfirmStep
    | RunStep
    | ControlStep
    | ScaleStep
    | BeatStep
    | RestoreStep
    | RevokeStep
    | RetryStep
    | HoldStep
    | SieveStep
    | ReleaseStep
    | ProbeStep
    | QueueStep
    | ActivateStep
    | WatchStep
    | NotifyStep
    | Roll
)
Other = (
    RestoreStep | RevokeStep | RetryStep | HoldStep | SieveStep | ReleaseStep | QueueStep
    | ActivateStep
)  # fmt: skip
"""What is not meant for workers that are chosen by name."""
PreflightStep = CheckStep | DoctorStep
FinalStep = CheckStep | NotifyStep


@dataclass(frozen=True, slots=True)
class Runbook:
    """One file. `source` is its text, so that a run can keep what it was planned from."""

    name: str
    summary: str
    risk: Risk
    params: tuple[Param, ...]
    preflight: tuple[PreflightStep, ...]
    steps: tuple[Step, ...]
    finally_: tuple[FinalStep, ...]
    file: str
    source: str

    @property
    def changes(self) -> bool:
        """False for a runbook that only reads."""
        changes = (
            RestoreStep | RevokeStep | RetryStep | HoldStep | SieveStep | ReleaseStep | BeatStep
            | ProbeStep | QueueStep | ActivateStep
        )  # fmt: skip
        return self.may_take_workers or any(
            isinstance(step, changes) and getattr(step, "verb", None) is not QueueVerb.BACKUP
            for step in self.steps
        )

    @property
    def may_take_workers(self) -> bool:
        """It acts on workers, so a queue may be left without a consumer."""
        acts = WorkerStep | RunStep | ControlStep | ScaleStep | Roll
        return any(isinstance(step, acts) for step in self.steps)
