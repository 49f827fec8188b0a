"""What a fleet consists of: frozen values, no behaviour but derivation, no I/O.

Unknown is `None`, never zero and never an empty tuple. What a worker told us is a `Reading`: the
value together with the moment it was read, so that its age can always be shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from celery_ops.machine import HostFacts, Restarts, Retry, Usage

T = TypeVar("T")

INCARNATION_TOLERANCE = timedelta(seconds=2)
"""`stats.uptime` is rounded to whole seconds, so a computed start may move by this much."""


class WorkerState(StrEnum):
    """What is known of a worker, joined from its replies, its heartbeats and its supervisor."""

    ONLINE = "online"
    DRAINING = "draining"
    DRAINED = "drained"
    STOPPING = "stopping"
    STALLED = "stalled"
    SILENT = "silent"
    STOPPED = "stopped"
    CONFLICT = "conflict"
    UNREADABLE = "unreadable"


class ServiceState(StrEnum):
    """A supervisor's own verdict, in one vocabulary for all supervisors."""

    RUNNING = "running"
    STARTING = "starting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Level(StrEnum):
    """How bad a finding is. `ERROR`: tasks are lost or not processed, now or at the next change."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A value and when it was read (UTC, aware)."""

    value: T
    at: datetime

    def age(self, now: datetime) -> float:
        """Seconds since it was read, never negative."""
        return max(0.0, (now - self.at).total_seconds())


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a worker process. A pid alone proves nothing: SIGHUP and containers keep it."""

    node: str
    pid: int
    started_at: datetime

    def same_life_as(self, other: Incarnation) -> bool:
        """Same node, same pid, and starts that differ by no more than the rounding of `uptime`."""
        return (
            self.node == other.node
            and self.pid == other.pid
            and abs(self.started_at - other.started_at) <= INCARNATION_TOLERANCE
        )


@dataclass(frozen=True, slots=True)
class ConsumedQueue:
    """A queue as a worker says it consumes it.

    `declaration` is the canonical JSON of the worker's own `active_queues` entry (exchange, routing
    key, arguments, priority): giving a queue back with anything else kills the worker on RabbitMQ.
    """

    name: str
    declaration: str

    def add_consumer_arguments(self) -> dict[str, object]:
        """The arguments of Celery's `add_consumer` that bring this queue back as it was.

        Celery hands what it does not know to `kombu.Queue.from_dict`, which since kombu 5.7 reads
        every attribute of a queue and before that the older ones.
        """
        declaration = json.loads(self.declaration)
        exchange = declaration.pop("exchange", None) or {}
        for key in ("name", "bindings", "on_declared"):
            declaration.pop(key, None)
        arguments: dict[str, object] = {
            **declaration,
            "queue": self.name,
            "exchange": exchange.get("name") or None,
            "exchange_type": exchange.get("type") or "direct",
            "exchange_durable": exchange.get("durable"),
            "exchange_auto_delete": exchange.get("auto_delete"),
            "exchange_arguments": exchange.get("arguments"),
        }
        return {key: value for key, value in arguments.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Task:
    """A task a worker holds. `args` is a shortened representation, shown as text and never
    evaluated.
    """

    id: str
    name: str
    args: str
    queue: str | None
    started_at: datetime | None
    eta: datetime | None
    acknowledged: bool | None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What every worker announces by itself every two seconds, even without `-E`."""

    node: str
    pid: int | None
    active: int | None
    processed: int | None
    load: float | None
    version: str | None
    interval: float
    online: bool
    """False for `worker-offline`, which a worker sends when it *begins* to stop."""


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """The part of a `stats` reply that is used. `processed` counts all tasks of this life."""

    pid: int
    started_at: datetime | None
    pool: str | None
    concurrency: int | None
    prefetch: int | None
    processed: int | None
    pool_pids: tuple[int, ...]
    autoscale: tuple[int, int] | None
    visibility_timeout: float | None
    """Seconds, as the worker's own transport options say; None if they do not."""


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """A task a worker can run. An option is None where the worker did not tell it."""

    name: str
    rate_limit: str | None
    acks_late: bool | None
    batched: bool = False
    """Its messages are gathered before they run, as celery-batches does."""

    @property
    def may_hide(self) -> bool:
        """A worker may hold its messages without telling: no control reply has them."""
        return self.rate_limit is not None or self.batched


