"""The broker adapter for Redis: the `Broker` port without kombu.

kombu's consumers sweep `unacked` with a visibility timeout of their own (FACTS A) and wait for
replies by a timeout, so they are not used. Each part of the work has a module: `mailbox` asks and
orders, `heartbeats` listens, `sizes` counts, `store` looks at what waits, `tasks` sends and follows
one, `lease` locks; this class puts them behind the port.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from celery_ops.broker import heartbeats, names, records, redbeat, scripts
from celery_ops.broker.lease import DEFAULT_TTL, RedisLease
from celery_ops.broker.mailbox import Mailbox
from celery_ops.broker.questions import ARGUMENTS
from celery_ops.broker.restoring import Restorer
from celery_ops.broker.sizes import QueueSizes
from celery_ops.broker.store import RedisStore
from celery_ops.broker.tasks import Tasks
from celery_ops.broker.wire import Wire
from celery_ops.errors import LeaseLost, RecordUnreadable
from celery_ops.ports import Round

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from celery_ops.broker.address import RedisAddress
    from celery_ops.broker.wire import Word
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
        GivenBack,
        Order,
        Question,
        QueuesReading,
        Reply,
    )

RUNS_KEPT = 500
REPLY_EXPIRY = 60.0
"""Seconds after which nothing is left of a client that was killed."""


class RedisBroker:
    """Implements `ports.Broker`. Connects when it is first used, and again after a loss.

    `lease_ttl` and `reply_expiry` are in seconds.
    """

    refuses_runs = ""
    serves_first = True

    def __init__(
        self,
        address: RedisAddress,
        options: Mapping[str, object],
        *,
        clock: Clock,
        lease_ttl: float = DEFAULT_TTL,
        reply_expiry: float = REPLY_EXPIRY,
        lane: str = "",
    ) -> None:
        """`lane` names the lease; empty: that of the context."""
        self._clock = clock
        self._address = address
        read = names.from_options(address.db, options, by_sentinels=address.sentinels is not None)
        self._names = replace(read, lane=lane)
        self._make_beside = partial(
            RedisBroker, address, options,
            clock=clock, lease_ttl=lease_ttl, reply_expiry=reply_expiry,
        )  # fmt: skip
        self._beside: dict[str, RedisBroker] = {}
        self._wire = Wire(address)
        self._mailbox = Mailbox(self._wire, self._names, clock, expiry=reply_expiry)
        self._sizes = QueueSizes(self._wire, self._names, clock)
        self._restorer = Restorer(self._wire, self._names)
        self._tasks = Tasks(self._wire, self._names)
        self._messages = RedisStore(self._wire, self._names)
        self._lease = RedisLease(self._wire, self._names, ttl=lease_ttl)

    @property
    def address(self) -> str:
        return str(self._address)

    @property
    def identity(self) -> str:
        """The server as the URL names it: what a restart and a failover behind one name keep."""
        server, db = self._address.server, self._address.db
        return f"redis {server} db={db} prefix={self._names.prefix!r}"

    @property
    def lease(self) -> RedisLease:
        return self._lease

    @property
    def messages(self) -> RedisStore:
        return self._messages

    @property
    def store(self) -> RedisStore:
        return self._messages

    def heartbeats(self) -> AsyncIterator[Heartbeat]:
        return heartbeats.heartbeats(self._wire, self._names)

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

    async def nodes(self) -> frozenset[str]:
        return await self._mailbox.bound_nodes()

    async def queues(self, known: Collection[str]) -> QueuesReading:
        reading = await self._sizes.read(known)
        await self._mailbox.expire(self._sizes.reply_lists())
        return reading

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        over = await self._mailbox.round(
            [(order.method, order.arguments)], to=to, timeout=timeout, fence=fence
        )
        return over.replies[order.method]

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        await self._tasks.send(message, fence=fence)

    async def ahead_of(self, message: TaskMessage) -> int | None:
        return await self._tasks.ahead_of(message)

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        return await redbeat.entries(self._wire)

    def follow(self, task: str | None) -> AbstractAsyncContextManager[Followed]:
        return self._tasks.follow(task)

    async def taken(self) -> tuple[TakenRecord, ...]:
        """What runs owe back; raise RecordUnreadable, naming each entry that cannot be read."""
        entries = await self._wire.read("HGETALL", self._names.taken)
        found: list[TakenRecord] = []
        unreadable: list[str] = []
        for field, value in entries.items():
            try:
                found.append(records.decode_taken(value))
            except RecordUnreadable as error:
                unreadable.append(f"{field.decode(errors='replace')!r}: {error.says}")
        if unreadable:
            raise RecordUnreadable(
                f"The broker's {self._names.taken} has entries that cannot be read: "
                + "; ".join(unreadable),
                fix="They say what a run took away. Look at them with HGETALL; once what they"
                " tell is given back, remove them with HDEL.",
            )
        return tuple(sorted(found, key=lambda record: record.key))

    async def holder(self) -> Holder | None:
        return await self._lease.holder()

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        await self._fenced(scripts.TAKE, fence, record.key, records.encode_taken(record))

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        stored = await self._wire.read("HGET", self._names.taken, record.key)
        is_its_own = stored is not None and records.decode_taken(stored).run == record.run
        await self._fenced(scripts.CLEAR_TAKEN, fence, record.key, stored if is_its_own else "")

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        return await self._restorer.restore(messages, fence=fence)

    async def note_run(self, record: RunRecord) -> None:
        await self._wire.write(
            "EVAL", scripts.NOTE_RUN, 1, self._names.runs,
            record.run, records.encode_run(record), RUNS_KEPT,
        )  # fmt: skip

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        found = []
        for value in (await self._wire.read("HGETALL", self._names.runs)).values():
            try:
                found.append(records.decode_run(value))
            except RecordUnreadable:
                continue  # of another version: a list is no reason to refuse anything
        return tuple(sorted(found, key=lambda record: record.run, reverse=True))

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        keys = (self._names.lease, self._names.runs)
        return bool(
            await self._wire.write(
                "EVAL", scripts.BREAK, len(keys), *keys,
                holder.run, holder.operator, records.moment(holder.since),
                records.encode_run(record),
            )
        )  # fmt: skip

    def beside(self, lane: str) -> RedisBroker:
        if lane not in self._beside:
            self._beside[lane] = self._make_beside(lane=lane)
        return self._beside[lane]

    async def close(self) -> None:
        """Leave nothing but what expires by itself."""
        for other in self._beside.values():
            await other.close()
        await self._mailbox.close()
        await self._wire.close()

    async def _fenced(self, script: str, fence: Fence, *arguments: Word) -> None:
        keys = (self._names.lease, self._names.taken)
        # Surely: what is taken right after it must not be forgotten by a fail-over.
        done = await self._wire.write_surely(
            "EVAL", script, len(keys), *keys, fence.token, *arguments
        )
        if not done:
            raise LeaseLost("The lease of this context is no longer ours; nothing was written.")
