"""What operators and runs leave for each other: what was taken, who runs, and since when."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

from celery_ops.model.services import ServiceRef
from celery_ops.model.told import ConsumedQueue, Incarnation

PAUSED = "paused"
"""The kind of record of a queue that nobody is to consume for now."""


@dataclass(frozen=True, slots=True)
class TakenRecord:
    """What a run took from a worker and owes back; kept in the broker, so every operator can see
    it.

    `kind` is `queues` (consumers cancelled: `queues` says which), `service` (stopped: `service`
    says which), or `paused` (the one queue in `queues` is consumed by nobody for now). A new
    incarnation of the worker is owed no queues.
    """

    kind: str
    worker: str
    incarnation: Incarnation | None
    queues: tuple[ConsumedQueue, ...]
    service: ServiceRef | None
    run: str
    operator: str
    at: datetime
    at_boot: str = ""
    """How the service was set to be started at boot, where that was unset with its stop."""

    @property
    def key(self) -> str:
        """The field it is stored under: one record a kind, worker and queue that is paused."""
        key = f"{self.kind}:{self.worker}"
        return key if self.paused is None else f"{key}:{self.paused}"

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
        return f"queues {', '.join(queue.name for queue in self.queues) or '(none)'}"

    @property
    def mend(self) -> str:
        """The command that gives it back."""
        if self.service is not None and self.service.beat:
            return "celery-ops beat start"
        if self.paused is not None:
            return f"celery-ops queue resume {shlex.quote(self.paused)}"
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
