"""What operators and runs leave for each other: what was taken, who runs, and since when."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

from celery_ops.model.services import ServiceRef
from celery_ops.model.told import ConsumedQueue, Incarnation

PAUSED = "paused"
"""The kind of record of a queue that nobody is to consume for now."""
HOLD = "hold"
"""The kind of record of tasks that are held: one a context, of no worker."""
HELD = "held"
"""The kind of record of a queue that a worker does not consume since its messages go through a run:
it consumes another one in its place.
"""


@dataclass(frozen=True, slots=True)
class TakenRecord:
    """What a run took from a worker and owes back; kept in the broker, so every operator can see
    it.

    `kind` is `queues` (consumers cancelled: `queues` says which), `service` (stopped: `service`
    says which), `paused` (the one queue in `queues` is consumed by nobody for now), `held` (the one
    queue in `queues` is consumed by way of a run that holds `tasks`), or `hold`, which is that of
    no worker: `tasks` are held, in `queues`. A new incarnation of the worker is owed no queues.
    """

    kind: str
    worker: str
    incarnation: Incarnation | None
    queues: tuple[ConsumedQueue, ...]
    service: ServiceRef | None
    run: str
    operator: str
    at: datetime
    tasks: tuple[str, ...] = ()
    unknown_to: str = ""
    """The release that does not register what is held: its workers would discard it."""
    at_boot: str = ""
    """How the service was set to be started at boot, where that was unset with its stop."""
    meant: bool = False
    """Its run came to a good end, and to leave it so was what it was for."""

    @property
    def key(self) -> str:
        """The field it is stored under: one record a kind, worker and single queue; one hold."""
        if self.kind == HOLD:
            return self.kind
        key = f"{self.kind}:{self.worker}"
        return key if self.queue is None else f"{key}:{self.queue}"

    @property
    def queue(self) -> str | None:
        """The one queue that was taken from the worker, of a kind that is about a single one."""
        return self.queues[0].name if self.kind in {PAUSED, HELD} and self.queues else None

    @property
    def paused(self) -> str | None:
        """The queue that was taken from the worker since it is paused."""
        return self.queues[0].name if self.kind == PAUSED and self.queues else None

    @property
    def what(self) -> str:
        """What was taken, in words: `queues default, mail`, `stopped (supervisord w1 on web1)`."""
        if self.kind == "service":
            for_good = ", and not started at boot any more" if self.at_boot else ""
            return f"stopped ({self.service}){for_good}"
        if self.paused is not None:
            return f"the paused queue {self.paused}"
        if self.kind == HOLD:
            return f"{', '.join(self.tasks)} held, in {', '.join(one.name for one in self.queues)}"
        if self.kind == HELD:
            return f"the queue {self.queue}, consumed by way of a run that holds tasks"
        return f"queues {', '.join(queue.name for queue in self.queues) or '(none)'}"

    @property
    def says(self) -> str:
        """What was taken from whom, in words."""
        return f"{self.worker}: {self.what}" if self.worker else self.what

    @property
    def mend(self) -> str:
        """The command that gives it back."""
        if self.service is not None and self.service.beat:
            return "celery-ops beat start"
        if self.paused is not None:
            return f"celery-ops queue resume {shlex.quote(self.paused)}"
        if self.kind in {HOLD, HELD}:
            keeps = " -p parked=keep" if self.unknown_to else ""
            return f"celery-ops task release {shlex.join(self.tasks)}{keeps}"
        verb = "start" if self.kind == "service" else "resume"
        return f"celery-ops worker {verb} {self.worker}"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as every operator of the broker can see it: who ran what, when, and what came of it.

    `params` are as they were given, passwords masked. `state` is that of its end; None: none was
    told, so it goes on, or its executor died.
    """

    run: str
    runbook: str
    operator: str
    params: tuple[tuple[str, str], ...]
    began_at: datetime
    ended_at: datetime | None = None
    state: str | None = None
    says: str = ""
    broken_by: str = ""
    """Who broke its lease, and when; empty: nobody did."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a context's lease: the operator (`user@machine`), the run, what it runs, since
    when.

    `step` is where the run was when the lease was last renewed; empty where that is not told.
    """

    operator: str
    run: str
    what: str
    since: datetime
    step: str = ""

    def __str__(self) -> str:
        says = f"{self.operator} runs {self.what} ({self.run}) since {self.since:%H:%M:%S} UTC"
        return f"{says}, now at step {self.step}" if self.step else says


@dataclass(frozen=True, slots=True)
class ClockMark:
    """One moment by both clocks of a machine: the wall's, and the seconds of one of its boots."""

    at: datetime
    monotonic: float
    boot: str
