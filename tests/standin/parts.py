"""What a simulated fleet consists of.

Workers, services and messages, and what can be wrong with them.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from celery_ops.model import Hazard, Retry, ServiceRef, ServiceState
from celery_ops.ports import Question

if TYPE_CHECKING:
    from datetime import datetime


class Phase(Enum):
    """Of a worker's process."""

    DOWN = auto()
    BOOTING = auto()
    UP = auto()
    STOPPING = auto()


@dataclass
class Faults:
    """What is wrong with a worker or its service. All can be switched while it runs."""

    never_replies: bool = False
    """Consumes, runs and beats, but answers no control message."""
    has_no_events: bool = False
    """Has no dispatcher of events, and says so."""
    silent_to: frozenset[Question] = frozenset()
    """Questions that get no reply, as `reserved` with arguments that are not JSON."""
    hangs: bool = False
    """Stopped with SIGSTOP: still bound, still counted, does nothing at all."""
    ignores_cancel: bool = False
    """Answers ok to `cancel_consumer` and goes on consuming."""
    ignores_add: bool = False
    """Answers ok to `add_consumer` and consumes nothing more."""
    acknowledges_nothing: bool = False
    """Does what is ordered, but no reply arrives."""
    does_not_come_back: bool = False
    """Its service starts, runs and never is a worker again."""
    dies_at_start: bool = False
    """Its service starts and fails at once."""
    crash_loops: bool = False
    """It dies at its start, and its supervisor starts it again, again and again."""
    killed_at_stop: bool = False
    """Its supervisor sends SIGKILL in place of a warm stop."""
    stop_does_nothing: bool = False
    """Its supervisor says the stop was accepted; the process does not notice."""
    forgets_revokes: bool = False
    """Answers ok to `revoke` and keeps nothing."""
    answers_in_pickle: bool = False
    no_heartbeats: bool = False


@dataclass
class Message:
    """One numbered task."""

    id: str
    task: str
    queue: str
    seconds: float
    eta: float | None = None
    delivered: datetime | None = None
    expires: float | None = None
    fails: str = ""
    """The exception that it ends with."""
    origin: str | None = None
    by_beat: bool = False
    redelivered: bool = False


@dataclass
class Ledger:
    """What became of every message."""

    sent: int = 0
    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    """Discarded, not begun."""
    terminated: set[str] = field(default_factory=set)

    @property
    def twice(self) -> set[str]:
        return {one for one, times in self.started.items() if times > 1}


@dataclass
class SimulatedService:
    """What a supervisor runs."""

    ref: ServiceRef
    state: ServiceState = ServiceState.STOPPED
    pid: int | None = None
    identity: str | None = None
    started_at: datetime | None = None
    began: float = 0.0
    """When it was started, in seconds since the boot: what nobody can set."""
    clean_exit: bool | None = None
    says: str = ""
    stop_grace: float = 600.0
    stop_seconds: float = 0.5
    boot_seconds: float = 2.0
    restarts_itself: bool = True
    signals_children: bool = False
    stop_signal: str = "TERM"
    startable: bool | None = None
    arguments: tuple[str, ...] = ("celery", "-A", "app", "worker")
    starts: int = 0
    restarts: int | None = None
    retry: Retry | None = None
    hazards: tuple[Hazard, ...] = ()
    tells_identity: bool = True
    at_boot: str | None = "enabled"
    comes_back: str = ""


