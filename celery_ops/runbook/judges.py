"""How each verb's effect is seen: pure functions from a snapshot to done, not yet, or never.

An acknowledged command proves nothing here. Only readings made after the effect count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from celery_ops.config.units import counted
from celery_ops.model import ServiceState, WorkerState
from celery_ops.runbook.targets import processes_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from celery_ops.model import (
        FleetSnapshot,
        Incarnation,
        Reading,
        Service,
        ServiceStatus,
        Task,
        Worker,
    )
    from celery_ops.runbook.plan import PlannedWorker

T = TypeVar("T")

MOST_LIVES = 3
"""Of a service that was started once: with more, its supervisor starts what dies at its start."""
STEADY_SECONDS = 10.0
"""How long a service must run to be believed where its worker cannot be asked: many die in the
first seconds, and systemd calls them active meanwhile.
"""
ABOUT_TO_BEGIN = 5.0
"""Seconds: an ETA task that is due sooner may begin before a stop has reached its worker. Room for
a slow host, and for a clock that differs by a second."""
ABOUT_TO_RUN_TWICE = 2.0
"""Seconds: one that comes due while its worker stops warm may be given back and begin all the same.
Celery 5.7, prefork: 2 of 120 stops, with 25 such tasks a second; none was lost."""
WAITS_FOR_A_GAP = 15.0
"""Seconds: where ETA tasks come due all the time, a warm stop does not wait for ever."""


class Seen(StrEnum):
    """What a look at the fleet says about an expected effect."""

    DONE = "done"
    NOT_YET = "not yet"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Judgement:
    """`says` is the evidence when done, what is missing when not yet, the reason when never.

    `unclean`: it stopped, and not by itself in time: where what it had not begun is, else empty.
    `new_life`: never, since somebody else restarted it meanwhile. `too_late`: never, since the time
    is up. `runs_on`: it runs as if it had not been told to stop. `silent`: its supervisor did not
    answer.
    """

    seen: Seen
    says: str
    unclean: str = ""
    new_life: bool = False
    too_late: bool = False
    runs_on: bool = False
    silent: bool = False


Judge = Callable[["FleetSnapshot"], Judgement]


def drained(target: PlannedWorker, since: datetime) -> Judge:
    """FACTS: consumes nothing, holds nothing, and stayed so through several readings.

    Never, once it consumes again what it had left: somebody else gave that back to it.
    """
    has_left = False

    def judge(snapshot: FleetSnapshot) -> Judgement:
        nonlocal has_left
        worker = snapshot.worker(target.name)
        gone = _gone(target, worker)
        if gone is not None:
            return gone
        if (
            worker is None
            or not _fresh(worker.active, since)
            or not _fresh(worker.consuming, since)
        ):
            return Judgement(Seen.NOT_YET, no_answer(worker))
        if worker.state is WorkerState.DRAINED:
            return Judgement(Seen.DONE, worker.says or "holds nothing")
        if worker.queues and has_left:
            again = f"consumes {', '.join(worker.queues)} again, which somebody else gave back"
            return Judgement(Seen.NEVER, again)
        if worker.queues:
            return Judgement(Seen.NOT_YET, f"still consumes {', '.join(worker.queues)}")
        has_left = True
        return Judgement(Seen.NOT_YET, worker.says or f"is {worker.state}")

    return judge


class StaysDrained:
    """The proof of the drain stands when the stop is sent.

    A drained worker goes on beginning ETA tasks, and it may have been long ago that it was proved.
    Where a stop cuts off what runs, no such task may be about to begin either. That is told by two
    readings: one alone misses the task that changes hands in the midst of it. Where it stops warm
    such a task may run twice, so a gap between them is waited for, as long as one can be hoped for.
    """

    def __init__(
        self,
        target: PlannedWorker,
        proved: Incarnation | None,
        since: datetime,
        *,
        timeout: float,
    ) -> None:
        """`timeout` is how many seconds it is judged for at most."""
        self._target = target
        self._proved = proved
        self._since = since
        self._gap_until = since + timedelta(seconds=min(WAITS_FOR_A_GAP, timeout / 2))
        self._clear_at: datetime | None = None

    def __call__(self, snapshot: FleetSnapshot) -> Judgement:
        met, proved = self._target.incarnation, self._proved
        if met is not None and proved is not None and not met.same_life_as(proved):
            return Judgement(Seen.NEVER, "was restarted by somebody else")
        worker = snapshot.worker(self._target.name)
        if worker is not None and worker.state in {WorkerState.STOPPING, WorkerState.STOPPED}:
            return Judgement(Seen.DONE, f"is {worker.state}")
        seen = drained(self._target, self._since)(snapshot)
        if seen.new_life:
            return replace(seen, seen=Seen.DONE)
        if seen.seen is not Seen.DONE or worker is None:
            self._clear_at = None
            return seen
        if not _is_cut_off(worker):
            return self._in_a_gap(seen, worker, snapshot.at)
        return self._looked_twice(seen, worker, snapshot.at)

    def _in_a_gap(self, seen: Judgement, worker: Worker, now: datetime) -> Judgement:
        soon = now + timedelta(seconds=ABOUT_TO_RUN_TWICE)
        due = _due(worker.scheduled.value if worker.scheduled is not None else (), soon)
        if not due or now > self._gap_until:
            return seen
        says = f"{due} about to begin, which might run twice if its worker stopped just then"
        return Judgement(Seen.NOT_YET, says)

    def _looked_twice(self, seen: Judgement, worker: Worker, now: datetime) -> Judgement:
        held = worker.scheduled
        if held is None or not _fresh(held, self._since):
            return self._unclear("its ETA tasks are unknown")
        soon = now + timedelta(seconds=ABOUT_TO_BEGIN)
        due = _due(held.value, soon)
        if due:
            return self._unclear(f"{due} about to begin")
        if self._clear_at is not None and held.at > self._clear_at:
            return seen
        self._clear_at = self._clear_at or held.at
        return Judgement(Seen.NOT_YET, "no ETA task is about to begin; looking once more")

    def _unclear(self, says: str) -> Judgement:
        self._clear_at = None
        says += ", and a stop cuts off what runs (not with KillMode=mixed, nor without stopasgroup)"
        return Judgement(Seen.NOT_YET, says)


def left_its_queues(target: PlannedWorker) -> Judge:
    """It says that it consumes none of the recorded queues; it may still hold tasks."""
    taken = {queue.name for queue in target.queues or ()}

    def judge(snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(target.name)
        if worker is None or worker.queues is None:
            return Judgement(Seen.NOT_YET, no_answer(worker))
        still = taken & set(worker.queues)
        if still:
            return Judgement(Seen.NOT_YET, f"still consumes {', '.join(sorted(still))}")
        return Judgement(Seen.DONE, "consumes none of them")

    return judge


def resumed(target: PlannedWorker, since: datetime) -> Judge:
    """It says that it consumes every recorded queue again."""
    owed = {queue.name for queue in target.queues or ()}

    def judge(snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(target.name)
        gone = _gone(target, worker)
        if gone is not None:
            return gone
        if worker is None or worker.consuming is None or not _fresh(worker.consuming, since):
            return Judgement(Seen.NOT_YET, no_answer(worker))
        missing = owed - set(worker.queues or ())
        if missing:
            return Judgement(Seen.NOT_YET, f"does not consume {', '.join(sorted(missing))} yet")
        return Judgement(Seen.DONE, f"consumes {', '.join(sorted(owed))}")

    return judge


class Free:
    """None of the tasks that it was first seen to run runs any more; nor do they in its next life.

    Meanwhile it goes on consuming: what it begins later is not waited for.
    """

    def __init__(self, target: PlannedWorker, since: datetime) -> None:
        self._target = target
        self._since = since
        self._running: frozenset[str] | None = None

    def __call__(self, snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(self._target.name)
        if _gone(self._target, worker) is not None:
            return Judgement(Seen.DONE, "is not the process any more that ran them")
        if worker is None or worker.active is None or not _fresh(worker.active, self._since):
            return Judgement(Seen.NOT_YET, no_answer(worker))
        runs = frozenset(task.id for task in worker.active.value)
        if self._running is None:
            self._running = runs
        left = len(self._running & runs)
        if left:
            return Judgement(Seen.NOT_YET, f"still runs {counted(left, 'task')}")
        return Judgement(Seen.DONE, "has ended what it ran")


def scaled(target: PlannedWorker, size: int, since: datetime) -> Judge:
    """Its pool has so many processes, or at most so many where it scales itself; only what they are
    tells, not what was asked for.
    """

    def judge(snapshot: FleetSnapshot) -> Judgement:
        worker = snapshot.worker(target.name)
        gone = _gone(target, worker)
        if gone is not None:
            return gone
        if worker is None or worker.stats is None or not _fresh(worker.stats, since):
            return Judgement(Seen.NOT_YET, no_answer(worker))
        autoscale = worker.stats.value.autoscale
        has = processes_of(worker) if autoscale is None else autoscale[1]
        at_most = "" if autoscale is None else "at most "
        says = f"its pool has {at_most}{'an unknown number of' if has is None else has} processes"
        return Judgement(Seen.DONE if has == size else Seen.NOT_YET, says)

    return judge


def stopped(target: PlannedWorker, since: datetime) -> Judge:
    """Its supervisor says that it is down. A stop that was not clean is done too, and says so."""

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _status(target, snapshot, since)
        if status is None:
            return missing
        if status.state in {ServiceState.STOPPED, ServiceState.FAILED}:
            unclean = _what_is_left(snapshot) if status.clean_exit is False else ""
            return Judgement(Seen.DONE, status.says, unclean=unclean)
        if status.state is ServiceState.RUNNING and status.identity != target.identity:
            return Judgement(
                Seen.NEVER, f"another incarnation runs already: {status.says}", new_life=True
            )
        runs_on = status.state is ServiceState.RUNNING
        return Judgement(Seen.NOT_YET, f"its supervisor says {status.state}", runs_on=runs_on)

    return judge


def _what_is_left(snapshot: FleetSnapshot) -> str:
    """What became of the tasks that a killed worker had taken, and not begun."""
    if snapshot.gives_back:
        return "is back in its queue: the broker has given it back by itself"
    return "lies unacknowledged: celery-ops runbook restore-orphans"


def stays_down(target: PlannedWorker, since: datetime) -> Judge:
    """Its supervisor says that it is down, and will not be started when its host boots."""
    is_down = stopped(target, since)

    def judge(snapshot: FleetSnapshot) -> Judgement:
        seen = is_down(snapshot)
        status, _ = _status(target, snapshot, since)
        if seen.seen is not Seen.DONE or status is None or not status.at_boot:
            return seen
        return Judgement(Seen.NOT_YET, f"it is stopped, and its supervisor says {status.at_boot}")

    return judge


def is_set_at_boot(target: PlannedWorker, since: datetime, at_boot: str) -> Judge:
    """Its supervisor will start it when its host boots, by that word for it."""

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _status(target, snapshot, since)
        if status is None:
            return missing
        is_set = status.at_boot == at_boot
        return Judgement(Seen.DONE if is_set else Seen.NOT_YET, status.at_boot or "not known")

    return judge


def was_started(target: PlannedWorker, since: datetime, *, stopped_cleanly: bool) -> Judge:
    """Its supervisor runs, or is starting, another incarnation than the planned one; or tells of a
    failure, which after a clean stop can only be that of a start.
    """

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _status(target, snapshot, since)
        if status is None:
            return missing
        runs = status.state in {ServiceState.RUNNING, ServiceState.STARTING}
        is_new = runs and status.identity != target.identity
        is_new = is_new or (stopped_cleanly and status.state is ServiceState.FAILED)
        return Judgement(Seen.DONE if is_new else Seen.NOT_YET, status.says)

    return judge


def runs(target: PlannedWorker, since: datetime, *, anew: bool) -> Judge:
    """Its supervisor says that it runs; with `anew`, another incarnation than the planned one."""

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _status(target, snapshot, since)
        if status is None:
            return missing
        is_old = _is_planned_service(target, status)
        does_run = status.state is ServiceState.RUNNING and not (anew and is_old)
        return Judgement(Seen.DONE if does_run else Seen.NOT_YET, status.says)

    return judge


def started(target: PlannedWorker, since: datetime, *, anew: bool) -> Judge:
    """Its supervisor runs it, and it answers; unless `anew` it may be the life that was planned
    for: it had never stopped.
    """

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _running(target, snapshot, since, anew=anew)
        if status is None:
            return missing
        worker = snapshot.worker(target.name)
        if worker is None or worker.replied_at is None or worker.replied_at < since:
            return Judgement(Seen.NOT_YET, f"runs (pid {status.pid}) and does not answer yet")
        life, runs_on = worker.incarnation, _is_planned_service(target, status)
        if life is None or (not runs_on and _is_planned(target, life)):
            return Judgement(Seen.NOT_YET, "the old incarnation still answers")
        if not worker.answers:
            return Judgement(Seen.NOT_YET, f"is {worker.state}: {worker.says}")
        says = f"pid {life.pid}, started {life.started_at:%H:%M:%S}"
        return Judgement(Seen.DONE, says, runs_on=runs_on)

    return judge


def keeps_running(target: PlannedWorker, since: datetime, *, anew: bool) -> Judge:
    """Its supervisor runs it, and goes on to: all that can be known of a scheduler, and of a worker
    without a broker. Unless `anew` it may be the life that was planned for.
    """
    seen: dict[str | None, datetime] = {}

    def judge(snapshot: FleetSnapshot) -> Judgement:
        status, missing = _running(target, snapshot, since, anew=anew)
        if status is None:
            return missing
        ran_for = (snapshot.at - seen.setdefault(status.identity, snapshot.at)).total_seconds()
        if len(seen) > MOST_LIVES:
            return Judgement(Seen.NEVER, f"it dies again and again: {len(seen)} lives were seen")
        says = f"pid {status.pid}, says its supervisor; not asked itself"
        runs_on = _is_planned_service(target, status)
        is_steady = ran_for >= STEADY_SECONDS
        return Judgement(Seen.DONE if is_steady else Seen.NOT_YET, says, runs_on=runs_on)

    return judge


def _is_planned(target: PlannedWorker, life: Incarnation) -> bool:
    return target.incarnation is not None and life.same_life_as(target.incarnation)


def _gone(target: PlannedWorker, worker: Worker | None) -> Judgement | None:
    if worker is None or target.incarnation is None:
        return None
    if worker.state in {WorkerState.STOPPED, WorkerState.CONFLICT}:
        return Judgement(Seen.NEVER, f"is {worker.state}: {worker.says}")
    life = worker.incarnation
    if life is not None and not life.same_life_as(target.incarnation):
        return Judgement(
            Seen.NEVER,
            f"was restarted by somebody else: pid {life.pid} instead of {target.incarnation.pid}",
            new_life=True,
        )
    return None


def _due(held: Sequence[Task], soon: datetime) -> str:
    """How many of these ETA tasks come due until then, in words; empty: none."""
    due = sum(task.eta is None or task.eta <= soon for task in held)
    return counted(due, "ETA task") if due else ""


def _is_cut_off(worker: Worker) -> bool:
    """Whether its stop may end what it runs."""
    status = worker.service.status if worker.service is not None else None
    return status is None or status.value.cuts_off


def _is_planned_service(target: PlannedWorker, status: ServiceStatus) -> bool:
    """Its service runs in the life that was planned for."""
    return status.identity is not None and status.identity == target.identity


def _running(
    target: PlannedWorker, snapshot: FleetSnapshot, since: datetime, *, anew: bool
) -> tuple[ServiceStatus | None, Judgement]:
    """What its supervisor says of a service that runs, with `anew` in another life than the planned
    one; else None, and why it does not.
    """
    status, missing = _status(target, snapshot, since)
    if status is None:
        return None, missing
    if status.state is ServiceState.FAILED:
        return None, Judgement(Seen.NEVER, f"it does not start: {status.says}")
    if status.state is ServiceState.RUNNING and not (anew and _is_planned_service(target, status)):
        return status, missing
    return None, Judgement(Seen.NOT_YET, f"its supervisor says {status.state}: {status.says}")


def _status(
    target: PlannedWorker, snapshot: FleetSnapshot, since: datetime
) -> tuple[ServiceStatus | None, Judgement]:
    service: Service | None = next(
        (service for service in snapshot.services if service.ref == target.service), None
    )
    if service is None or service.status is None or not _fresh(service.status, since):
        why = service.error if service is not None and service.error else "no answer yet"
        return None, Judgement(Seen.NOT_YET, f"its supervisor: {why}", silent=True)
    return service.status.value, Judgement(Seen.NOT_YET, "")


def _fresh(reading: Reading[T] | None, since: datetime) -> bool:
    return reading is not None and reading.at >= since


def no_answer(worker: Worker | None) -> str:
    if worker is None:
        return "was not seen yet"
    return f"does not answer ({worker.state}{': ' + worker.says if worker.says else ''})"
