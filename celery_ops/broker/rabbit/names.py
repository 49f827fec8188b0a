"""What Celery and celery-ops call things in RabbitMQ. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.errors import UsageError
from celery_ops.model import parked

if TYPE_CHECKING:
    from collections.abc import Mapping

TAKEN = "celery-ops.taken"
RUNS = "celery-ops.runs"
SENT = "celery-ops.sent"
OURS = "celery-ops."
_REPLY_SUFFIX = ".reply.celery-ops.pidbox"
DELAYED = tuple(f"celery_delayed_{level}" for level in range(28))
"""Where Celery's native delayed delivery keeps messages until their time has come."""


@dataclass(frozen=True, slots=True)
class AmqpNames:
    """The exchanges that workers use, by Celery's settings of these names."""

    control_exchange: str = "celery"
    event_exchange: str = "celeryev"

    @property
    def pidbox(self) -> str:
        """The exchange that control messages go to."""
        return f"{self.control_exchange}.pidbox"

    def node(self, queue: str) -> str | None:
        """The node whose control queue that is."""
        suffix = f".{self.pidbox}"
        return queue.removesuffix(suffix) if queue.endswith(suffix) else None

    def is_plumbing(self, queue: str) -> bool:
        """Whether it is of Celery's or our own machinery, and holds no tasks of its own."""
        return (
            queue.endswith(".pidbox")
            or queue.startswith((f"{self.event_exchange}.", "amq.gen-"))
            or (queue.startswith(OURS) and parked(queue) is None)
            or is_delayed(queue)
        )


def is_delayed(queue: str) -> bool:
    """Whether messages wait in it for their ETA, to go to other queues then."""
    return queue in DELAYED


def reply_queue(client: str) -> str:
    return client + _REPLY_SUFFIX


def from_options(options: Mapping[str, object]) -> AmqpNames:
    """Names by Celery's settings; raise UsageError."""
    for name in ("control_exchange", "event_exchange"):
        if not isinstance(options.get(name, ""), str):
            raise UsageError(f"The broker option {name} is not a str.")
    return AmqpNames(
        control_exchange=str(options.get("control_exchange") or "celery"),
        event_exchange=str(options.get("event_exchange") or "celeryev"),
    )
