"""What is to be done to which worker: a step's order, and a target with what it is owed and what
was proved of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.errors import CommandFailed
from celery_ops.runbook.events import Result
from celery_ops.runbook.schema import OnTimeout, WorkerVerb

if TYPE_CHECKING:
    from celery_ops.model import Incarnation, ServiceRef
    from celery_ops.runbook.events import Outcome
    from celery_ops.runbook.plan import PlannedWorker


@dataclass(frozen=True, slots=True)
class Order:
    """One worker step with its values resolved; `timeout` in seconds."""

    step: str
    verb: WorkerVerb
    timeout: float
    on_timeout: OnTimeout = OnTimeout.FAIL
    retries: int = 0
    pause: float = 0.0
    for_good: bool = False
    passes_over: bool = False
    """Who is gone in the midst of it is not waited for, and has not failed."""


@dataclass(frozen=True, slots=True)
class Drained:
    """A drain that was proved, of that life of a worker."""

    order: Order
    incarnation: Incarnation | None


@dataclass(slots=True, eq=False)
class Target:
    """A worker that a run acts upon, and what the run owes it at this moment.

    `planned` is refreshed when its batch begins; its queues stay those of the plan. What it is owed
    (`queues_taken`, `down`) is what the broker's records say of this run.
    """

    planned: PlannedWorker
    queues_taken: bool = False
    drained: Drained | None = None
    """It must hold still when the worker is stopped."""
    cut_off: str = ""
    """Why its stop may cut off what it runs, as was agreed; empty: that would be a failure."""
    unasked: bool = False
    """It could not be asked: whatever life of it runs is stopped."""
    lost: str = ""
    """What was cut off."""
    down: bool = False
    done: bool = False
    renewed: bool = False
    """A new incarnation answers; whether all is well with it was not verified yet."""
    failed: str = ""
    put_off: str = ""
    """Why its turn is to come again after the others'."""
    left_out: str = ""
    """Why it could not be reached when its turn came, and nothing was begun with it."""
    given_up: bool = False
    """It was just tried to put it right, in vain: another try would only take longer to say so."""
    away: str = ""
    """Why its host or the broker could not be reached when it was last told something; empty: they
    could.
    """

    unseen: str = ""
    """Why it is not known whether its service runs; empty: its supervisor told it last."""
    settled: bool = False
    """It came through a roll that stopped it for good: it is owed what it is to be owed."""
    returned: bool = False
    """What it was owed was given back, or what was done to it taken back."""

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def vouching(self) -> ServiceRef | None:
        """The service that is asked beside the worker: a solo pool cannot tell that it lives while
        it runs a task. None: it tells by itself.
        """
        return self.planned.service if self.planned.pool == "solo" else None

    @property
    def owed(self) -> bool:
        return self.queues_taken or self.down

    @property
    def service(self) -> ServiceRef:
        """Raise CommandFailed if there is none."""
        if self.planned.service is None:
            raise CommandFailed(f"{self.name} has no supervisor that is known here")
        return self.planned.service

    def retell(self, outcome: Outcome) -> None:
        """Take note of what the journal says came of an act."""
        if outcome.result is Result.FAILED:
            self.failed = outcome.says
        if outcome.result is Result.DEFERRED:
            self.put_off = outcome.says
