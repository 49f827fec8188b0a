"""The Protocols through which fleet, runbook and doctor see the world.

Reads and effects are kept apart by type: a `Question` can only be asked, an `Order` changes
something and needs a `Fence`, the proof that its sender holds the context's lease. Adapters live
in `broker` and `hosts`; they translate every library error into one of `celery_ops.errors`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from celery_ops.errors import CommandFailed, StreamFailed
    from celery_ops.model import (
        ConsumedQueue,
        Heartbeat,
        HeldMessage,
        Holder,
        HostFacts,
        RunRecord,
        ServiceRef,
        ServiceStatus,
        TakenRecord,
        Targets,
        TaskMessage,
        TaskNews,
    )


class Clock(Protocol):
    """Time, so that tests need not wait for it."""

    @property
    def boot(self) -> str:
        """Which `monotonic` this is: those of one boot count the same. Empty: not known."""
        ...

    def now(self) -> datetime:
        """The wall clock: aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps and runs through a suspended machine."""
        ...

    async def sleep(self, seconds: float) -> None: ...


# --- asking -------------------------------------------------------------------------------------


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
    """One queue's size as the broker tells it. `unacked` is None where it cannot be told apart."""

    name: str
    ready: int
    unacked: int | None
    by_priority: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class QueuesReading:
    """All queues that were found. `notes` says what could not be found out."""

    at: datetime
    queues: tuple[QueueReading, ...]
    unacked: tuple[Unacked, ...] | None = None
    """Every held message, or None above the cap."""
    notes: tuple[str, ...] = ()


class Followed(Protocol):
    """One task, from now on, by what workers announce of it (if their task events are on)."""

    async def news(self, timeout: float) -> tuple[TaskNews, ...]:
        """What came since the last call, as soon as anything did; nothing after that many s."""
        ...


class Results(Protocol):
    """A result backend, to be read."""

    async def news(self, task: str) -> TaskNews | None:
        """What is stored of the task with that id, if anything is. Raise ResultsUnreachable."""
        ...


# --- changing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of holding the lease: checked by the broker in the same step as the effect."""

    token: str


@dataclass(frozen=True, slots=True)
class CancelConsumer:
    """Stop taking messages from a queue. The worker's `ok` means scheduled, not done."""

    queue: str

    @property
    def method(self) -> str:
        return "cancel_consumer"

    @property
    def arguments(self) -> dict[str, object]:
        return {"queue": self.queue}


@dataclass(frozen=True, slots=True)
class AddConsumer:
    """Consume a queue again, exactly as it was declared when it was consumed before.

    Celery passes what it does not know to `Queue.from_dict`; other arguments than the recorded ones
    end the worker on RabbitMQ (406 PRECONDITION_FAILED).
    """

    queue: ConsumedQueue

    @property
    def method(self) -> str:
        return "add_consumer"

    @property
    def arguments(self) -> dict[str, object]:
        return self.queue.add_consumer_arguments()


@dataclass(frozen=True, slots=True)
class Control:
    """Any other control command, by Celery's own name."""

    method: str
    arguments: dict[str, object] = field(default_factory=dict)


Order = CancelConsumer | AddConsumer | Control


class Broker(Protocol):
    """A message broker with the workers behind it.

    Every method may raise BrokerUnreachable. Nothing but `order`, `send`, `take`, `clear_taken`,
    `restore`, `note_run`, `break_lease` and the lease writes anything that outlives its expiry.
    """

    @property
    def address(self) -> str:
        """For people: the URL without its password."""
        ...

    @property
    def identity(self) -> str:
        """The same for every client of this broker, database and prefix; contains no secret."""
        ...

    def heartbeats(self) -> AsyncIterator[Heartbeat]:
        """Heartbeats as they come, until cancelled; ends with BrokerUnreachable, never silently."""
        ...

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        """Ask everybody (`to=None`) or some nodes, and return as soon as every expected reply
        came.

        `timeout` is in seconds and total. `known` are names that must have answered for the round
        to be complete when the broker cannot count listeners.
        """
        ...

    async def nodes(self) -> frozenset[str] | None:
        """Names bound to the control exchange, dead ones included; None where it cannot be told."""
        ...

    async def queues(self, known: Collection[str]) -> QueuesReading:
        """Sizes of the queues in `known` and of all others that can be found without `KEYS`."""
        ...

    async def ahead_of(self, message: TaskMessage) -> int | None:
        """How many messages are served before it; None if it was not found in its queue."""
        ...

    def follow(self, task: str) -> AbstractAsyncContextManager[Followed]:
        """What is announced of the task with that id, from the moment it is entered."""
        ...

    async def taken(self) -> tuple[TakenRecord, ...]: ...

    async def holder(self) -> Holder | None: ...

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        """Send a control command; raise LeaseLost, and send nothing, if the fence is not valid.

        The replies are acknowledgements: `ok` means scheduled. A missing one means unknown.
        """
        ...

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        """Put it behind all others in its queue; raise LeaseLost, and send nothing, without it."""
        ...

    async def take(self, record: TakenRecord, *, fence: Fence) -> None: ...

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        """Remove the record of that kind, worker and run; what another run has taken stays."""
        ...

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        """Give held messages back to the queues they came from, to be served next.

        Each in one step, and only while it is still held in that very delivery; in the order
        given. The caller has proved that nobody holds them. Raise LeaseLost, and give back nothing,
        if the fence is not valid.
        """
        ...

    async def note_run(self, record: RunRecord) -> None:
        """Keep it for every operator to see, in place of what was noted of that run before.

        The oldest give way to the newest; who writes needs no lease.
        """
        ...

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        """All that are kept, newest first. One that cannot be read is left out."""
        ...

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        """Take the lease from `holder` and note, in the same step, who did: `record` is its run's.

        False, and nothing is changed, if it is not that holder's any more.
        """
        ...

    @property
    def lease(self) -> Lease: ...

    async def close(self) -> None: ...


