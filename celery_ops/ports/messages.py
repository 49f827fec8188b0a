"""The messages that wait in queues: to be looked at, copied, and moved without losing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from celery_ops.model import StoredMessage
    from celery_ops.ports.changing import Fence


@dataclass(frozen=True, slots=True)
class Transfer:
    """Which messages of one queue go to another.

    `ticket` names this transfer for all time: how many have gone is counted under it in the broker,
    in the same step in which they go. `choose` says which; at most `limit` of them, in all that was
    ever done under the ticket. With `as_they_are` not a byte of them is changed: they are parked,
    where nobody consumes. Else they are addressed anew, so that no redelivery leads them back.
    """

    ticket: str
    queue: str
    to: str
    choose: Callable[[StoredMessage], bool]
    limit: int | None = None
    as_they_are: bool = False


@dataclass(frozen=True, slots=True)
class Transferred:
    """How far a transfer has come: `done` under its ticket, `seen` looked at in this call."""

    done: int
    seen: int


class MessageReading(Protocol):
    """Looks at the messages of one broker. Every method may raise BrokerUnreachable."""

    @property
    def kind(self) -> str:
        """What `StoredMessage.raw` is written in: only a broker of that kind can take it back."""
        ...

    async def count(self, queue: str) -> int:
        """How many wait there; 0 if there is no such queue.

        Raise PreconditionFailed where that name is of something else than a queue.
        """
        ...

    async def peek(self, queue: str, *, skip: int, count: int) -> tuple[StoredMessage, ...]:
        """Those that are served next, the next one first. Reads no more than it returns.

        Raise PreconditionFailed where looking would change the messages, or where that name is of
        something else than a queue.
        """
        ...

    def read(self, queue: str) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        """All of them, in the order in which they would be served, in portions.

        Exact for a queue that nobody uses meanwhile. Close it (`contextlib.aclosing`).
        """
        ...


class MessageStore(MessageReading, Protocol):
    """What can be done with the messages of one broker, each effect in one step with the fence.

    Every method may raise BrokerUnreachable; those with a fence raise LeaseLost, and do nothing,
    where it is not valid any more.
    """

    def transfer(self, transfer: Transfer, *, fence: Fence) -> AsyncGenerator[Transferred, None]:
        """Move them, a portion at a time, until none is left that was there at the beginning.

        A message is always in one queue or the other, never in both or neither, whenever this
        process ends. Their order is kept. Done again under the same ticket, it goes on.
        """
        ...

    async def put(
        self,
        messages: Sequence[StoredMessage],
        *,
        queue: str,
        ticket: str,
        done: int,
        fence: Fence,
    ) -> bool:
        """Add messages as they are, the first to be served first, and count them under `ticket`.

        False, and nothing is added, unless exactly `done` were counted before: so a repetition,
        or a second restore of the same backup, adds nothing.
        """
        ...

    async def counted(self, ticket: str) -> int:
        """How many messages have gone under it; 0 if it is not known."""
        ...

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        """Remove the count."""
        ...

    async def drop(self, queue: str, *, fence: Fence) -> int:
        """Destroy a queue of parked messages, and return how many were in it."""
        ...
