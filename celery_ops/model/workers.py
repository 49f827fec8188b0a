"""A Celery node: everything known about it, each part with the moment it was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from celery_ops.model.records import TakenRecord
from celery_ops.model.services import Service
from celery_ops.model.told import (
    ConsumedQueue,
    Heartbeat,
    Incarnation,
    Reading,
    RegisteredTask,
    Task,
    WorkerStats,
)


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
    paused: tuple[str, ...] = ()
    """Queues that were taken from this life of it since they are paused."""
    busy_solo: bool = False
    """A solo pool that answers nothing, while its supervisor and the broker vouch for it: it runs a
    task, as far as can be seen, and reads what it is sent when that has ended.
    """
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
    def release(self) -> str | None:
        """What its process runs, as its host tells; None: not known."""
        if self.service is None or self.service.release is None:
            return None
        return self.service.release.value

    @property
    def answers(self) -> bool:
        """Alive and addressable: directed control messages will be read."""
        return self.state in {
            WorkerState.ONLINE,
            WorkerState.DRAINING,
            WorkerState.DRAINED,
            WorkerState.STALLED,
        }
