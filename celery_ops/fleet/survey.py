"""Asks the broker, the workers and the supervisors, and keeps what they said.

One surveyor a context. It changes nothing: everything it sends is a `Question` or a status command.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.fleet.known import Asking
from celery_ops.fleet.memory import Memory
from celery_ops.fleet.orphans import BETWEEN_ROUNDS
from celery_ops.fleet.states import join
from celery_ops.fleet.statuses import Statuses
from celery_ops.fleet.verdicts import Known
from celery_ops.model import FleetSnapshot, Targets
from celery_ops.model.holding import HOLDS, hold_of
from celery_ops.ports import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from celery_ops.errors import BrokerUnreachable
    from celery_ops.model import Finding, Heartbeat, Host, ServiceRef
    from celery_ops.ports import Broker, Clock, Hosts

STATS_INTERVAL = 10.0
"""Seconds after which everybody's stats are asked for again."""
REGISTERED_AT_ONCE = 20
"""New workers whose registered tasks one routine refresh asks for: these replies are large."""
_ROUTINE = (
    Question.PING,
    Question.ACTIVE,
    Question.RESERVED,
    Question.SCHEDULED,
    Question.ACTIVE_QUEUES,
)
_FOR_A_PROOF = (*_ROUTINE, Question.STATS, Question.REGISTERED)


def _nothing(_: FleetSnapshot) -> tuple[Finding, ...]:
    return ()