@dataclass(frozen=True, slots=True)
class ServiceRef:
    """What a supervisor runs on a host, as configured.

    `worker` is the node name expected there (`%h` already replaced), `beat` says it is a scheduler,
    `server` is where the supervisor listens if not at its usual place.
    """

    host: str
    supervisor: str
    name: str
    worker: str | None = None
    beat: bool = False
    server: str | None = None

    def __str__(self) -> str:
        return f"{self.supervisor} {self.name} on {self.host}"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What a supervisor says of one service, and what it would do to its tasks.

    `identity` is the supervisor's own name for this life of the process (InvocationID, `start`,
    StartedAt). `clean_exit` tells of the last stop: None while running or when it cannot be known.
    """

    state: ServiceState
    pid: int | None
    identity: str | None
    started_at: datetime | None
    clean_exit: bool | None
    says: str
    stop_grace: float | None = None
    """Seconds between the stop signal and SIGKILL. None: not known, or SIGKILL never comes."""
    restarts_itself: bool | None = None
    """Started again whenever it ends, cleanly or not (`Restart=always`, `autorestart=true`)."""
    signals_children: bool | None = None
    """The stop signal reaches the pool's children too: running tasks are lost (FACTS: even
    acks_late).
    """
    stop_signal: str | None = None
    startable: bool | None = None
    """False: once stopped it cannot be started again (masked, its definition gone or broken)."""
    arguments: tuple[str, ...] | None = None
    """The main process's command line, where its host could be asked."""
    restarts: int | None = None
    """How often its supervisor started it again unasked, since it was last told to start it."""
    retry: Retry | None = None
    """Set where it ended though it should run, by what its supervisor does about that."""


@dataclass(frozen=True, slots=True)
class Service:
    """A configured service and the last reading of its status; None: never answered."""

    ref: ServiceRef
    status: Reading[ServiceStatus] | None
    error: str | None = None
    usage: Reading[Usage] | None = None
    """Of the process that `status` names; None where its host did not tell."""
    restarted: Restarts | None = None
    """Within the last minutes, as far as somebody watched."""

    @property
    def state(self) -> ServiceState:
        """What its supervisor said last; UNKNOWN if it never answered."""
        return self.status.value.state if self.status is not None else ServiceState.UNKNOWN


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """An unacknowledged message. `tag` and `since` name one delivery; the tag stays at the next."""

    tag: str
    task_id: str | None
    task: str | None
    queue: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class Unproven:
    """Messages that no worker shows, and that somebody may hold nevertheless: `why` says who.

    `vouch_for` are the nodes of which an operator would have to know that they are gone; empty
    where nobody's word can stand for a proof. `settles`: looking again will tell, so it is no
    finding yet. `expected`: it is usual, as with a rate limit.
    """

    queue: str | None
    messages: tuple[HeldMessage, ...]
    why: str
    vouch_for: tuple[str, ...] = ()
    settles: bool = False
    expected: bool = False


@dataclass(frozen=True, slots=True)
class TakenRecord:
    """What a run took from a worker and owes back; kept in the broker, so every operator can see
    it.

    `kind` is `queues` (consumers cancelled: `queues` says which), or `service` (stopped:
    `service` says which). A new incarnation of the worker is owed no queues.
    """

    kind: str
    worker: str
    incarnation: Incarnation | None
    queues: tuple[ConsumedQueue, ...]
    service: ServiceRef | None
    run: str
    operator: str
    at: datetime

    @property
    def key(self) -> str:
        """The field it is stored under: one record a kind and worker."""
        return f"{self.kind}:{self.worker}"

    @property
    def what(self) -> str:
        """What was taken, in words: `queues default, mail`, `stopped (supervisord w1 on web1)`."""
        if self.kind == "service":
            return f"stopped ({self.service})"
        return f"queues {', '.join(queue.name for queue in self.queues) or '(none)'}"

    @property
    def mend(self) -> str:
        """The command that gives it back."""
        verb = "start" if self.kind == "service" else "resume"
        return f"celery-ops worker {verb} {self.worker}"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a context's lease: the operator (`user@machine`), the run, what it runs, since
    when.
    """

    operator: str
    run: str
    what: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.operator} runs {self.what} ({self.run}) since {self.since:%H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class Worker:
    """A Celery node: everything known about it, each part with the moment it was read."""

    name: str
    state: WorkerState
    says: str = ""
    """Why it is in that state, in words; empty when online says it all."""
    heartbeat: Reading[Heartbeat] | None = None
    stats: Reading[WorkerStats] | None = None
    consuming: Reading[tuple[ConsumedQueue, ...]] | None = None
    active: Reading[tuple[Task, ...]] | None = None
    reserved: Reading[tuple[Task, ...]] | None = None
    scheduled: Reading[tuple[Task, ...]] | None = None
    registered: Reading[tuple[RegisteredTask, ...]] | None = None
    replied_at: datetime | None = None
    """The last reply of any kind."""
    pids: tuple[int, ...] = ()
    """Every pid that answers to this name now; more than one is a conflict."""
    service: Service | None = None
    taken: TakenRecord | None = None
    mine: bool = True
    """Within the context's scope; others are shown greyed and never touched."""

    @property
    def seen_at(self) -> datetime | None:
        """The last sign of life, by reply or heartbeat."""
        signs = [self.replied_at, self.heartbeat.at if self.heartbeat else None]
        return max((sign for sign in signs if sign is not None), default=None)

    @property
    def pid(self) -> int | None:
        if self.stats is not None:
            return self.stats.value.pid
        return self.heartbeat.value.pid if self.heartbeat else None

    @property
    def started_at(self) -> datetime | None:
        return self.stats.value.started_at if self.stats else None

    @property
    def incarnation(self) -> Incarnation | None:
        """None until `stats` was read: without a start there is no identity."""
        if self.stats is None or self.stats.value.started_at is None:
            return None
        return Incarnation(self.name, self.stats.value.pid, self.stats.value.started_at)

    @property
    def queues(self) -> tuple[str, ...] | None:
        if self.consuming is None:
            return None
        return tuple(queue.name for queue in self.consuming.value)

    @property
    def answers(self) -> bool:
        """Alive and addressable: directed control messages will be read."""
        return self.state in {
            WorkerState.ONLINE,
            WorkerState.DRAINING,
            WorkerState.DRAINED,
            WorkerState.STALLED,
        }


