"""What a worker tells of itself and of its tasks: replies, heartbeats, and when they were read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

T = TypeVar("T")

INCARNATION_TOLERANCE = timedelta(seconds=2)
"""`stats.uptime` is rounded to whole seconds, so a computed start may move by this much."""


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

    @property
    def may_be_delayed(self) -> bool:
        """Celery's native delayed delivery may lead to it: it knows no direct exchanges."""
        declaration = json.loads(self.declaration)
        exchange = declaration.get("exchange") or {}
        kinds = {exchange.get("type") or "direct"}
        return kinds != {"direct"} or bool(declaration.get("bindings"))


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
    priority_options: Mapping[str, object] = field(default_factory=dict)
    """Which of these options about priorities it sets: `priority_steps` (a tuple), `sep`."""


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """A task a worker can run. An option is None where the worker did not tell it."""

    name: str
    rate_limit: str | None
    acks_late: bool | None
    batched: bool = False
    """Its messages are gathered before they run, as celery-batches does."""
    ignores_result: bool | None = None
    """No result backend hears how it ended."""

    @property
    def may_hide(self) -> bool:
        """A worker may hold its messages without telling: no control reply has them."""
        return self.rate_limit is not None or self.batched
