"""A plan: what a run would do, by name. Frozen before anything is changed, and the run's first
line.

Made from real reads by `planner`, executed by `executor`, shown by everybody else. Only values: a
plan can be written to a journal and read back on another day.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from celery_ops.config.contexts import Probe
from celery_ops.errors import PreconditionFailed
from celery_ops.model import (
    Address,
    ConsumedQueue,
    HeldMessage,
    Incarnation,
    ServiceRef,
    WorkerState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class PlannedWorker:
    """A target as it was when the plan was made; `queues` is what it must consume afterwards.

    `queues` comes from an earlier run's record where that still owes some. `longest` is
    the age in seconds of its longest-running task.
    """

    name: str
    state: WorkerState
    incarnation: Incarnation | None
    queues: tuple[ConsumedQueue, ...] | None
    service: ServiceRef | None
    identity: str | None
    active: int | None
    reserved: int | None
    scheduled: int | None
    longest: float | None
    stop_grace: float | None
    debtors: tuple[str, ...] = ()
    """The earlier runs that owe it something, queues or its service."""
    processes: int | None = None
    """Of its pool; None where that is not told, as by every pool but prefork."""
    autoscale: tuple[int, int] | None = None
    paused: tuple[str, ...] = ()
    """Queues that were taken from this life of it since they are paused: its next one consumes them
    by itself.
    """
    release: str | None = None
    """What it ran then; None: not known."""
    busy_solo: bool = False
    """A solo pool that runs a task: it obeys when that has ended."""
    pool: str | None = None
    """The kind of its pool; None: not known."""
    at_boot: str | None = None
    """How its service was set to be started at boot: `ServiceStatus.at_boot`."""
    unset_at_boot: str = ""
    """The same, where an earlier run has stopped it for good and unset that."""

    @property
    def size(self) -> int | None:
        """How many processes its pool has, or may have where it scales itself."""
        return self.processes if self.autoscale is None else self.autoscale[1]

    @property
    def is_beat(self) -> bool:
        """It is a scheduler and not a worker; its name is that of its service."""
        return self.service is not None and self.service.beat


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task that a step revokes, and where it was when the plan was made: the workers that run it,
    and all of it in words. Or one that is sent again to its `queue`, since it `ended` just then, as
    its result says.
    """

    step: str
    id: str
    task: str | None = None
    runs_in: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    """`waiting in mail`, `reserved in w@h`; empty: nowhere, of what could be looked at."""
    queue: str = ""
    ended: str = ""

    @property
    def is_unseen(self) -> bool:
        """It is to be revoked, and nobody knows where it is."""
        return not self.ended and not self.seen


