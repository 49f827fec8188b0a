"""A broker that obeys `ports.Broker` and shows a StandinFleet."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_ops.errors import (
    BrokerFull,
    BrokerUnreachable,
    LeaseHeld,
    LeaseLost,
    ResultsUnreachable,
)
from celery_ops.model import (
    Heartbeat,
    HeldMessage,
    Holder,
    PeriodicTask,
    RunRecord,
    StoredCall,
    StoredResult,
    TakenRecord,
    Targets,
)
from celery_ops.ports import (
    AddConsumer,
    CancelConsumer,
    Control,
    Fence,
    GivenBack,
    Order,
    Question,
    QueueReading,
    QueuesReading,
    Reply,
    Round,
    Unacked,
)
from tests.standin.fleet import Message, Phase, SimulatedWorker, StandinFleet, declaration
from tests.standin.store import StandinStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence

    from celery_ops.model import TaskMessage, TaskNews
    from celery_ops.ports import Clock

LATENCY = 0.005
"""Seconds until the replies of one round are there."""
HEARTBEAT_INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A control command that was ordered, to whom, and when in virtual seconds."""

    order: Order
    to: tuple[str, ...]
    at: float


class StandinLease:
    """A lease that expires by the virtual clock."""

    def __init__(self, broker: StandinBroker) -> None:
        self._broker = broker
        self._tokens = 0
        self._token: str | None = None
        self._expires = 0.0
        self._holder: Holder | None = None
        self.loses_a_reply = False

    @property
    def ttl(self) -> float:
        return 15.0

    @property
    def held_by(self) -> Holder | None:
        is_valid = self._broker.fleet.clock.monotonic() < self._expires
        return self._holder if is_valid else None

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        self._broker.check_writable()
        held_by = self.held_by
        is_ours = held_by is not None and (held_by.run, held_by.operator) == (
            holder.run,
            holder.operator,
        )
        if held_by is not None and not (takes_over and is_ours):
            raise LeaseHeld(str(held_by))
        fence = self._give(holder)
        if self.loses_a_reply:
            self.loses_a_reply = False
            raise BrokerUnreachable("the connection was lost before it replied")
        return fence

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        self._broker.check_reachable()
        self.check(fence)
        if holder is not None:
            self._holder = holder
        self._expires = self._broker.fleet.clock.monotonic() + self.ttl

    async def release(self, fence: Fence) -> None:
        self._broker.check_reachable()
        if fence.token == self._token:
            self._token, self._holder, self._expires = None, None, 0.0

    def check(self, fence: Fence) -> None:
        """Raise LeaseLost unless this fence is the valid one."""
        if fence.token != self._token or self.held_by is None:
            raise LeaseLost("the lease is somebody else's, or expired")

    def steal(self, holder: Holder) -> Fence:
        """What another operator's breaking of the lease does."""
        return self._give(holder)

    def forget(self) -> None:
        """What a restart of a broker without persistence does."""
        self._token, self._holder, self._expires = None, None, 0.0

    def _give(self, holder: Holder) -> Fence:
        self._tokens += 1
        self._token, self._holder = f"token-{self._tokens}", holder
        self._expires = self._broker.fleet.clock.monotonic() + self.ttl
        return Fence(self._token)


class StandinFollowed:
    """What is announced of one task, or of all (None), from now on."""

    def __init__(self, broker: StandinBroker, task: str | None) -> None:
        self._broker = broker
        self._task = task
        self._told = len(self._announced())

    async def news(self, timeout: float) -> tuple[TaskNews, ...]:
        clock = self._broker.fleet.clock
        until = clock.monotonic() + timeout
        while True:
            self._broker.check_reachable()
            news = self._announced()[self._told :]
            self._told += len(news)
            left = until - clock.monotonic()
            if news or left <= 0:
                return tuple(news)
            await clock.sleep(min(LATENCY, left))

    def _announced(self) -> list[TaskNews]:
        self._broker.fleet.settle()
        fleet = self._broker.fleet
        return fleet.announced if self._task is None else fleet.events.get(self._task, [])