@dataclass
class SimulatedWorker:
    """One worker process under a node name, and its service if it has one."""

    name: str
    configured: dict[str, dict[str, object]]
    pool: str
    concurrency: int
    service: SimulatedService | None
    faults: Faults
    cancel_delay: float = 0.0
    rate_limited: frozenset[str] = frozenset()
    registered: tuple[str, ...] = ("app.work",)
    version: str = "5.7.0"
    phase: Phase = Phase.DOWN
    pid: int | None = None
    started: float = 0.0
    boots_until: float = 0.0
    killed_at: float | None = None
    exits_at: float | None = None
    consuming: dict[str, dict[str, object]] = field(default_factory=dict)
    pending: list[tuple[float, str, dict[str, object] | None]] = field(default_factory=list)
    active: list[tuple[Message, float, float]] = field(default_factory=list)
    """(message, started, ends), in simulated seconds."""
    reserved: deque[Message] = field(default_factory=deque)
    scheduled: list[Message] = field(default_factory=list)
    hidden: list[Message] = field(default_factory=list)
    processed: int = 0
    next_beat: float = 0.0
    sends_task_events: bool = False
    keeps_results: bool = True
    processes: int | None = None
    """Of its pool, where they were grown or shrunk."""
    autoscale: tuple[int, int] | None = None
    """The fewest and the most processes."""
    revoked: set[str] = field(default_factory=set)
    """Lost with its life."""

    @property
    def prefetch(self) -> int:
        return self.concurrency * 4

    @property
    def is_listening(self) -> bool:
        """Connected to the control exchange: PUBLISH counts it."""
        return self.phase is Phase.UP

    @property
    def is_busy_solo(self) -> bool:
        return self.pool == "solo" and bool(self.active)

    @property
    def next_due(self) -> float:
        """When something will happen to it next, in simulated seconds."""
        if self.phase is Phase.BOOTING:
            return self.boots_until
        if self.phase is Phase.DOWN:
            return float("inf")
        moments = [] if self.faults.hangs else [ends for _, _, ends in self.active]
        if self.phase is Phase.UP and not self.faults.hangs:
            moments += [message.eta for message in self.scheduled if message.eta is not None]
            if not self.is_busy_solo:
                moments += [at for at, _, _ in self.pending]
        moments += [at for at in (self.killed_at, self.exits_at) if at is not None]
        return min(moments, default=float("inf"))

    @property
    def has_room(self) -> bool:
        """It may prefetch another message; ETA tasks do not count."""
        return len(self.active) + len(self.reserved) + len(self.hidden) < self.prefetch

    def end_tasks(self, now: float) -> list[Message]:
        """Those that have run their time."""
        ended = [one for one in self.active if one[2] <= now]
        for entry in ended:
            self.active.remove(entry)
        return [message for message, _, _ in ended]

    def schedule_due(self, now: float) -> None:
        """What has reached its ETA waits for a free slot."""
        for message in [one for one in self.scheduled if one.eta is not None and one.eta <= now]:
            self.scheduled.remove(message)
            self.reserved.append(message)

    def obey_due(self, now: float) -> None:
        """Apply the control commands that are due; a busy solo pool cannot."""
        if self.is_busy_solo:
            return
        for entry in [one for one in self.pending if one[0] <= now]:
            self.pending.remove(entry)
            _, queue, declared = entry
            if declared is None:
                self.consuming.pop(queue, None)
            else:
                self.consuming[queue] = self.configured.get(queue, declared)

    def plan_exit(self, now: float) -> None:
        """Exit soon, once nothing runs any more."""
        if self.faults.hangs or self.active or self.exits_at is not None:
            return
        self.exits_at = now + (self.service.stop_seconds if self.service else 0.5)

    def drop_running(self) -> list[str]:
        """Ids of the running tasks, which end here."""
        ids = [message.id for message, _, _ in self.active]
        self.active.clear()
        return ids

    def drop_held(self) -> list[Message]:
        """The messages it holds and does not run, which it holds no more."""
        held = [*self.reserved, *self.scheduled, *self.hidden]
        self.reserved.clear()
        self.scheduled.clear()
        self.hidden.clear()
        return held


def declaration(queue: str) -> dict[str, object]:
    """A queue as Celery 5.7 tells it in `active_queues`."""
    exchange = {
        "name": queue,
        "type": "direct",
        "arguments": None,
        "durable": True,
        "passive": False,
        "auto_delete": False,
        "delivery_mode": None,
        "no_declare": False,
    }
    nothing = dict.fromkeys(
        (
            "queue_arguments",
            "binding_arguments",
            "consumer_arguments",
            "alias",
            "no_declare",
            "expires",
            "message_ttl",
            "max_length",
            "max_length_bytes",
            "max_priority",
        )
    )
    return {
        "name": queue,
        "exchange": exchange,
        "routing_key": queue,
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
        "bindings": [],
        **nothing,
    }