@dataclass(frozen=True, slots=True)
class QueueCapacity:
    """The consumers of a queue around a batch: `healthy` when the run begins, `during` it, and the
    `least` that the guard allows.
    """

    queue: str
    healthy: int
    during: int
    least: int


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Workers that are taken together, and what that leaves of each of their queues."""

    number: int
    workers: tuple[str, ...]
    capacity: tuple[QueueCapacity, ...]
    canary: bool = False


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One thing a step would do to a target: the exact control message or command line."""

    step: str
    target: str | None
    does: str
    undo: str | None


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step of the runbook in words; `batches` where it takes workers away or rolls.

    A restore step's actions name queues as their targets.
    """

    id: str
    says: str
    targets: tuple[str, ...] = ()
    batches: tuple[PlannedBatch, ...] = ()
    actions: tuple[PlannedAction, ...] = ()
    evidence: tuple[str, ...] = ()
    """What proves that it may be done."""
    silence: float | None = None
    """Seconds for which nobody may send once beat is stopped."""


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """What a step about messages is meant for: those of `queue`, which go `to` another one, to a
    queue where they are `parked`, or to or from a `file`; each is empty where it has no part in it.

    `messages` are as many as would be concerned now; not `surely` where not all were looked at.
    `ticket` is what a backup is restored under, or messages are returned; those go that came from
    one of the `origins`, and with `untold` those of which that cannot be told.
    """

    step: str
    queue: str
    messages: int
    surely: bool = True
    to: str = ""
    parked: str = ""
    file: str = ""
    ticket: str = ""
    origins: tuple[Address, ...] = ()
    untold: bool = False


@dataclass(frozen=True, slots=True)
class PlannedActivation:
    """A release that a step makes the current one of a host; `before` is the one that was so when
    the plan was made.
    """

    step: str
    host: str
    release: str
    before: str | None


@dataclass(frozen=True, slots=True)
class PlannedSieve:
    """What a step parks while others go on: messages whose task the `release` does not register.

    `registered` are those that it does. `queues` are looked after, as far as they were known then.
    `idle` is why nothing is parked at all; empty: it is.
    """

    step: str
    release: str
    registered: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    idle: str = ""

    def is_unknown(self, task: str | None) -> bool:
        """Workers of that release would discard it. A message that does not tell its task is not,
        and Celery's own tasks are known to every release.
        """
        return task is not None and task not in self.registered and not task.startswith("celery.")

    @property
    def name(self) -> str:
        """What is held, for people."""
        return f"what {self.release} does not register"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question that must be answered before anything is changed. `typed`: the text to type."""

    step: str
    question: str
    typed: str | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """The context a plan was made for, as far as a run needs it; no secrets.

    `broker` is shown, `identity` is compared: a run goes on only against the same broker.
    """

    context: str
    broker: str
    identity: str
    protected: bool
    scope: tuple[str, ...]
    services: tuple[ServiceRef, ...]
    config: str | None = None
    probe: Probe | None = None
    results: str = ""
    """The result backend that is read, for people; empty: none."""
    unread_results: str = ""
    """The kind of one that is configured and not read."""

    def command(self, rest: str) -> str:
        """A command of ours for this context, or this broker, to be copied.

        A password in the broker's URL is masked, and has to be put in by whoever types it.
        """
        named = ("-b", self.broker) if self.config is None else ("-c", self.context)
        return f"celery-ops {shlex.join(named)} {rest}"

    def must_be(self, broker: str, identity: str) -> None:
        """Raise PreconditionFailed if that is another broker: it knows nothing of this run."""
        if identity != self.identity:
            raise PreconditionFailed(
                f"this is another broker ({broker}) than the plan was made for ({self.broker})",
                fix="Name that one: celery-ops -b URL runs …",
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    `refusals` is why it must not run (preflight, guard, duplicated names): not empty means exit 7.
    `hazards` is what an operator must know before agreeing. `answers` are the confirmations already
    given, by step, with who gave them. `params` are texts as the operator writes them.
    """

    run: str
    runbook: str
    file: str
    source: str
    risk: str
    summary: str
    params: dict[str, str]
    allow_gap: tuple[str, ...]
    where: Where
    operator: str
    at: datetime
    targets: tuple[PlannedWorker, ...]
    healthy: dict[str, int]
    """Consumers of each queue when the plan was made: the guard's measure."""
    steps: tuple[PlannedStep, ...]
    confirmations: tuple[Confirmation, ...]
    hazards: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    irreversible: tuple[str, ...] = ()
    answers: dict[str, str] = field(default_factory=dict)
    messages: tuple[HeldMessage, ...] = ()
    """What restore steps give back: these deliveries and no others."""
    tasks: tuple[PlannedTask, ...] = ()
    """What revoke steps revoke, and retry steps send again: these ids and no others."""
    wait: float = 0.0
    """Seconds to wait for somebody else's lease."""
    emergency: str = ""
    """Why the run does without the broker; empty: it does not."""
    at_end: tuple[str, ...] = ()
    """What is checked and told at the end, however the run goes."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Workers that were meant and cannot be reached, with the reason: `offline: skip`."""
    moves: tuple[PlannedMove, ...] = ()
    """What steps about the messages of queues are meant for."""
    activations: tuple[PlannedActivation, ...] = ()
    """The releases that steps switch hosts to."""
    sieves: tuple[PlannedSieve, ...] = ()
    """What steps park since a release does not know it."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The hazards as they are read: what is the same of several targets is said once."""
        targets = {one.name for one in self.targets}
        of: dict[str, list[str]] = {}
        for hazard in self.hazards:
            name, _, says = hazard.partition(": ")
            if says and name in targets:
                of.setdefault(says, []).append(name)
            else:
                of.setdefault(hazard, [])
        return tuple(f"{self.named(who)}: {says}" if who else says for says, who in of.items())

    def named(self, names: Sequence[str]) -> str:
        """These workers in words."""
        workers = {one.name for one in self.targets if not one.is_beat}
        is_all = len(workers) > 1 and workers == set(names)
        return f"all {len(workers)} workers" if is_all else ", ".join(names)

    @property
    def message_count(self) -> int:
        """How many messages it is about, as `targets.messages` tells it."""
        return len(self.messages) + sum(move.messages for move in self.moves)

    def target(self, name: str) -> PlannedWorker:
        """The target of that name; KeyError if it is none."""
        for worker in self.targets:
            if worker.name == name:
                return worker
        raise KeyError(name)