class StandinResults:
    """A result backend; `says` is why it cannot be read, and `extended` whether it keeps what tasks
    were called with.
    """

    def __init__(self, fleet: StandinFleet, *, extended: bool = False) -> None:
        self._fleet = fleet
        self.extended = extended
        self.says = ""

    @property
    def address(self) -> str:
        return "standin://results"

    async def news(self, task: str) -> TaskNews | None:
        if self.says:
            raise ResultsUnreachable(self.says)
        self._fleet.settle()
        return self._fleet.results.get(task)

    async def stored(self, task: str) -> StoredResult | None:
        news = await self.news(task)
        if news is None:
            return None
        if not self.extended:
            return StoredResult(news.state.value, error=news.error, uncalled="it is not extended")
        message, at = self._fleet.ends[task]
        return StoredResult(
            news.state.value,
            task=message.task,
            queue=message.queue,
            ended_at=at,
            error=news.error,
            exception=news.error.partition("(")[0] or None,
            ended=at.isoformat(),
            call=StoredCall(message.task, ["a"], {"k": 1}, message.queue),
        )

    async def stored_of(self, tasks: Sequence[str]) -> dict[str, StoredResult]:
        found = {task: await self.stored(task) for task in tasks}
        return {task: stored for task, stored in found.items() if stored is not None}

    async def all_stored(self) -> AsyncGenerator[dict[str, StoredResult], None]:
        self._fleet.settle()
        for task in list(self._fleet.results):
            yield await self.stored_of([task])

    async def close(self) -> None:
        """There is nothing to close."""


