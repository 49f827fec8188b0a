"""A message broker with the workers behind it, and the lock of a context that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from celery_ops.model import (
        Heartbeat,
        HeldMessage,
        Holder,
        PeriodicTask,
        RunRecord,
        TakenRecord,
        Targets,
        TaskMessage,
    )
    from celery_ops.ports.asking import (
        Followed,
        GivenBack,
        Question,
        QueuesReading,
        Reply,
        Round,
    )
    from celery_ops.ports.changing import Fence, Order
    from celery_ops.ports.messages import MessageReading, MessageStore


class Broker(Protocol):
    """A message broker with the workers behind it.

    Every method may raise BrokerUnreachable. Nothing but `order`, `send`, `take`, `clear_taken`,
    `restore`, `note_run`, `break_lease` and the lease writes anything that outlives its expiry.
    """

    @property
    def address(self) -> str:
        """For people: the URL without its password."""
        ...

    @property
    def identity(self) -> str:
        """The same for every client of this broker, database and prefix; contains no secret."""
        ...

    @property
    def refuses_runs(self) -> str:
        """Why no run can change anything there: this kind of broker can keep neither a lease nor
        what is taken. Empty: it can.
        """
        ...

    @property
    def serves_first(self) -> bool:
        """Whether a message can be sent that is served before what waits in its queue."""
        ...

    def heartbeats(self) -> AsyncIterator[Heartbeat]:
        """Heartbeats as they come, until cancelled; ends with BrokerUnreachable, never silently."""
        ...

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        """Ask everybody (`to=None`) or some nodes, and return as soon as every expected reply
        came.

        `timeout` is in seconds and total. `known` are names that must have answered for the round
        to be complete when the broker cannot count listeners.
        """
        ...

    async def nodes(self) -> frozenset[str] | None:
        """Names bound to the control exchange, dead ones included; None where it cannot be told."""
        ...

    async def queues(self, known: Collection[str]) -> QueuesReading:
        """Sizes of the queues in `known` and of all others that can be found without `KEYS`."""
        ...

    async def ahead_of(self, message: TaskMessage) -> int | None:
        """How many messages are served before it; None if it was not found in its queue."""
        ...

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        """The entries of RedBeat's schedule; None where this broker keeps none that can be read."""
        ...

    def follow(self, task: str | None) -> AbstractAsyncContextManager[Followed]:
        """What is announced of the task with that id, or of every task (None), from the moment it
        is entered.
        """
        ...

    async def taken(self) -> tuple[TakenRecord, ...]: ...

    async def holder(self) -> Holder | None: ...

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        """Send a control command; raise LeaseLost, and send nothing, if the fence is not valid.

        The replies are acknowledgements: `ok` means scheduled. A missing one means unknown.
        """
        ...

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        """Put it behind all others in its queue, or before them (`first`, where the broker
        `serves_first`); raise LeaseLost, and send nothing, without the lease.
        """
        ...

    async def take(self, record: TakenRecord, *, fence: Fence) -> None: ...

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        """Remove the record of that kind, worker and run; what another run has taken stays."""
        ...

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        """Give held messages back to the queues they came from, to be served next.

        Each in one step, and only while it is still held in that very delivery; in the order
        given. The caller has proved that nobody holds them. Raise LeaseLost, and give back nothing,
        if the fence is not valid.
        """
        ...

    async def note_run(self, record: RunRecord) -> None:
        """Keep it for every operator to see, in place of what was noted of that run before.

        The oldest give way to the newest; who writes needs no lease.
        """
        ...

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        """All that are kept, newest first. One that cannot be read is left out."""
        ...

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        """Take the lease from `holder` and note, in the same step, who did: `record` is its run's.

        False, and nothing is changed, if it is not that holder's any more.
        """
        ...

    @property
    def lease(self) -> Lease: ...

    @property
    def messages(self) -> MessageReading:
        """What waits in its queues, message by message."""
        ...

    @property
    def store(self) -> MessageStore | None:
        """The same, to be moved; None where that cannot be done on this kind of broker."""
        ...

    def beside(self, lane: str) -> Broker | None:
        """The same broker, where every effect is under another lease, of that name; None where
        there is no such thing. It is closed with this one.
        """
        ...

    async def close(self) -> None: ...


class Lease(Protocol):
    """The lock of a context. It expires by itself when its holder dies."""

    @property
    def ttl(self) -> float:
        """Seconds a lease stays valid after `acquire` or `renew`."""
        ...

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        """Raise LeaseHeld, naming the holder, if somebody else has it.

        With `takes_over` the lease of the same run by the same operator is taken from whoever held
        it: its journal's lock proves that its executor is gone.
        """
        ...

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        """Raise LeaseLost if it is no longer ours.

        `holder` is what everybody is told of it from now on. A full broker renews it, too.
        """
        ...

    async def release(self, fence: Fence) -> None:
        """Give it up; not an error if it was lost meanwhile."""
        ...
