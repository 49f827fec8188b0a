"""Messages that wait in a queue: what they are, and what they say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Body:
    """What a message carries, as it was sent: neither decompressed nor decoded.

    `content_type` and `compression` are what its headers say, whatever that is.
    """

    data: bytes
    content_type: str = "application/json"
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message was sent: to the queue `routing_key` itself where `exchange` is empty."""

    exchange: str
    routing_key: str

    @property
    def queue(self) -> str:
        """The queue that it names itself; empty: that is the exchange's to say."""
        return "" if self.exchange else self.routing_key

    def __str__(self) -> str:
        return self.queue or f"{self.routing_key} at the exchange {self.exchange}"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One waiting message, all of it, and what its headers say. What they do not say is None.

    `raw` is the message as the adapter that read it writes it: put back by the same kind of broker
    it is the same message, with every byte, header and property. `priority` is the one it waits at,
    0 where there are none.
    """

    raw: bytes = field(repr=False)  # a task's arguments are in it
    priority: int = 0
    id: str | None = None
    task: str | None = None
    retries: int | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    origin: str | None = None
    """Who sent it, `gen<pid>@<host>`."""
    by_beat: bool = False
    """It bears a scheduler's mark. Without it nothing follows: only Celery 5.7 and later, and
    django-celery-beat, mark what they send, and a retry bears the mark of what it is a retry of.
    """
    redelivered: bool | None = None
    sent_at: datetime | None = None
    """Only where its publisher or the broker stamps messages; Celery itself does not."""
    args: str | None = field(default=None, repr=False)
    """As its publisher wrote them for people to read, shortened: not what the task will get."""
    kwargs: str | None = field(default=None, repr=False)
    body: Body | None = field(default=None, repr=False)
    """None where there is none that could be read."""

    came_from: Address | None = None
    """Where it waited before it died, or was moved as it is: what the broker has noted of that, or
    where it says that it belongs."""
    expiry_removed: bool = False
    """It expired of itself, and died of that: the broker has taken that from it."""
    kept: int | None = None
    """Bytes that the broker keeps of it, where these are not what `raw` is."""

    @property
    def size(self) -> int:
        """In bytes, as the broker keeps it."""
        return len(self.raw) if self.kept is None else self.kept

    def age(self, now: datetime) -> float | None:
        """Seconds that it has been known to wait."""
        return None if self.sent_at is None else max(0.0, (now - self.sent_at).total_seconds())
