"""The messages that wait in queues: to be looked at, copied, and moved without losing one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from celery_ops.model import Address, StoredMessage, TaskMessage
    from celery_ops.ports.changing import Fence


SENT_KEPT = 7 * 86400.0
"""Seconds for which the broker is to remember what was sent only once."""
IN_LINE_FOR = 1
"""Seconds after which a process that has died takes no message any more (`FirstInLine`)."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Which messages of one queue go to another.

    `ticket` names this transfer for all time: how many have gone is counted under it in the broker,
    in the same step in which they go. `choose` says which, None: all; at most `limit` of them, in
    all that was ever done under the ticket, and at most `portion` in one step.

    `address` is the queue that they name as theirs from then on, so that a redelivery does not lead
    them back; one that cannot be addressed anew stays where it is. With None not a byte of them is
    changed: for a queue of parked messages, where nobody consumes, and for the way back. `first`:
    before those that wait there already, where the broker can (`MessageStore.puts_first`).
    `become` gives what takes the place of one that goes, in the same step; only its `raw` counts.
    """

    ticket: str
    queue: str
    to: str
    choose: Callable[[StoredMessage], bool] | None = None
    limit: int | None = None
    address: str | None = None
    first: bool = False
    portion: int | None = None
    become: Callable[[StoredMessage], StoredMessage] | None = None

    def __post_init__(self) -> None:
        if self.queue == self.to:
            raise ValueError(f"{self.queue!r} is where they are")
        changes = (self.choose, self.address, self.become)
        if self.first and any(one is not None for one in changes):
            raise ValueError("only all of them, as they are, can go before those that wait")


@dataclass(frozen=True, slots=True)
class Transferred:
    """How far a transfer has come: `done` under its ticket, `seen` looked at in this call."""

    done: int
    seen: int


@dataclass(frozen=True, slots=True)
class Division:
    """All that comes into a queue goes on, not a byte of it changed: to `arrived`, and from there
    to `chosen` if `choose` says so, else to `rest`.
    """

    queue: str
    arrived: str
    chosen: str
    rest: str
    choose: Callable[[StoredMessage], bool]

    def __post_init__(self) -> None:
        if len({self.queue, self.arrived, self.chosen, self.rest}) != 4:
            raise ValueError(f"{self.queue!r} is to be divided into two others, by way of a third")


@dataclass(frozen=True, slots=True)
class Divided:
    """How many messages went which way in one call."""

    chosen: int = 0
    rest: int = 0


@dataclass(frozen=True, slots=True)
class Priorities:
    """Which priorities a queue tells apart: `levels`, the one that is served first first. None: it
    has none that hold, and `why` says so.

    `at_once`: what is sent in one step waits, all of it, before any of it is taken. `options` are
    what consumers have to be set to for it, by the names of their transport's options, and
    `defaults` what holds for those who set nothing.
    """

    levels: tuple[int, ...] = ()
    why: str = ""
    at_once: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)


class MessageReading(Protocol):
    """Looks at the messages of one broker. Every method may raise BrokerUnreachable."""

    @property
    def kind(self) -> str:
        """What `StoredMessage.raw` is written in: only a broker of that kind can take it back."""
        ...

    @property
    def marks(self) -> bool:
        """Whether each look marks a message as redelivered, as it is taken out and given back."""
        ...

    async def count(self, queue: str) -> int:
        """How many wait there; 0 if there is no such queue.

        Raise PreconditionFailed where that name is of something else than a queue.
        """
        ...

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        """Those that are served next, the next one first. Reads no more than it returns, and, where
        a look `marks`, those that are skipped.

        Raise PreconditionFailed where that name is of something else than a queue, and, unless
        `requeue` asks for it, where looks wear a message out (quorum queues).
        """
        ...

    def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        """All of them, in the order in which they would be served, in portions; otherwise as
        `peek`.

        Exact for a queue that nobody uses meanwhile. Close it (`contextlib.aclosing`).
        """
        ...


@runtime_checkable
class MessageSearch(Protocol):
    """A `MessageReading` that finds few among many sooner than by reading all of them."""

    def search(
        self, queue: str, ids: Collection[str]
    ) -> AsyncGenerator[tuple[int, StoredMessage], None]:
        """At least those that have one of these ids, each with how many are served before it. It is
        a sieve: what it finds may say that text in another place.

        Exact for a queue that nobody uses meanwhile. Close it (`contextlib.aclosing`).
        """
        ...


class MessageStore(MessageReading, Protocol):
    """What can be done with the messages of one broker, each effect in one step with the fence.

    Every method may raise BrokerUnreachable; those with a fence raise LeaseLost, and do nothing,
    where it is not valid any more.
    """

    @property
    def puts_first(self) -> bool:
        """Whether it can put messages before those that wait already: else they go behind them."""
        ...

    def compose(self, task: TaskMessage) -> StoredMessage:
        """The message of a task, as Celery itself would send it, to be put or to take another's
        place. Each is a message of its own, unless a `tag` is given.

        Raise PreconditionFailed for what cannot be sent: arguments that JSON does not know, names
        that are too long.
        """
        ...

    def revived(self, message: StoredMessage) -> StoredMessage:
        """The same message without what the broker has noted of its deaths.

        RabbitMQ destroys one that dies again and bears the notes of an earlier life in which no
        consumer rejected it: it takes that for a cycle.
        """
        ...

    async def leads_to(self, address: Address, known: Collection[str]) -> tuple[str, ...]:
        """The queues that a message so addressed would go to, as far as the broker tells; none
        where there is none. `known` are queues of which something is seen.
        """
        ...

    def transfer(self, transfer: Transfer, *, fence: Fence) -> AsyncGenerator[Transferred, None]:
        """Move them, a portion at a time, until none is left that was there at the beginning.

        A message is always in one queue or the other, never in both or neither, whenever this
        process ends. Their order and their priorities are kept. Done again under the same ticket,
        it goes on. Raise BrokerUnreachable, and move no more, where the broker has forgotten that
        some have gone: a fail-over lost the last writes, and they are back. Raise
        PreconditionFailed where one of the names is of something else than a queue. Close it
        (`contextlib.aclosing`).
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
        address: str | None = None,
    ) -> bool:
        """Add messages, the first to be served first, and count them under `ticket`.

        All of them, before those that wait already or behind these (`puts_first`), and addressed as
        by a transfer. False, and nothing is added, unless exactly `done` were counted before: so a
        repetition, or a second restore of the same backup, adds nothing. Raise PreconditionFailed
        as `transfer` does, or if one of them cannot be addressed anew.
        """
        ...

    async def priorities(self, queue: str) -> Priorities:
        """What the broker tells of the priorities of a queue."""
        ...

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str, fence: Fence
    ) -> frozenset[str]:
        """Send each message behind those that wait in the queue, in this order, unless one was sent
        under its name before; the names of those that were sent now.

        All in one step with the note of their names, which is kept for `SENT_KEPT` seconds. Raise
        PreconditionFailed as `put` does.
        """
        ...

    async def sent(self, names: Collection[str]) -> frozenset[str]:
        """Under which of these names something was sent once."""
        ...

    async def counted(self, ticket: str) -> int:
        """How many messages have gone under it; 0 if it is not known."""
        ...

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        """Remove the count."""
        ...

    async def drop(self, queue: str, *, count: int, fence: Fence) -> int:
        """Destroy a queue of parked messages if exactly so many are in it; how many were."""
        ...


class FirstInLine(AbstractAsyncContextManager["FirstInLine", None], Protocol):
    """Takes what comes into queues before a worker can that begins to consume them meanwhile, for
    some 2 s of what comes.

    At its end what has not been divided is put back, to be served first. It needs no lease: a
    message is always in the one queue or the other. It never fails: where the broker is away, or
    has no room for it, workers get what they would get without it.
    """

    def add(self, queue: str, into: str) -> None:
        """From now on of this queue."""
        ...


@runtime_checkable
class MessageDivider(Protocol):
    """A `MessageStore` that can also carry on all that comes into a queue, one of two ways."""

    def first_in_line(self) -> FirstInLine:
        """What takes messages before workers can."""
        ...

    async def divide(self, division: Division, *, fence: Fence) -> Divided:
        """Carry on a portion of what waits there, those that are served next, and tell how many.

        A message is always in exactly one of the four queues, whenever this process ends; order
        and priorities are kept. None is passed over, so it costs the same however many wait, and
        nothing is counted: whatever is there after a fail-over is divided again. Raise LeaseLost,
        and carry none, without a valid fence; PreconditionFailed as `MessageStore.transfer` does.
        """
        ...