class Surveyor:
    """Holds what was learned of one context's fleet, and learns more when told to."""

    def __init__(
        self,
        broker: Broker,
        hosts: Hosts,
        *,
        context: str,
        services: Iterable[ServiceRef],
        clock: Clock,
        scope: Sequence[str] = ("*",),
        protected: bool = False,
        machines: Iterable[Host] = (),
        diagnose: Callable[[FleetSnapshot], tuple[Finding, ...]] = _nothing,
    ) -> None:
        """`diagnose` finds a snapshot's problems; `machines` are the hosts with their addresses."""
        configured = tuple(services)
        self.broker = broker
        self._context = context
        self._clock = clock
        self._protected = protected
        self._diagnose = diagnose
        self._statuses = Statuses(hosts, configured, machines, clock=clock)
        expected = (ref.worker for ref in configured if ref.worker is not None and not ref.beat)
        self._memory = Memory(scope, expected)
        self._stats_at: float | None = None
        self._lost_at: datetime | None = None

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take note of a heartbeat; the next snapshot knows it."""
        self._memory.hear(heartbeat, self._clock.now())

    async def refresh(
        self,
        *,
        questions: Collection[Question] | None = None,
        to: Targets | None = None,
        timeout: float = 1.0,
        services: Collection[ServiceRef] | None = None,
        patience: float | None = None,
    ) -> FleetSnapshot:
        """Ask, and join the answers with everything known.

        Without `questions` the usual ones are asked, `stats` and `registered` only when they are
        due. With `to` only these workers are asked and the others keep their older readings.
        `timeout` is in seconds and bounds the round; it ends earlier when all have answered. With
        `services` exactly these are read, now, however long their hosts take within their own
        deadline; else hosts that were never read are waited for `patience` seconds at most, or as
        long as the round.

        Raise BrokerUnreachable if the broker cannot be read. Hosts that cannot be only mark their
        services.
        """
        if services is None:
            reading_hosts = self._statuses.refresh(timeout if patience is None else patience)
        else:
            reading_hosts = self._statuses.read(services, () if to is None else to.names)
        async with _together() as group:
            group.create_task(self._read_broker(questions, to, timeout))
            group.create_task(reading_hosts)
        self._lost_at = None
        return self._snapshot()

    async def refresh_surely(
        self,
        *,
        questions: Collection[Question] | None = None,
        timeout: float = 1.0,
        patience: float | None = None,
    ) -> FleetSnapshot:
        """As `refresh`, and once more a moment later where a second round has to say the same.

        That one asks all that a proof rests on, everybody's registered tasks too.
        """
        snapshot = await self.refresh(questions=questions, timeout=timeout, patience=patience)
        if any(one.settles for one in snapshot.unproven):
            await self._clock.sleep(BETWEEN_ROUNDS)
            snapshot = await self.refresh(questions=questions or _FOR_A_PROOF, timeout=timeout)
        return snapshot

    async def current_release(self, host: str) -> str | None:
        """The release that a host's services are started with now; the next snapshot knows it too.

        Raise CommandFailed or HostUnreachable.
        """
        return await self._statuses.read_releases(host)

    async def find_processes(self) -> None:
        """Look on all hosts for processes of Celery's; the next snapshot knows them."""
        await self._statuses.read_processes()

    def lost(self, error: BrokerUnreachable) -> FleetSnapshot:
        """The last known fleet while its broker cannot be read: everything in it ages, visibly."""
        self._lost_at = self._lost_at or self._clock.now()
        snapshot = replace(
            self._join(), complete=False, broker_error=error.says, broker_lost_at=self._lost_at
        )
        return replace(snapshot, problems=self._diagnose(snapshot))

    async def close(self) -> None:
        """End status commands that are still under way. Broker and hosts belong to the caller."""
        await self._statuses.close()

    # --- asking ---

    async def _read_broker(
        self, questions: Collection[Question] | None, to: Targets | None, timeout: float
    ) -> None:
        memory = self._memory
        known = memory.queue_names
        newcomers = self._newcomers() if questions is None and to is None else None
        async with _together() as group:
            sizes = group.create_task(self.broker.queues(known))
            taken = group.create_task(self.broker.taken())
            holder = group.create_task(self.broker.holder())
            group.create_task(self._ask(self._questions(questions, to), to, timeout))
            if newcomers is not None:
                group.create_task(self._ask_registered(newcomers, timeout))
        memory.taken, memory.holder = taken.result(), holder.result()
        holds = self.broker.beside(HOLDS) if hold_of(memory.taken) is not None else None
        memory.forwarder = None if holds is None else await holds.holder()
        queues = sizes.result()
        if not memory.queue_names <= {queue.name for queue in queues.queues} | known:
            # Somebody consumes a queue that nobody knew of when the sizes were asked for.
            queues = await self.broker.queues(memory.queue_names)
        memory.note_queues(queues, self._clock.monotonic())

    async def _ask(self, questions: Sequence[Question], to: Targets | None, timeout: float) -> None:
        """One round; learned from together with who is bound meanwhile. No question: no round."""
        if not questions:
            self._memory.bound = await self.broker.nodes()
            return
        started = self._clock.monotonic()
        expected = self._expected_to_answer(to)
        async with _together() as group:
            bound = group.create_task(self.broker.nodes())
            round_ = group.create_task(
                self.broker.ask(questions, to=to, timeout=timeout, known=expected)
            )
        self._memory.bound = bound.result()
        asking = Asking(frozenset(questions), started, self._clock.monotonic())
        self._memory.learn(round_.result(), to, asking)

    async def _ask_registered(self, newcomers: Targets, timeout: float) -> None:
        """A side question: who does not answer it has not missed the round."""
        questions = (Question.REGISTERED,)
        started = self._clock.monotonic()
        round_ = await self.broker.ask(
            questions, to=newcomers, timeout=timeout, known=newcomers.names
        )
        asking = Asking(frozenset(questions), started, self._clock.monotonic())
        self._memory.learn_aside(round_, asking)

    def _questions(
        self, questions: Collection[Question] | None, to: Targets | None
    ) -> tuple[Question, ...]:
        if questions is not None:
            return tuple(dict.fromkeys(questions))
        now = self._clock.monotonic()
        nodes = self._memory.nodes.values()
        is_due = (
            to is not None
            or self._stats_at is None
            or now - self._stats_at >= STATS_INTERVAL
            or any(node.wants_stats or node.may_be_drained for node in nodes)
        )
        if is_due and to is None:
            self._stats_at = now
        return (*_ROUTINE, Question.STATS) if is_due else _ROUTINE

    def _newcomers(self) -> Targets | None:
        """Some of those whose registered tasks are not known.

        Nobody on the first refresh: it must be quick.
        """
        nodes = [node for node in self._memory.nodes.values() if node.wants_registered]
        chosen = nodes[:REGISTERED_AT_ONCE]
        for node in chosen:
            node.registered_tries -= 1
        return Targets(tuple(node.name for node in chosen)) if chosen else None

    def _expected_to_answer(self, to: Targets | None) -> frozenset[str]:
        if to is not None:
            return frozenset(to.names)
        return frozenset(node.name for node in self._memory.nodes.values() if node.is_answering)

    # --- telling ---

    def _snapshot(self) -> FleetSnapshot:
        snapshot = self._join()
        supervised = (one.name for one in snapshot.workers if one.service is not None)
        self._memory.forget(self._clock.now(), supervised)
        return replace(snapshot, problems=self._diagnose(snapshot))

    def _join(self) -> FleetSnapshot:
        memory = self._memory
        return join(
            Known(
                context=self._context,
                broker=self.broker.address,
                at=self._clock.now(),
                monotonic=self._clock.monotonic(),
                nodes=memory.nodes,
                services=self._statuses.services,
                hosts=self._statuses.machines,
                bound=memory.bound,
                queues=memory.queues,
                taken=memory.taken,
                holder=memory.holder,
                forwarder=memory.forwarder,
                held=memory.held,
                unanswered=memory.unanswered,
                unasked=memory.unasked,
                suspects=memory.suspects,
                counted=memory.counted,
                protected=self._protected,
                flows=memory.flows.all(),
                waiting=memory.waiting,
            )
        )


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises its first failure itself: callers expect our errors, not groups."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        # Its cause is the adapter's; the group only says that it happened beside other things.
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