class Lease(Protocol):
    """The lock of a context. It expires by itself when its holder dies."""

    @property
    def ttl(self) -> float:
        """Seconds a lease stays valid after `acquire` or `renew`."""
        ...

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        """Raise LeaseHeld, naming the holder, if somebody else has it.

        With `takes_over` the lease of the same run by the same operator is taken from whoever held
        it: its journal's lock proves that its executor is gone.
        """
        ...

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        """Raise LeaseLost if it is no longer ours.

        `holder` is what everybody is told of it from now on. A full broker renews it, too.
        """
        ...

    async def release(self, fence: Fence) -> None:
        """Give it up; not an error if it was lost meanwhile."""
        ...


# --- hosts --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """What to run on a host: an argv (never a shell line), environment, and bytes for its stdin.

    `shown` is what people see in a plan: it contains no secret. Empty: the argv itself.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = field(default=b"", repr=False)  # a password may be in it
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. Output is bounded; `truncated` says that some is missing."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    truncated: bool = False


class Shell(Protocol):
    """One host that can run commands."""

    async def run(self, command: Command, *, timeout: float) -> Completed:
        """Run it to its end.

        Raise HostUnreachable if it could not be started or its end cannot be known; after `timeout`
        seconds its process group is ended and CommandFailed is raised.
        """
        ...

    def stream(self, command: Command) -> AsyncGenerator[bytes, None]:
        """What it prints on stdout, as it comes, until it ends or the reader closes this.

        Whoever reads slowly slows the command down: no more than some hundred kilobytes wait here.
        Close it (`contextlib.aclosing`) to end the command's process group; that raises
        HostUnreachable, after a few seconds, if a host does not tell that it is gone. Raise
        HostUnreachable if the command could not be started or the connection is lost, StreamFailed
        if it ends with anything but 0, CommandFailed if too many are followed on that host.
        """
        ...


class Supervisor(Protocol):
    """Builds commands for one kind of supervisor and reads what they print. Runs nothing itself.

    Effects are conditional: `expect` is the `ServiceStatus.identity` they were planned against; if
    another life runs meanwhile the command does nothing and `read_effect` says so.
    """

    def status(self, services: Sequence[ServiceRef]) -> Command:
        """One command that asks about several services of the same host and server."""
        ...

    def read_status(
        self, services: Sequence[ServiceRef], completed: Completed
    ) -> Mapping[ServiceRef, ServiceStatus]: ...

    def start(self, service: ServiceRef) -> Command: ...

    def stop(self, service: ServiceRef, *, expect: str | None) -> Command: ...

    def read_effect(self, service: ServiceRef, completed: Completed) -> None:
        """Return if the supervisor accepted it; raise CommandFailed with what it said if not.

        Accepted is not done: both start and stop return at once, and are proved by status.
        """
        ...

    def log(self, service: ServiceRef, *, lines: int) -> Command:
        """To be streamed: the last lines of a service's log, then what is added to it.

        Raise CommandFailed for a name that is not one service.
        """
        ...

    def read_log_end(self, service: ServiceRef, ended: StreamFailed) -> CommandFailed:
        """Why `log` ended: a sentence, and what helps."""
        ...


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process with all its descendants. `memory` in bytes, `cpu` in seconds since it began, that
    of children that have ended included; `started` tells its lives apart.
    """

    processes: int
    memory: int | None
    cpu: float
    started: int


@dataclass(frozen=True, slots=True)
class HostReading:
    """What one look at a host told: its own facts, and the process trees that were asked for."""

    facts: HostFacts
    trees: Mapping[int, ProcessTree]


class Hosts(Protocol):
    """The hosts of a context and the supervisors on them."""

    def shell(self, host: str) -> Shell: ...

    def supervisor(self, kind: str) -> Supervisor: ...

    async def arguments(self, host: str, pids: Collection[int]) -> Mapping[int, tuple[str, ...]]:
        """Command lines of processes; a pid that is gone is left out."""
        ...

    async def facts(self, host: str, pids: Collection[int]) -> HostReading:
        """How a host is doing, and what these main processes use; a pid that is gone is left out.

        Raise HostUnreachable, CommandFailed or UsageError.
        """
        ...

    async def close(self) -> None: ...


class RunLauncher(Protocol):
    """Starts the executor of a run whose journal has been written."""

    def launch(self, run: str, *, undo: bool = False) -> None:
        """Return once it runs on its own: it survives the caller, its terminal and SIGHUP.

        It begins the run, or goes on with one that was interrupted; with `undo` it takes it back.
        """
        ...