class StandinBroker:
    """The broker of a simulated fleet.

    `is_down` makes everything raise BrokerUnreachable, `is_full` every write BrokerFull. `orders`
    are all control commands ever accepted; `asked` all rounds. A broker may be shared by several
    operators.
    """

    refuses_runs = ""
    serves_first = True

    def __init__(self, fleet: StandinFleet, *, counts_listeners: bool = True) -> None:
        self.fleet = fleet
        self.is_down = False
        self.is_full = False
        self.tells_unacked = True
        self.gives_back = False
        """What a consumer held that is gone is given back by itself, as on RabbitMQ."""
        self.counts_consumers: dict[str, int] = {}
        self.delayed: int | None = None
        self.beat_lock: float | None = None
        self.moves_messages = True
        self.puts_first = True
        self.marks = False
        """Each look marks a message as redelivered, as on RabbitMQ."""
        self.after_an_effect: Callable[[], None] = lambda: None
        """Called when messages were moved, and nobody was told yet."""
        self.before_a_look: Callable[[], None] = lambda: None
        """Called before anything is told of messages, and before each portion of them moves."""
        self.notes: tuple[str, ...] = ()
        self.orders: list[Sent] = []
        self.asked: list[tuple[tuple[Question, ...], Targets | None]] = []
        self.strangers: dict[str, dict[Question, object]] = {}
        """Further nodes by name and what they answer, a beat for example."""
        self.records: dict[str, TakenRecord] = {}
        self.runs: dict[str, RunRecord] = {}
        self.tickets: Counter[str] = Counter()
        self.sent_once: set[str] = set()
        self.bodies: dict[str, bytes] = {}
        """What messages carry, by their ids; else no arguments."""
        self.clock: Clock = fleet.clock
        """Of whoever asks: what stamps replies. Messages are stamped by the workers' clock."""
        self._counts_listeners = counts_listeners
        self._lease = StandinLease(self)

    @property
    def address(self) -> str:
        return "standin://broker"

    @property
    def identity(self) -> str:
        return "standin"

    @property
    def lease(self) -> StandinLease:
        return self._lease

    def beside(self, lane: str) -> None:
        del lane

    @property
    def messages(self) -> StandinStore:
        return StandinStore(self)

    @property
    def store(self) -> StandinStore | None:
        return StandinStore(self) if self.moves_messages else None

    async def heartbeats(self) -> AsyncIterator[Heartbeat]:
        clock, fleet = self.fleet.clock, self.fleet
        heard = len(fleet.farewells)
        while True:
            self.check_reachable()
            fleet.settle()
            for name, pid in fleet.farewells[heard:]:
                yield _heartbeat(name, pid, None, online=False)
            heard = len(fleet.farewells)
            for worker in list(fleet.workers):
                if _beats(worker) and worker.next_beat <= clock.monotonic():
                    worker.next_beat = clock.monotonic() + HEARTBEAT_INTERVAL
                    yield _heartbeat(worker.name, worker.pid, worker, online=True)
            await clock.sleep(0.25)

    async def ask(
        self,
        questions: Sequence[Question],
        *,
        to: Targets | None,
        timeout: float,
        known: Collection[str] = (),
    ) -> Round:
        clock, fleet = self.fleet.clock, self.fleet
        self.check_reachable()
        self.asked.append((tuple(questions), to))
        asked_at, deadline = self.clock.now(), clock.monotonic() + timeout
        fleet.settle()
        listening = [worker for worker in fleet.workers if worker.is_listening]
        asked = [worker for worker in listening if to is None or worker.name in to.names]
        names = {worker.name for worker in asked} | (self.strangers.keys() if to is None else set())
        expected = len(asked) + len(self.strangers) if to is None else len(to.names)
        await clock.sleep(min(LATENCY, timeout))
        replies: dict[Question, list[Reply]] = {question: [] for question in questions}
        waiting = list(asked)
        while True:
            self.check_reachable()
            fleet.settle()
            for worker in [one for one in waiting if not _is_deaf(one)]:
                waiting.remove(worker)
                for question in questions:
                    replies[question] += self._answer(worker, question)
            free_at = [_free_at(worker) for worker in waiting]
            next_at = min((at for at in free_at if at is not None), default=deadline)
            if not waiting or next_at >= deadline:
                break
            await clock.sleep(max(LATENCY, next_at - clock.monotonic()))
        for name, answers in self.strangers.items():
            for question in questions:
                if question in answers and (to is None or name in to.names):
                    replies[question].append(Reply(name, self.clock.now(), answers[question]))
        is_complete = all(len(found) >= expected for found in replies.values())
        if not self._counts_listeners:
            is_complete = all(
                set(known) <= {reply.node for reply in found} for found in replies.values()
            )
        if not is_complete and names:
            await clock.sleep(max(0.0, deadline - clock.monotonic()))
        return Round(
            asked_at=asked_at,
            ended_at=self.clock.now(),
            replies={question: tuple(found) for question, found in replies.items()},
            expected=expected if self._counts_listeners else None,
            complete=is_complete,
        )

    async def nodes(self) -> frozenset[str] | None:
        self.check_reachable()
        self.fleet.settle()
        return frozenset(self.fleet.bound)

    async def queues(self, known: Collection[str]) -> QueuesReading:
        self.check_reachable()
        fleet = self.fleet
        fleet.settle()
        held = [
            message
            for worker in fleet.workers
            for message in (*worker.reserved, *worker.scheduled, *worker.hidden)
        ] + [message for message, _ in fleet.stuck]
        found = {name for name, waiting in fleet.queues.items() if waiting}
        found |= {name for worker in fleet.workers for name in worker.configured}
        found |= set(known) | {message.queue for message in held}
        queues = tuple(
            QueueReading(
                name,
                len(fleet.queues.get(name, ())),
                sum(message.queue == name for message in held) if self.tells_unacked else None,
                consumers=self.counts_consumers.get(name),
            )
            for name in sorted(found)
        )
        at = self.clock.now()
        unacked = tuple(
            Unacked(
                f"tag-{message.id}",
                message.id,
                message.queue,
                message.delivered or at,
                message.task,
            )
            for message in held
        )
        return QueuesReading(
            at,
            queues,
            unacked if self.tells_unacked else None,
            self.notes,
            keeps_held=not self.gives_back,
            delayed=self.delayed,
            beat_lock=self.beat_lock,
        )

    async def send(self, message: TaskMessage, *, fence: Fence) -> None:
        self.check_writable()
        self._lease.check(fence)
        self.fleet.deliver(message, self.clock.now())

    async def ahead_of(self, message: TaskMessage) -> int | None:
        self.check_reachable()
        self.fleet.settle()
        waiting = [one.id for one in self.fleet.queues.get(message.queue, ())]
        return waiting.index(message.id) if message.id in waiting else None

    async def redbeat(self) -> tuple[PeriodicTask, ...] | None:
        self.check_reachable()
        return self.fleet.redbeat

    @asynccontextmanager
    async def follow(self, task: str | None) -> AsyncIterator[StandinFollowed]:
        self.check_reachable()
        yield StandinFollowed(self, task)

    async def taken(self) -> tuple[TakenRecord, ...]:
        self.check_reachable()
        return tuple(self.records.values())

    async def holder(self) -> Holder | None:
        self.check_reachable()
        return self._lease.held_by

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        clock, fleet = self.fleet.clock, self.fleet
        self.check_writable()
        self._lease.check(fence)
        fleet.settle()
        self.orders.append(Sent(order, to.names, clock.monotonic()))
        addressed = [
            worker for worker in fleet.workers if worker.is_listening and worker.name in to.names
        ]
        replies = []
        for worker in addressed:
            given = self._obey(worker, order)
            if given is not None:
                replies.append(given)
        fleet.settle()
        missing = {reply.node for reply in replies} != set(to.names)
        await clock.sleep(timeout if missing else min(LATENCY, timeout))
        return tuple(replies)

    async def take(self, record: TakenRecord, *, fence: Fence) -> None:
        self.check_writable()
        self._lease.check(fence)
        self.records[record.key] = record

    async def clear_taken(self, record: TakenRecord, *, fence: Fence) -> None:
        self.check_writable()
        self._lease.check(fence)
        kept = self.records.get(record.key)
        if kept is not None and kept.run == record.run:
            del self.records[record.key]

    async def restore(
        self, messages: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        self.check_writable()
        self._lease.check(fence)
        self.fleet.settle()
        return tuple(self._give_back(message) for message in messages)

    async def note_run(self, record: RunRecord) -> None:
        self.check_writable()
        self.runs[record.run] = record

    async def noted_runs(self) -> tuple[RunRecord, ...]:
        self.check_reachable()
        return tuple(self.runs[run] for run in sorted(self.runs, reverse=True))

    async def break_lease(self, holder: Holder, record: RunRecord) -> bool:
        self.check_reachable()
        held_by = self._lease.held_by
        if held_by is None or replace(held_by, step="") != replace(holder, step=""):
            return False
        self.runs[record.run] = record
        self._lease.forget()
        return True

    async def close(self) -> None:
        """There is nothing to close."""

    def check_reachable(self) -> None:
        if self.is_down:
            raise BrokerUnreachable("standin://broker refused the connection")

    def check_writable(self) -> None:
        self.check_reachable()
        if self.is_full:
            raise BrokerFull("the broker is full and refuses writes")

    def _give_back(self, wanted: HeldMessage) -> GivenBack:
        for entry in self.fleet.stuck:
            message, _ = entry
            if (f"tag-{message.id}", message.delivered) == (wanted.tag, wanted.since):
                self.fleet.stuck.remove(entry)
                self.fleet.queues.setdefault(message.queue, deque()).appendleft(message)
                self.fleet.settle()
                return GivenBack.DONE
        return GivenBack.GONE

    def _answer(self, worker: SimulatedWorker, question: Question) -> list[Reply]:
        if worker.faults.never_replies or question in worker.faults.silent_to:
            return []
        at = self.clock.now()
        if worker.faults.answers_in_pickle:
            return [Reply(worker.name, at, unreadable="application/x-python-serialize")]
        return [Reply(worker.name, at, self._value(worker, question))]

    def _value(self, worker: SimulatedWorker, question: Question) -> object:
        match question:
            case Question.PING:
                return {"ok": "pong"}
            case Question.STATS:
                return self._stats(worker)
            case Question.ACTIVE:
                return [
                    self._task(worker, message, started) for message, started, _ in worker.active
                ]
            case Question.RESERVED:
                return [self._task(worker, message, None) for message in worker.reserved]
            case Question.SCHEDULED:
                return [
                    {
                        "eta": self.fleet.wall_time(message.eta).isoformat(),
                        "priority": 6,
                        "request": self._task(worker, message, None),
                    }
                    for message in worker.scheduled
                    if message.eta is not None
                ]
            case Question.ACTIVE_QUEUES:
                return list(worker.consuming.values())
            case Question.REGISTERED:
                return [
                    f"{name} [rate_limit=10/m acks_late=False]"
                    if name in worker.rate_limited
                    else f"{name} [acks_late=False ignore_result={not worker.keeps_results}]"
                    for name in worker.registered
                ]
            case Question.CONF | Question.REVOKED:
                conf = {"beat_schedule": self.fleet.schedule}
                return sorted(worker.revoked) if question is Question.REVOKED else conf

    def _stats(self, worker: SimulatedWorker) -> dict[str, object]:
        return {
            "total": {"app.work": worker.processed} if worker.processed else {},
            "pid": worker.pid,
            "clock": "1",
            "uptime": int(self.fleet.clock.monotonic() - worker.started),
            "pool": {
                "implementation": f"celery.concurrency.{worker.pool}:TaskPool",
                "max-concurrency": worker.concurrency,
                "processes": list(range(90_000, 90_000 + _processes(worker))),
            },
            "autoscaler": _autoscaler(worker),
            "broker": {"transport_options": {"visibility_timeout": 3600}},
            "prefetch_count": worker.prefetch,
        }

    def _task(
        self, worker: SimulatedWorker, message: Message, started: float | None
    ) -> dict[str, object]:
        clock = self.fleet.clock
        offset = clock.now().timestamp() - clock.monotonic()
        return {
            "id": message.id,
            "name": message.task,
            "args": "(1,)",
            "kwargs": "{}",
            "hostname": worker.name,
            "time_start": None if started is None else offset + started,
            "acknowledged": started is not None,
            "delivery_info": {"exchange": "", "routing_key": message.queue, "priority": 0},
            "worker_pid": worker.pid,
        }

    def _obey(self, worker: SimulatedWorker, order: Order) -> Reply | None:
        faults = worker.faults
        now = self.fleet.clock.monotonic()
        is_deaf = _is_deaf(worker) and not worker.is_busy_solo
        if is_deaf and not faults.never_replies:
            return None
        says: dict[str, object] = {}
        match order:
            case CancelConsumer(queue):
                if not faults.ignores_cancel:
                    worker.pending.append((now + worker.cancel_delay, queue, None))
                says = {"ok": f"no longer consuming from {queue}"}
            case AddConsumer(consumed):
                if not faults.ignores_add:
                    arguments = {**declaration(consumed.name)}
                    worker.pending.append((now, consumed.name, arguments))
                says = {"ok": f"add consumer {consumed.name}"}
            case Control("shutdown", _):
                self.fleet.warm_stop(worker)
                return None
            case Control("enable_events" | "disable_events" as method, _):
                says = _switch_events(worker, on=method == "enable_events")
            case Control("revoke" | "rate_limit" as method, arguments):
                says = {"ok": f"new rate limit set: {arguments.get('rate_limit')}"}
                says = self.fleet.revoke(worker, arguments) if method == "revoke" else says
            case Control("pool_grow" | "pool_shrink" | "autoscale" as method, told):
                says = _resized(worker, method, dict(told))
            case Control(method, _):
                says = {"error": f"KeyError('{method}')"}
        if faults.never_replies or faults.acknowledges_nothing or worker.is_busy_solo:
            return None
        at = self.clock.now()
        if "error" in says:
            return Reply(worker.name, at, error=str(says["error"]))
        return Reply(worker.name, at, says)


def _switch_events(worker: SimulatedWorker, *, on: bool) -> dict[str, object]:
    if worker.faults.has_no_events:
        return {"error": "event dispatcher unavailable"}
    again = "already " if worker.sends_task_events is on else ""
    worker.sends_task_events = on
    return {"ok": f"task events {again}{'enabled' if on else 'disabled'}"}


def _resized(worker: SimulatedWorker, method: str, told: dict[str, Any]) -> dict[str, object]:
    """As Celery does."""
    if method == "autoscale" and worker.autoscale is not None:
        worker.autoscale = (worker.autoscale[0], told["max"])
        return {"ok": f"autoscale now max={told['max']}"}
    if worker.autoscale is not None:
        error = f"{method} is not supported with autoscale. Adjust autoscale range instead."
        return {"error": error}
    by = int(told["n"])
    if method == "pool_grow":
        worker.processes = _processes(worker) + by
        return {"ok": "pool will grow"}
    # Idle ones are ended one by one, until there are not enough.
    idle = _processes(worker) - len(worker.active)
    worker.processes = _processes(worker) - min(by, idle)
    if by > idle:
        return {"error": 'ValueError("Can\'t shrink pool. All processes busy!")'}
    return {"ok": "pool will shrink"}


def _processes(worker: SimulatedWorker) -> int:
    return worker.concurrency if worker.processes is None else worker.processes


def _autoscaler(worker: SimulatedWorker) -> dict[str, int] | None:
    if worker.autoscale is None:
        return None
    least, most = worker.autoscale
    return {"max": most, "min": least, "current": least, "qty": 0}


def _beats(worker: SimulatedWorker) -> bool:
    faults = worker.faults
    is_able = worker.phase is Phase.UP and not worker.is_busy_solo
    return is_able and not faults.hangs and not faults.no_heartbeats


def _is_deaf(worker: SimulatedWorker) -> bool:
    """It will not answer now: it may later."""
    return worker.faults.hangs or worker.is_busy_solo or worker.phase is not Phase.UP


def _free_at(worker: SimulatedWorker) -> float | None:
    if worker.faults.hangs or not worker.active:
        return None
    return min(ends for _, _, ends in worker.active)


def _heartbeat(
    name: str, pid: int | None, worker: SimulatedWorker | None, *, online: bool
) -> Heartbeat:
    return Heartbeat(
        node=name,
        pid=pid,
        active=len(worker.active) if worker is not None else None,
        processed=worker.processed if worker is not None else None,
        load=0.1,
        version=worker.version if worker is not None else None,
        interval=HEARTBEAT_INTERVAL,
        online=online,
    )