@dataclass(frozen=True, slots=True)
class Queue:
    """A named queue with all its priority steps.

    `ready` waits in the broker, `unacked` is held by workers; `consumers` counts the workers that
    consume it, None while a known worker has not said what it consumes.
    """

    name: str
    ready: int | None
    unacked: int | None
    consumers: int | None
    oldest: datetime | None = None
    by_priority: tuple[tuple[int, int], ...] = ()
    """(priority step, ready), lowest step first; empty where there are no steps."""
    seen_at: datetime | None = None
    orphans: int | None = None
    """How many of `unacked` are proved to be held by nobody."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine. `error` says why it cannot be reached, `since` from when on.

    `silent_since`: nothing was heard of it since it was asked then, and that may still come.
    `unread` says why its facts could not be read although it is reached.
    """

    name: str
    address: str
    error: str | None = None
    since: datetime | None = None
    reached_at: datetime | None = None
    """When it last answered anything; None: never yet."""
    silent_since: datetime | None = None
    facts: Reading[HostFacts] | None = None
    unread: str | None = None

    @property
    def reachable(self) -> bool | None:
        """None: not known, or not known any more."""
        if self.error is not None:
            return False
        return None if self.reached_at is None or self.silent_since is not None else True


@dataclass(frozen=True, slots=True)
class Beat:
    """A scheduler as its supervisor, or its own answer to ping, shows it."""

    name: str
    service: Service | None
    running: bool | None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: which rule, about what, the evidence in words, and what to do.

    `worker` is the node concerned, if it is one. `drained_is_safe`: it does not harm a worker that
    was drained first.
    """

    rule: str
    level: Level
    subject: str
    says: str
    fix: str
    worker: str | None = None
    drained_is_safe: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class FleetSnapshot:
    """The fleet at one moment. Compared by identity: a new snapshot is a new object.

    `complete` is False when a known worker did not answer in time. `broker_error` and
    `broker_lost_at` are set while the broker cannot be reached; everything else is then the last
    known, and ages.
    """

    context: str
    broker: str
    at: datetime
    complete: bool
    workers: tuple[Worker, ...]
    queues: tuple[Queue, ...]
    services: tuple[Service, ...] = ()
    hosts: tuple[Host, ...] = ()
    beats: tuple[Beat, ...] = ()
    taken: tuple[TakenRecord, ...] = ()
    holder: Holder | None = None
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """What this snapshot could not find out, in words (an incomplete scan, a capped count)."""
    bound_but_silent: tuple[str, ...] = ()
    """Names bound on the broker that never gave a sign of life and that nobody configured."""
    broker_error: str | None = None
    broker_lost_at: datetime | None = None
    protected: bool = False
    orphans: tuple[HeldMessage, ...] | None = None
    """Messages of dead workers: proved to be held by nobody. None: nothing can be said."""
    unproven: tuple[Unproven, ...] = ()
    """Messages that no worker shows, though it is not proved that nobody holds them."""
    _by_name: dict[str, Worker] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._by_name.update((worker.name, worker) for worker in self.workers)

    def worker(self, name: str) -> Worker | None:
        """The worker of that node name, or None if nothing ever was seen of it."""
        return self._by_name.get(name)

    def consumers_of(self, queue: str) -> tuple[Worker, ...]:
        """The workers that answer and say they consume the queue; conflicts and the silent do not
        count.
        """
        return tuple(
            worker
            for worker in self.workers
            if worker.answers and worker.queues is not None and queue in worker.queues
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """Node names a control message is meant for. Never empty: to Celery an empty list is
    *everybody*.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("no targets: an empty destination would reach every worker")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a target is named twice: {', '.join(self.names)}")
