"""How many messages wait, where kombu can tell it without changing anything.

Many of its transports make a queue when they are asked for its size, or by a passive declare; some
take a lock that workers wait for, or count only what they consume themselves (kombu 5.3 to 5.7).
Those are not asked, and it is said that nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from celery_ops.ports import QueueReading

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.broker.by_kombu.link import Session


class Sizes(Protocol):
    """Reads sizes. `notes` say what is not known, `unlisted` why there may be queues that nobody
    named and that are not found; empty: all are.
    """

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def unlisted(self) -> str: ...

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        """In the link's thread: those in `known`, and all others that can be found."""
        ...


class KnownSizes:
    """Implements `Sizes` by kombu's channel, for a transport that makes no queue to tell them, and
    cannot list its queues.
    """

    def __init__(self, transport: str) -> None:
        self.unlisted = f"Queues that no worker names: kombu cannot list those of {transport}://."
        lost = f"How many messages workers hold: {transport}:// does not tell."
        self.notes = (lost, self.unlisted)

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        channel = session.channel
        if not getattr(channel, "calc_queue_size", True):
            return ()  # as its option says; it answers 0 to everything
        return tuple(QueueReading(one, int(channel._size(one)), None) for one in sorted(known))


class NoSizes:
    """Implements `Sizes` where nothing is told."""

    def __init__(self, transport: str) -> None:
        self.unlisted = (
            f"Which queues there are and how long they are: kombu's transport for {transport}://"
            " cannot tell that without a change to the broker."
        )
        self.notes = (self.unlisted,)

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        del session, known
        return ()
