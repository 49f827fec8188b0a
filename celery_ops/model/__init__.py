"""What a fleet consists of: frozen values, no behaviour but derivation, no I/O.

Unknown is `None`, never zero and never an empty tuple. What a worker told us is a `Reading`: the
value together with the moment it was read, so that its age can always be shown.
"""

from celery_ops.model.beats import Beat, SeenProcess, SeenProcesses
from celery_ops.model.fleet import Finding, FleetSnapshot, Level, Targets
from celery_ops.model.found import CeleryProcess, Discovered, IdleService, Rights, Role
from celery_ops.model.machine import Disk, HostFacts, Restarts, Retry, Usage
from celery_ops.model.messages import Address, Body, StoredMessage
from celery_ops.model.parking import Parked, parked
from celery_ops.model.queues import UNWATCHED, Elsewhere, Flow, HeldMessage, Queue, Unproven
from celery_ops.model.records import HELD, HOLD, PAUSED, ClockMark, Holder, RunRecord, TakenRecord
from celery_ops.model.releases import HostReleases
from celery_ops.model.schedules import PeriodicTask, Schedule
from celery_ops.model.services import (
    Hazard,
    Host,
    Service,
    ServiceRef,
    ServiceState,
    ServiceStatus,
)
from celery_ops.model.tasks import (
    SeenTask,
    StoredCall,
    StoredResult,
    TaskMessage,
    TaskNews,
    TaskPlace,
    TaskState,
)
from celery_ops.model.told import (
    INCARNATION_TOLERANCE,
    ConsumedQueue,
    Heartbeat,
    Incarnation,
    Reading,
    RegisteredTask,
    Task,
    WorkerStats,
)
from celery_ops.model.workers import Worker, WorkerState

__all__ = [
    "HELD",
    "HOLD",
    "INCARNATION_TOLERANCE",
    "PAUSED",
    "UNWATCHED",
    "Address",
    "Beat",
    "Body",
    "CeleryProcess",
    "ClockMark",
    "ConsumedQueue",
    "Discovered",
    "Disk",
    "Elsewhere",
    "Finding",
    "FleetSnapshot",
    "Flow",
    "Hazard",
    "Heartbeat",
    "HeldMessage",
    "Holder",
    "Host",
    "HostFacts",
    "HostReleases",
    "IdleService",
    "Incarnation",
    "Level",
    "Parked",
    "PeriodicTask",
    "Queue",
    "Reading",
    "RegisteredTask",
    "Restarts",
    "Retry",
    "Rights",
    "Role",
    "RunRecord",
    "Schedule",
    "SeenProcess",
    "SeenProcesses",
    "SeenTask",
    "Service",
    "ServiceRef",
    "ServiceState",
    "ServiceStatus",
    "StoredCall",
    "StoredMessage",
    "StoredResult",
    "TakenRecord",
    "Targets",
    "Task",
    "TaskMessage",
    "TaskNews",
    "TaskPlace",
    "TaskState",
    "Unproven",
    "Usage",
    "Worker",
    "WorkerState",
    "WorkerStats",
    "parked",
]
