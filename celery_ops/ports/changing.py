"""What can be ordered of a fleet, and the proof that one may."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.model import ConsumedQueue


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of holding the lease: checked by the broker in the same step as the effect."""

    token: str


@dataclass(frozen=True, slots=True)
class CancelConsumer:
    """Stop taking messages from a queue. The worker's `ok` means scheduled, not done."""

    queue: str

    @property
    def method(self) -> str:
        return "cancel_consumer"

    @property
    def arguments(self) -> dict[str, object]:
        return {"queue": self.queue}


@dataclass(frozen=True, slots=True)
class AddConsumer:
    """Consume a queue again, exactly as it was declared when it was consumed before.

    Celery passes what it does not know to `Queue.from_dict`; other arguments than the recorded ones
    end the worker on RabbitMQ (406 PRECONDITION_FAILED).
    """

    queue: ConsumedQueue

    @property
    def method(self) -> str:
        return "add_consumer"

    @property
    def arguments(self) -> dict[str, object]:
        return self.queue.add_consumer_arguments()


@dataclass(frozen=True, slots=True)
class Control:
    """Any other control command, by Celery's own name."""

    method: str
    arguments: dict[str, object] = field(default_factory=dict)


Order = CancelConsumer | AddConsumer | Control
