"""How many messages wait, where kombu can tell it without changing anything.

Many of its transports make a queue when they are asked for its size, or by a passive declare; some
take a lock that workers wait for, or count only what they consume themselves (kombu 5.3 to 5.7).
Those are not asked, and it is said that nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from celery_ops.ports import QueueReading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from celery_ops.broker.kombu_link import Channel, Session


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


class ChannelSizes:
    """Implements `Sizes` by kombu's channels, for transports whose queues cannot be listed."""

    def __init__(self, transport: str) -> None:
        self._count = _COUNTED.get(transport)
        self.unlisted = f"Queues that no worker names: kombu cannot list those of {transport}://."
        lost = f"How many messages workers hold: {transport}:// does not tell."
        uncounted = (
            f"How many messages wait: kombu's transport for {transport}:// would make a queue, or"
            " take a lock, to tell."
        )
        self.notes = (lost if self._count else uncounted, self.unlisted)

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        if self._count is None:
            return ()
        sizes = {queue: self._count(session.channel, queue) for queue in sorted(known)}
        return tuple(
            QueueReading(queue, ready, None) for queue, ready in sizes.items() if ready is not None
        )


def _if_it_exists(channel: Channel, queue: str) -> int | None:
    return int(channel._size(queue)) if channel._has_queue(queue) else 0


def _if_it_counts(channel: Channel, queue: str) -> int | None:
    """With `calc_queue_size: false` it answers 0 to everything."""
    return int(channel._size(queue)) if channel.calc_queue_size else None


_COUNTED: Mapping[str, Callable[[Channel, str], int | None]] = {
    "mongodb": _if_it_counts,
    "pgmq": _if_it_exists,
    "pyro": _if_it_exists,
    "zookeeper": _if_it_exists,
}
"""The transports that tell sizes without making a queue, by their source."""
