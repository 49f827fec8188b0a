"""A simulated fleet: queues, workers that run tasks, and services that stop and start them.

A discrete simulation without any task of its own: everything that has happened by now is worked out
when somebody looks (`settle`). Each task is counted, so a test can ask for what was lost or ran
twice.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_ops.model import ServiceRef, ServiceState, TaskNews, TaskState
from tests.standin.parts import (
    Faults,
    Ledger,
    Message,
    Phase,
    SimulatedService,
    SimulatedWorker,
    declaration,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from celery_ops.model import PeriodicTask, TaskMessage
    from tests.standin.clock import VirtualClock

__all__ = [
    "Faults",
    "Message",
    "Phase",
    "SimulatedService",
    "SimulatedWorker",
    "StandinFleet",
    "declaration",
]


class StandinFleet:
    """The world that StandinBroker and StandinHosts look at."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.workers: list[SimulatedWorker] = []
        self.services: dict[ServiceRef, SimulatedService] = {}
        self.queues: dict[str, deque[Message]] = {}
        self.bound: set[str] = set()
        self.ledger = Ledger()
        self.stuck: list[tuple[Message, float]] = []
        """Left in `unacked` by a killed worker, since when."""
        self.farewells: list[tuple[str, int | None]] = []
        self.tasks: dict[str, tuple[float, str]] = {}
        """How long tasks that the broker is sent run, and the exception that they end with."""
        self.events: dict[str, list[TaskNews]] = {}
        """What workers announced of each message, where their task events are on."""
        self.announced: list[TaskNews] = []
        """All of it, in order."""
        self.schedule: dict[str, object] = {}
        """`beat_schedule`, as workers tell it."""
        self.redbeat: tuple[PeriodicTask, ...] | None = None
        self.results: dict[str, TaskNews] = {}
        """How messages ended, where a worker keeps results."""
        self.ends: dict[str, tuple[Message, datetime]] = {}
        """Which these were, and when."""
        self.least_consumers: dict[str, int] = {}
        """The fewest workers that consumed a queue at the same time, since `watch_consumers`."""
        self.looped: set[str] = set()
        """Who died at its start and was started again by its supervisor, ever."""
        self._pids = itertools.count(1001)
        self._ids = itertools.count(1)
        self._settled = clock.monotonic()

    # --- setting up ---

    def add_worker(
        self,
        name: str,
        *,
        queues: Iterable[str] = ("default",),
        host: str | None = "web1",
        unit: str | None = None,
        supervisor: str = "supervisord",
        pool: str = "prefork",
        concurrency: int = 2,
        up: bool = True,
        faults: Faults | None = None,
    ) -> SimulatedWorker:
        """A worker, and its service on `host` (named `unit`, or as the node); `host=None`: none."""
        service = None
        if host is not None:
            ref = ServiceRef(host, supervisor, unit or name.partition("@")[0], worker=name)
            service = self.services[ref] = SimulatedService(ref)
            service.arguments = ("celery", "-A", "app", "worker", "-n", name)
            service.arguments += () if pool == "prefork" else (f"--pool={pool}",)
        worker = SimulatedWorker(
            name,
            {queue: declaration(queue) for queue in queues},
            pool,
            concurrency,
            service,
            faults or Faults(),
        )
        self.workers.append(worker)
        self.settle()
        if up:
            self._launch(worker)
            worker.boots_until = self.clock.monotonic()
            self.settle()
        return worker

    def add_beat(self, unit: str = "beat", *, host: str = "web1") -> SimulatedService:
        """A scheduler's service, running."""
        self.settle()
        ref = ServiceRef(host, "supervisord", unit, beat=True)
        service = self.services[ref] = SimulatedService(ref)
        self._run_service(service)
        return service

    def worker(self, name: str) -> SimulatedWorker:
        """The (first) worker of that name."""
        return next(worker for worker in self.workers if worker.name == name)

    @property
    def refs(self) -> tuple[ServiceRef, ...]:
        """As a context would be configured with."""
        return tuple(self.services)

    def send(
        self, queue: str, seconds: float = 1.0, *, task: str = "app.work", eta: float | None = None
    ) -> Message:
        """A message that runs for `seconds`; `eta` is seconds from now on."""
        self.settle()
        due = None if eta is None else self.clock.monotonic() + eta
        message = Message(f"task-{next(self._ids)}", task, queue, seconds, due)
        self.queues.setdefault(queue, deque()).append(message)
        self.ledger.sent += 1
        self._fill(self.clock.monotonic())
        return message

    def deliver(self, task: TaskMessage, now: datetime) -> None:
        """A message as the broker is given it; `now` is what its sender's clock says."""
        self.settle()
        queue = self.queues.setdefault(task.queue, deque())
        (queue.appendleft if task.first else queue.append)(self.composed(task, now))
        self.ledger.sent += 1
        self._fill(self.clock.monotonic())

    def composed(self, task: TaskMessage, now: datetime) -> Message:
        """Its message; what it has of arguments is of no matter here."""
        seconds, fails = self.tasks.get(task.task, (0.2, ""))
        eta, expires = (
            None if at is None else self.clock.monotonic() + (at - now).total_seconds()
            for at in (task.eta, task.expires)
        )
        return Message(
            task.id, task.task, task.queue, seconds, eta=eta, expires=expires, fails=fails
        )

    def hold_invisibly(self, worker: SimulatedWorker, queue: str, count: int) -> None:
        """Messages that a rate limit holds back.

        The broker calls them unacked, the worker nothing.
        """
        for _ in range(count):
            message = Message(f"task-{next(self._ids)}", "app.limited", queue, 1.0)
            message.delivered = self.clock.now()
            self.ledger.sent += 1
            worker.hidden.append(message)

    def revoke(self, worker: SimulatedWorker, arguments: Mapping[str, object]) -> dict[str, object]:
        """As a worker obeys it, and what it replies; a pool without processes ends nothing."""
        ids = arguments["task_id"]
        assert isinstance(ids, list)
        worker.revoked.update(() if worker.faults.forgets_revokes else ids)
        if not arguments.get("terminate"):
            return {"ok": f"tasks {set(ids)} flagged as revoked"}
        running = [entry for entry in worker.active if entry[0].id in ids]
        if running and worker.pool != "prefork":
            return {"error": "NotImplementedError('kill_job')"}
        for entry in running:
            worker.active.remove(entry)
            self.ledger.terminated.add(entry[0].id)
        return {"ok": "terminate: tasks unknown" if not running else "terminate: some"}

    # --- what happens to processes ---

    def kill(self, worker: SimulatedWorker) -> None:
        """kill -9: no goodbye, the binding stays, what it held stays unacked.

        Its supervisor starts it again where it `restarts_itself`.
        """
        self.settle()
        self._kill(worker, self.clock.monotonic())

    def warm_stop(self, worker: SimulatedWorker) -> None:
        """SIGTERM to the main process.

        Running tasks end, everything else goes back to its queue.
        """
        self.settle()
        if worker.phase in (Phase.DOWN, Phase.STOPPING):
            return
        now = self.clock.monotonic()
        service = worker.service
        if worker.faults.killed_at_stop:
            self._kill(worker, now)
            return
        worker.phase = Phase.STOPPING
        self.bound.discard(worker.name)
        self.farewells.append((worker.name, worker.pid))
        for message in worker.drop_held():
            self.queues.setdefault(message.queue, deque()).appendleft(message)
        worker.consuming = {}
        worker.pending = []
        if service is not None and service.signals_children:
            self.ledger.lost.update(worker.drop_running())
        worker.killed_at = None if service is None else now + service.stop_grace
        worker.plan_exit(now)
        self._note_consumers()
        self._fill(now)

    def stop_service(self, service: SimulatedService) -> None:
        """What a supervisor does when it is told to stop a service."""
        self.settle()
        worker = self._worker_of(service)
        if service.state not in (ServiceState.RUNNING, ServiceState.STARTING):
            return
        if worker is None:
            self._end_service(service, clean=True)
            return
        if worker.faults.stop_does_nothing:
            return
        service.state = ServiceState.STOPPING
        if worker.faults.hangs:
            worker.phase = Phase.STOPPING
            worker.killed_at = self.clock.monotonic() + service.stop_grace
        elif worker.phase is Phase.BOOTING:
            worker.phase, worker.pid = Phase.DOWN, None
            self._end_service(service, clean=True)
        else:
            self.warm_stop(worker)

    def start_service(self, service: SimulatedService) -> None:
        """What a supervisor does when it is told to start a service."""
        self.settle()
        if service.state in (ServiceState.RUNNING, ServiceState.STARTING, ServiceState.STOPPING):
            return
        worker = self._worker_of(service)
        if worker is not None:
            self._launch(worker)
        else:
            self._run_service(service)

    # --- looking ---

    def settle(self) -> None:
        """Let everything happen that is due by now, in order."""
        until = self.clock.monotonic()
        while True:
            due = min((worker.next_due for worker in self.workers), default=until + 1)
            if due > until:
                break
            now = self._settled = max(due, self._settled)
            for worker in self.workers:
                if worker.next_due <= now:
                    self._happen(worker, now)
            self._fill(now)
        self._settled = until
        self._fill(until)

    def watch_consumers(self) -> None:
        """From now on `least_consumers` is kept."""
        self.settle()
        self.least_consumers = dict(self._consumers())

    def consumers(self, queue: str) -> int:
        """How many workers consume a queue now."""
        self.settle()
        return self._consumers()[queue]

    @property
    def lost(self) -> set[str]:
        """Messages that can never end any more, or not before a visibility timeout."""
        self.settle()
        return self.ledger.lost | {message.id for message, _ in self.stuck}

    def wall_time(self, at: float) -> datetime:
        """The wall clock at a moment of the monotonic one."""
        return self.clock.now() - timedelta(seconds=self.clock.monotonic() - at)

    # --- in detail ---

    def _launch(self, worker: SimulatedWorker) -> None:
        now = self._settled
        service = worker.service
        boot_seconds = service.boot_seconds if service is not None else 2.0
        worker.phase, worker.pid = Phase.BOOTING, next(self._pids)
        worker.started, worker.boots_until = now, now + boot_seconds
        worker.killed_at = worker.exits_at = None
        worker.processed = 0
        worker.revoked = set()
        if service is not None:
            self._run_service(service, worker.pid)

    def _run_service(self, service: SimulatedService, pid: int | None = None) -> None:
        service.starts += 1
        service.pid = next(self._pids) if pid is None else pid
        service.identity = f"{service.ref.name}#{service.starts}"
        service.started_at, service.began = self.wall_time(self._settled), self._settled
        service.state = ServiceState.RUNNING
        service.clean_exit = None
        service.says = "running"

    def _worker_of(self, service: SimulatedService) -> SimulatedWorker | None:
        return next((worker for worker in self.workers if worker.service is service), None)

    def _happen(self, worker: SimulatedWorker, now: float) -> None:
        if worker.phase is Phase.BOOTING:
            self._come_up(worker)
            return
        if not worker.faults.hangs:
            for message in worker.end_tasks(now):
                self.ledger.ended[message.id] += 1
                how = TaskState.FAILURE if message.fails else TaskState.SUCCESS
                self._announce(worker, message, how, message.seconds)
            worker.schedule_due(now)
            worker.obey_due(now)
            self._note_consumers()
        if worker.phase is Phase.STOPPING:
            worker.plan_exit(now)
            if worker.exits_at is not None and worker.exits_at <= now:
                self._exit(worker, clean=True)
            elif worker.killed_at is not None and worker.killed_at <= now:
                self._kill(worker, now)

    def _come_up(self, worker: SimulatedWorker) -> None:
        if worker.faults.crash_loops:
            self.looped.add(worker.name)
            self._launch(worker)
            return
        if worker.faults.dies_at_start:
            if worker.service is not None:
                worker.service.state = ServiceState.STOPPING
            self._exit(worker, clean=False)
            if worker.service is not None:
                worker.service.state = ServiceState.FAILED
                worker.service.says = "exited too quickly (exit status 1)"
            return
        if worker.faults.does_not_come_back:
            worker.boots_until = float("inf")
            return
        worker.phase = Phase.UP
        worker.consuming = {name: dict(entry) for name, entry in worker.configured.items()}
        worker.pending = []
        worker.next_beat = self.clock.monotonic()
        self.bound.add(worker.name)
        self._note_consumers()

    def _exit(self, worker: SimulatedWorker, *, clean: bool) -> None:
        worker.phase, worker.pid = Phase.DOWN, None
        worker.killed_at = worker.exits_at = None
        worker.consuming = {}
        self._note_consumers()
        service = worker.service
        if service is None:
            return
        is_unasked = service.state is ServiceState.RUNNING
        self._end_service(service, clean=clean)
        if is_unasked and service.restarts_itself:
            self._launch(worker)

    def _end_service(self, service: SimulatedService, *, clean: bool) -> None:
        service.state = ServiceState.STOPPED
        service.pid = service.identity = service.started_at = None
        service.clean_exit = clean
        service.says = "stopped" if clean else "stopped with SIGKILL"

    def _kill(self, worker: SimulatedWorker, now: float) -> None:
        self.ledger.lost.update(worker.drop_running())
        self.stuck += [(message, now) for message in worker.drop_held()]
        self._exit(worker, clean=False)

    def _fill(self, now: float) -> None:
        """Workers take messages in turn while they have room, and start what they hold."""
        takes = True
        while takes:
            takes = False
            for worker in self.workers:
                if worker.phase is Phase.UP and not worker.faults.hangs:
                    takes = self._take_one(worker, now) or takes
                    self._start_held(worker, now)

    def _take_one(self, worker: SimulatedWorker, now: float) -> bool:
        if not worker.has_room:
            return False
        for name in worker.consuming:
            waiting = self.queues.get(name)
            if waiting:
                message = waiting.popleft()
                message.delivered = self.wall_time(now)
                self._announce(worker, message, TaskState.RECEIVED)
                if message.expires is not None and message.expires <= now:
                    self._announce(worker, message, TaskState.REVOKED)
                elif message.task not in worker.registered and message.task in self.tasks:
                    message.fails = f"NotRegistered({message.task!r})"
                    self._announce(worker, message, TaskState.FAILURE)
                elif message.eta is not None and message.eta > now:
                    worker.scheduled.append(message)
                else:
                    worker.reserved.append(message)
                return True
        return False

    def _start_held(self, worker: SimulatedWorker, now: float) -> None:
        while worker.reserved and len(worker.active) < worker.concurrency:
            message = worker.reserved.popleft()
            if message.id in worker.revoked and worker.pool == "prefork":
                self.ledger.revoked.add(message.id)
                continue
            worker.active.append((message, now, now + message.seconds))
            worker.processed += 1
            self.ledger.started[message.id] += 1
            self._announce(worker, message, TaskState.STARTED)

    def _announce(
        self,
        worker: SimulatedWorker,
        message: Message,
        state: TaskState,
        runtime: float | None = None,
    ) -> None:
        error = message.fails if state is TaskState.FAILURE else ""
        news = TaskNews(state, worker.name, runtime, error)
        if worker.sends_task_events:
            self.events.setdefault(message.id, []).append(news)
            self.announced.append(news)
        if worker.keeps_results and state.is_end:
            self.results[message.id] = TaskNews(state, None, None, error)
            self.ends[message.id] = message, self.clock.now()

    def _consumers(self) -> Counter[str]:
        return Counter(
            queue
            for worker in self.workers
            if worker.phase is Phase.UP and not worker.faults.hangs
            for queue in worker.consuming
        )

    def _note_consumers(self) -> None:
        now = self._consumers()
        for queue, least in self.least_consumers.items():
            self.least_consumers[queue] = min(least, now[queue])
