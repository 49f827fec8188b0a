"""The broker adapter for RabbitMQ: the `Broker` port by py-amqp alone.

One connection reads, one asks (where memory or disk are short the server stops reading from those
who publish), one a lease carries the effects, one each listens to heartbeats and task events. Each
part of the work has a module of its own; this class puts them behind the port.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.broker import records
from celery_ops.broker.questions import ARGUMENTS
from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit import events, names
from celery_ops.broker.rabbit import messages as amqp_messages
from celery_ops.broker.rabbit.lease import DEFAULT_TTL, RabbitLease
from celery_ops.broker.rabbit.ledger import Ledger, patiently
from celery_ops.broker.rabbit.link import AmqpLink, delivered
from celery_ops.broker.rabbit.mailbox import RabbitMailbox
from celery_ops.broker.rabbit.management import Management
from celery_ops.broker.rabbit.sizes import RabbitSizes
from celery_ops.broker.rabbit.store import RabbitStore
from celery_ops.errors import BrokerUnreachable, PreconditionFailed, RecordUnreadable
from celery_ops.ports import GivenBack, Round

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from celery_ops.broker.rabbit.address import AmqpAddress
    from celery_ops.broker.rabbit.link import Session
    from celery_ops.config.secret import Secret
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
    from celery_ops.ports import (
        Clock,
        Fence,
        Followed,
        Order,
        Question,
        QueuesReading,
        Reply,
    )

RUNS_KEPT = 500
NEVER_KEPT = 10.0
"""So many seconds it is believed that there never was a record: the server logs each look at a
queue that does not exist as an error."""
_TAKEN = Ledger(names.TAKEN)
_RUNS = Ledger(names.RUNS)


class RabbitBroker:
    """Implements `ports.Broker`. Connects when it is first used, and again after a loss.

    `management` is the URL of the management API; `lease_ttl` is in seconds.
    """

    refuses_runs = ""
    serves_first = False

    def __init__(
        self,
        address: AmqpAddress,
        options: Mapping[str, object],
        *,
        clock: Clock,
        management: Secret | None = None,
        lease_ttl: float = DEFAULT_TTL,
    ) -> None:
        self._clock = clock
        self._address = address
        self._names = names.from_options(options)
        self._management = None if management is None else Management(management, address)
        self._reading = AmqpLink(address, "reads")
        self._asking = AmqpLink(address, "asks")
        self._lease = RabbitLease(
            address,
            reading=self._reading,
            ringing=self._asking,
            ttl=lease_ttl,
            prepare=_TAKEN.declare,
        )
        self._mailbox = RabbitMailbox(
            self._asking, self._lease, self._names, clock, bound=self.nodes
        )
        self._sizes = RabbitSizes(self._reading, self._names, self._management, clock)
        self._messages = RabbitStore(address, self._lease, self._management)
        self._nothing_taken_until = 0.0

    @property
    def address(self) -> str:
        return str(self._address)

    @property
    def identity(self) -> str:
        """The server as the URL names it, and the virtual host."""
        place = self._address.place.replace("localhost:", "127.0.0.1:").replace(
            "[::1]:", "127.0.0.1:"
        )
        return f"rabbitmq {place} vhost={self._address.vhost!r}"

    @property
    def lease(self) -> RabbitLease:
        return self._lease

    @property
    def messages(self) -> RabbitStore:
        return self._messages

    @property
    def store(self) -> RabbitStore:
        return self._messages

    def heartbeats(self) -> AsyncIterator[Heartbeat]:
        return events.heartbeats(self._address, self._names)

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        asked_at = self._clock.now()
        wanted = tuple(dict.fromkeys(questions))
        calls = [(question.value, ARGUMENTS.get(question, {})) for question in wanted]
        over = await self._mailbox.round(calls, to=to, timeout=timeout, known=known)
        return Round(
            asked_at=asked_at,
            ended_at=self._clock.now(),
            replies={question: over.replies[question.value] for question in wanted},
            expected=over.expected,
            complete=over.complete,
        )

    async def nodes(self) -> frozenset[str] | None:
        """By the management API; None without it."""
        if self._management is None:
            return None
        try:
            bound = await self._management.bound(self._names.pidbox)
        except BrokerUnreachable:
            return None  # it is said with the queues
        return frozenset(node for node in map(self._names.node, bound) if node)

    async def queues(self, known: Collection[str]) -> QueuesReading:
        return await self._sizes.read(known)

    async def ahead_of(self, message: TaskMessage) -> int | None:
        """Not told: a place in a queue is seen only by taking messages out of it."""
        del message
        return None

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        return None

    def follow(self, task: str | None) -> AbstractAsyncContextManager[Followed]:
        return events.follow(self._address, self._names, task)

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        over = await self._mailbox.round(
            [(order.method, order.arguments)], to=to, timeout=timeout, fence=fence
        )
        return over.replies[order.method]

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        """Raise PreconditionFailed if there is no such queue: it would be lost."""
        if not await self._lease.under(fence, partial(_sent, message)):
            raise PreconditionFailed(
                f"There is no queue {message.queue!r}, so nothing was sent.",
                fix="A worker that consumes it declares it when it starts.",
            )

    async def holder(self) -> Holder | None:
        return await self._lease.holder()

    async def taken(self) -> tuple[TakenRecord, ...]:
        """What runs owe back; raise RecordUnreadable, naming each entry that cannot be read."""
        if time.monotonic() < self._nothing_taken_until or await self._sizes.lacks(_TAKEN.queue):
            return ()
        bodies = await patiently(lambda: self._reading.read(_TAKEN.read))
        if bodies is None:
            self._nothing_taken_until = time.monotonic() + NEVER_KEPT
            return ()
        found: list[TakenRecord] = []
        unreadable: list[str] = []
        for body in bodies:
            try:
                found.append(records.decode_taken(body))
            except RecordUnreadable as error:
                unreadable.append(error.says)
        if unreadable:
            raise RecordUnreadable(
                f"The broker's queue {names.TAKEN} has messages that cannot be read: "
                + "; ".join(unreadable),
                fix="They say what a run took away. Look at them in the management UI; once what"
                " they tell is given back, remove them there.",
            )
        return tuple(sorted(found, key=lambda record: record.key))

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        def edit(bodies: list[bytes]) -> tuple[set[int], bytes | None]:
            same = {at for at, body in enumerate(bodies) if _taken(body, "key") == record.key}
            return same, records.encode_taken(record).encode()

        await self._change_taken(edit, fence)

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        def edit(bodies: list[bytes]) -> tuple[set[int], bytes | None]:
            of_this_run = {
                at
                for at, body in enumerate(bodies)
                if (_taken(body, "key"), _taken(body, "run")) == (record.key, record.run)
            }
            return of_this_run, None

        await self._change_taken(edit, fence)

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        """RabbitMQ gives messages back by itself when their consumer is gone: nobody else can."""
        await self._lease.under(fence, _nothing)
        return (GivenBack.GONE,) * len(messages)

    async def note_run(self, record: RunRecord) -> None:
        await self._note(record)

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        found = []
        for body in await patiently(lambda: self._reading.read(_RUNS.read)) or ():
            try:
                found.append(records.decode_run(body))
            except RecordUnreadable:
                continue  # of another version: a list is no reason to refuse anything
        return tuple(sorted(found, key=lambda record: record.run, reverse=True))

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        """Noted first: so the executor, when it finds its lease lost, finds who broke it."""
        if not await self._lease.is_held_by(holder):
            return False
        before = await self._note(record)
        if await self._lease.break_it(holder):
            return True
        await self._note_again(record.run, before)
        return False

    def beside(self, lane: str) -> None:
        """There is none: a task that is tried again names the queue it was delivered from, so none
        can be consumed in another's place for a while.
        """
        del lane

    async def close(self) -> None:
        """Leave nothing: everything of ours goes with its connection."""
        for part in (self._lease, self._messages, self._asking, self._reading):
            await part.close()

    async def _change_taken(
        self, edit: Callable[[list[bytes]], tuple[set[int], bytes | None]], fence: Fence
    ) -> None:
        work = partial(_TAKEN.change, edit=edit)
        await patiently(lambda: self._lease.under(fence, work))
        self._nothing_taken_until = 0.0

    async def _note(self, record: RunRecord) -> list[bytes]:
        """Keep it; returns what was noted of that run before."""

        def edit(bodies: list[bytes]) -> tuple[set[int], bytes | None]:
            runs = [_run(body) for body in bodies]
            same = {at for at, run in enumerate(runs) if run == record.run}
            others = sorted((run, at) for at, run in enumerate(runs) if at not in same)
            oldest = others[: max(0, len(others) + 1 - RUNS_KEPT)]
            return same | {at for _, at in oldest}, records.encode_run(record).encode()

        work = partial(_RUNS.change, edit=edit)
        gone = await patiently(lambda: self._asking.write(work))
        return [body for body in gone if _run(body) == record.run]

    async def _note_again(self, run: str, bodies: list[bytes]) -> None:
        """Put back what was noted of a run."""

        def edit(present: list[bytes]) -> tuple[set[int], bytes | None]:
            same = {at for at, body in enumerate(present) if _run(body) == run}
            return same, bodies[-1] if bodies else None

        work = partial(_RUNS.change, edit=edit)
        await patiently(lambda: self._asking.write(work))


def connect(
    url: Secret, options: Mapping[str, object], *, clock: Clock, management: Secret | None
) -> RabbitBroker:
    """The broker at a URL; raise UsageError."""
    address = amqp_address.parse(url, options)
    return RabbitBroker(address, options, clock=clock, management=management)


def _sent(message: TaskMessage, session: Session) -> bool:
    letter = amqp_messages.composed(message)
    with session.channel() as channel:
        return delivered(channel, letter, routing_key=message.queue)


def _nothing(session: Session) -> None:
    """Prove that the connection is there."""
    with session.channel():
        pass


def _taken(body: bytes, attribute: str) -> str | None:
    """The key or the run of a record; None for one that cannot be read, which stays."""
    try:
        return str(getattr(records.decode_taken(body), attribute))
    except RecordUnreadable:
        return None


def _run(body: bytes) -> str:
    """The run of a record; one that cannot be read is the oldest."""
    try:
        return records.decode_run(body).run
    except RecordUnreadable:
        return ""
