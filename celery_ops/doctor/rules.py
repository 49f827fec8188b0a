"""The one registry of rules. Each is a small pure function from a snapshot to what it found.

Used by `doctor`, by the app's list of problems and by a runbook's preflight. A rule claims nothing
that the snapshot does not prove: where something is unknown it stays silent, and the rule for the
unknown speaks. Names in findings are hostile text, cut to a readable length and never markup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.doctor.words import count, cut, status_of, time
from celery_ops.model import Finding, Level, ServiceState, WorkerState, parked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from celery_ops.model import FleetSnapshot, ServiceStatus, TakenRecord, Worker

    Look = Callable[[FleetSnapshot], Iterable["Found"]]

_CELERY = "https://docs.celeryq.dev/en/stable/"
_STARTS_WITHIN = 30.0
"""Seconds a service may run before its worker is expected to answer."""
_SEVERITY = {Level.ERROR: 0, Level.WARNING: 1, Level.INFO: 2}
_PURGE = re.compile(r"(?:^|\s)--(?:purge|discard)(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule found. `level` overrides the rule's own where the case is milder."""

    subject: str
    says: str
    fix: str
    level: Level | None = None
    worker: str | None = None
    drained_is_safe: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its id, how bad it is, where its truth comes from, and how it looks."""

    id: str
    level: Level
    source: str
    look: Look

    def examine(self, snapshot: FleetSnapshot) -> tuple[Finding, ...]:
        """This rule's findings."""
        return tuple(
            Finding(
                rule=self.id,
                level=found.level or self.level,
                subject=found.subject,
                says=found.says,
                fix=found.fix,
                worker=found.worker,
                drained_is_safe=found.drained_is_safe,
            )
            for found in self.look(snapshot)
        )


RULES: dict[str, Rule] = {}
"""Every rule by its id, in the order they are told in among equals."""


def rule(id_: str, level: Level, *, source: str) -> Callable[[Look], Look]:
    """Register a rule. `source` is the document or issue that it rests on."""

    def register(look: Look) -> Look:
        if id_ in RULES:
            raise ValueError(f"two rules are called {id_}")
        RULES[id_] = Rule(id_, level, source, look)
        return look

    return register


def examine(snapshot: FleetSnapshot) -> tuple[Finding, ...]:
    """All findings, the worst first; among equals in the registry's order, then by subject."""
    findings = [finding for one in RULES.values() for finding in one.examine(snapshot)]
    order = {id_: place for place, id_ in enumerate(RULES)}
    findings.sort(key=lambda one: (_SEVERITY[one.level], order[one.rule], one.subject))
    return tuple(findings)


# --- the broker ----------------------------------------------------------------------------------


@rule("broker-unreachable", Level.ERROR, source=_CELERY + "getting-started/backends-and-brokers/")
def _broker_unreachable(snapshot: FleetSnapshot) -> Iterator[Found]:
    if snapshot.broker_error is None:
        return
    since = f" since {time(snapshot.broker_lost_at)}" if snapshot.broker_lost_at else ""
    yield Found(
        snapshot.broker,
        f"not reachable{since}: {snapshot.broker_error}; everything shown is from before",
        "Check that the broker runs and that this machine may reach it; it is retried by itself.",
    )


@rule(
    "queue-without-consumer",
    Level.ERROR,
    source=_CELERY + "userguide/workers.html#queues",
)
def _queue_without_consumer(snapshot: FleetSnapshot) -> Iterator[Found]:
    """`consumers` is only 0 when every known worker told what it consumes.

    A silent worker may be busy and come back to its queues: nothing is claimed of those.
    """
    for queue in snapshot.queues:
        is_meant = queue.paused or queue.held or parked(queue.name) is not None
        if queue.consumers != 0 or not queue.ready or is_meant:
            continue
        silent = [
            cut(worker.name)
            for worker in snapshot.workers
            if worker.state is WorkerState.SILENT and queue.name in (worker.queues or ())
        ]
        if silent:
            yield Found(
                cut(queue.name),
                f"{count(queue.ready, 'message')}; who consumed it does not answer: "
                f"{', '.join(silent[:3])}",
                "See what the silent worker does; or start another one that consumes the queue.",
                level=Level.WARNING,
            )
            continue
        yield Found(
            cut(queue.name),
            f"{count(queue.ready, 'message')}, no consumer",
            "Start a worker that consumes it (celery worker -Q), give it back to a drained one "
            "(runbook resume-worker), or correct the producer's routing.",
        )


# --- workers -------------------------------------------------------------------------------------


@rule(
    "worker-conflict",
    Level.ERROR,
    source=_CELERY + "userguide/workers.html#starting-the-worker",
)
def _worker_conflict(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in _ours(snapshot, WorkerState.CONFLICT):
        yield Found(
            cut(worker.name),
            worker.says,
            "Give each worker its own name: celery worker -n NAME@%h (%i per process).",
        )


@rule("worker-silent", Level.ERROR, source=_CELERY + "userguide/monitoring.html#commands")
def _worker_silent(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in _ours(snapshot, WorkerState.SILENT):
        status = status_of(worker.service)
        if _is_starting(status, snapshot.at):
            yield Found(
                cut(worker.name), worker.says, "Wait until it has started.", level=Level.INFO
            )
            continue
        if worker.busy_solo:
            yield Found(
                cut(worker.name),
                worker.says,
                "Wait until its task has ended; if it never does, look at its log.",
                level=Level.WARNING,
            )
            continue
        if worker.service is not None and worker.service.error is not None:
            host = cut(worker.service.ref.host)
            fix = f"Find out why {host} cannot be asked: only it can tell of the process."
        elif worker.service is not None:
            fix = f"Look at the log of {cut(str(worker.service.ref))}; restart it if it hangs."
        else:
            fix = "Look at its process on its host; no supervisor is configured for it."
        yield Found(cut(worker.name), worker.says, fix)


@rule("worker-stopped", Level.ERROR, source=_CELERY + "userguide/daemonizing.html")
def _worker_stopped(snapshot: FleetSnapshot) -> Iterator[Found]:
    """A stop that a run recorded is owed by that run, and `left-drained` speaks of it."""
    for worker in _ours(snapshot, WorkerState.STOPPED):
        if worker.taken is not None and worker.taken.kind == "service":
            continue
        status = status_of(worker.service)
        is_failed = status is not None and status.state is ServiceState.FAILED
        yield Found(
            cut(worker.name),
            worker.says,
            f"celery-ops worker start {cut(worker.name)}",
            level=Level.ERROR if is_failed else Level.WARNING,
        )


@rule("worker-stalled", Level.ERROR, source="https://github.com/celery/celery/issues/8030")
def _worker_stalled(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in _ours(snapshot, WorkerState.STALLED):
        yield Found(
            cut(worker.name),
            worker.says,
            f"celery-ops worker restart {cut(worker.name)}; Celery before 5.5 stops consuming "
            "after a reconnect to Redis. Tasks with a rate limit wait as well.",
        )


@rule("worker-unreadable", Level.WARNING, source=_CELERY + "userguide/security.html#serializers")
def _worker_unreadable(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in _ours(snapshot, WorkerState.UNREADABLE):
        yield Found(
            cut(worker.name),
            worker.says,
            "Let the workers answer in JSON (task_serializer, result_serializer, accept_content), "
            "or set accept_pickle: true for this context.",
        )


@rule(
    "bound-but-silent",
    Level.INFO,
    source="https://github.com/celery/celery/issues/6089",
)
def _bound_but_silent(snapshot: FleetSnapshot) -> Iterator[Found]:
    names = snapshot.bound_but_silent
    if names:
        shown = ", ".join(cut(name) for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        verb = "name is" if len(names) == 1 else "names are"
        yield Found(
            "control bindings",
            f"{len(names)} {verb} bound but did not answer: {shown}{more}",
            "Left behind by workers that are gone as a rule, and harmless. Where "
            "one should be running, configure its service to see it.",
        )


# --- drained and forgotten -----------------------------------------------------------------------


@rule("left-drained", Level.ERROR, source=_CELERY + "userguide/workers.html#queues-canceling")
def _left_drained(snapshot: FleetSnapshot) -> Iterator[Found]:
    for record in snapshot.taken:
        if record.kind not in {"queues", "service"}:
            continue  # `queue-paused` and `task-held` speak of it
        if not is_running(record, snapshot) and _is_still_owed(record, snapshot):
            yield _owed(record)
    for worker in _ours(snapshot, WorkerState.DRAINED, WorkerState.DRAINING):
        if worker.taken is None and not worker.paused:
            yield Found(
                cut(worker.name),
                "consumes nothing, and no run says that it took its queues",
                f"celery-ops worker restart {cut(worker.name)}: it consumes again then.",
                level=Level.WARNING,
            )


def is_running(record: TakenRecord, snapshot: FleetSnapshot) -> bool:
    """The run that took it still holds the lease, so it will give it back."""
    return snapshot.holder is not None and snapshot.holder.run == record.run


def _is_still_owed(record: TakenRecord, snapshot: FleetSnapshot) -> bool:
    """A new incarnation is owed no queues, and a service that runs again is not owed at all."""
    if record.service is not None and record.service.beat:
        beat = next((one for one in snapshot.services if one.ref == record.service), None)
        return beat is None or beat.state is not ServiceState.RUNNING
    worker = snapshot.worker(record.worker)
    if worker is None:
        return True
    if record.kind == "service":
        return not worker.answers
    return worker.taken == record


def _owed(record: TakenRecord) -> Found:
    if record.kind == "service":
        what = f"stopped ({cut(str(record.service))})" if record.service else "stopped"
    else:
        names = ", ".join(cut(queue.name) for queue in record.queues)
        what = f"left without its queues ({names})"
    by = f"by run {cut(record.run)} of {cut(record.operator)}"
    if record.meant:
        says = f"{what} {by}, as it was meant to be"
        return Found(cut(record.worker), says, record.mend, level=Level.INFO)
    return Found(
        cut(record.worker),
        f"{what} {by}, which does not run any more",
        f"celery-ops runs adopt {cut(record.run)}",
    )


# --- services --------------------------------------------------------------------------


@rule("worker-unsupervised", Level.INFO, source=_CELERY + "userguide/daemonizing.html")
def _worker_unsupervised(snapshot: FleetSnapshot) -> Iterator[Found]:
    """Said of some workers it is a gap in the configuration; said of all it is just so."""
    alive = [worker for worker in snapshot.workers if worker.mine and worker.answers]
    bare = [worker for worker in alive if worker.service is None]
    fix = "Add its service to celery-ops.yaml (celery-ops config init finds it)."
    if bare and len(bare) == len(alive):
        yield Found(
            "all workers",
            "no configured service runs any of them: they cannot be restarted",
            fix,
        )
        return
    for worker in bare:
        yield Found(
            cut(worker.name),
            "no configured service runs it: it cannot be restarted from here",
            fix,
            level=Level.WARNING,
        )


@rule("service-mismatch", Level.WARNING, source=_CELERY + "userguide/daemonizing.html")
def _service_mismatch(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in snapshot.workers:
        service, status = worker.service, status_of(worker.service)
        if service is None or status is None or not worker.answers:
            continue
        expected = service.ref.worker
        if expected is not None and expected != worker.name:
            yield Found(
                cut(str(service.ref)),
                f"is configured for {cut(expected)}, but its process {status.pid} is "
                f"{cut(worker.name)}",
                "Correct `worker:` of the service in celery-ops.yaml.",
            )
        elif _is_other_process(worker, status):
            yield Found(
                cut(str(service.ref)),
                f"its process is {status.pid}, but {cut(worker.name)} answers as pid "
                f"{worker.pid}: a shell around it that keeps signals to itself, or another process "
                "of that name",
                "Start celery without a shell around it (exec), or correct the service's worker.",
            )


def _is_other_process(worker: Worker, status: ServiceStatus) -> bool:
    """Both pids are known, and neither is from before a restart that only the other has seen."""
    if worker.stats is None or worker.service is None or worker.service.status is None:
        return False
    if status.state is not ServiceState.RUNNING or status.pid is None:
        return False
    started = status.started_at
    is_from_before = started is not None and worker.stats.at < started
    beat = worker.heartbeat
    is_new = beat is not None and beat.value.pid == status.told_pid
    return not is_from_before and not is_new and worker.stats.value.pid != status.told_pid


@rule(
    "stop-loses-tasks",
    Level.ERROR,
    source="https://github.com/celery/celery/issues/2700; man 5 systemd.kill, KillMode=",
)
def _stop_loses_tasks(snapshot: FleetSnapshot) -> Iterator[Found]:
    for worker in snapshot.workers:
        status = status_of(worker.service)
        if worker.service is None or status is None:
            continue
        subject = f"{cut(worker.name)} ({cut(str(worker.service.ref))})"
        if status.signals_children and _has_children(worker):
            yield Found(
                subject,
                "its stop signal reaches the pool's children too: running tasks are lost, even "
                "with acks_late, and nothing reports it",
                "systemd: KillMode=mixed; supervisord: stopasgroup=false; in a container: "
                "dumb-init --single-child, tini without -g.",
                worker=worker.name,
                drained_is_safe=True,
            )
        if status.reaches_worker is False:
            yield Found(
                subject,
                f"its stop signal does not get to it (PID 1 of its container is a shell, or has no "
                f"handler for {status.stop_signal}): it is killed instead, with what it runs",
                'Start celery itself: ENTRYPOINT or command ["celery", …], and `exec celery …` at '
                "the end of a script. `init: true` does not help where a shell is in between.",
                worker=worker.name,
                drained_is_safe=True,
            )
        if status.stop_signal in ("QUIT", "SIGQUIT"):
            yield Found(
                subject,
                "it is stopped with SIGQUIT, a cold shutdown: running tasks are cut off",
                "Stop it with SIGTERM (systemd: KillSignal=SIGTERM; supervisord: stopsignal=TERM).",
                worker=worker.name,
                drained_is_safe=True,
            )
        longest = _longest_running(worker, snapshot.at)
        if status.stop_grace is not None and longest > status.stop_grace:
            yield Found(
                subject,
                f"a task has been running for {as_duration(longest)}; a stop waits "
                f"{as_duration(status.stop_grace)} and then kills it",
                "Raise the stop grace above the longest task (systemd: TimeoutStopSec=; "
                "supervisord: stopwaitsecs=; docker: --stop-timeout; compose: stop_grace_period), "
                "and drain before stopping.",
                worker=worker.name,
                drained_is_safe=True,
            )


@rule(
    "purges-on-start",
    Level.ERROR,
    source=_CELERY + "reference/cli.html#cmdoption-celery-worker-purge",
)
def _purges_on_start(snapshot: FleetSnapshot) -> Iterator[Found]:
    for service in snapshot.services:
        status = status_of(service)
        if status is not None and status.arguments is not None and _purges(status.arguments):
            name = service.ref.worker or str(service.ref)
            yield Found(
                cut(name),
                f"{cut(str(service.ref))} starts with --purge: every start of it discards all "
                "messages that wait in its queues",
                "Remove --purge (or --discard) from its command line.",
                worker=service.ref.worker,
            )


# --- words ---------------------------------------------------------------------------------------


def _ours(snapshot: FleetSnapshot, *states: WorkerState) -> list[Worker]:
    return [worker for worker in snapshot.workers if worker.mine and worker.state in states]


def _is_starting(status: ServiceStatus | None, now: datetime) -> bool:
    if status is None:
        return False
    if status.state is ServiceState.STARTING:
        return True
    if status.state is not ServiceState.RUNNING or status.started_at is None:
        return False
    return (now - status.started_at).total_seconds() < _STARTS_WITHIN


def _has_children(worker: Worker) -> bool:
    """Only prefork has any; a pool that is not known may."""
    pool = worker.stats.value.pool if worker.stats is not None else None
    return pool in (None, "prefork")


def _longest_running(worker: Worker, now: datetime) -> float:
    """Seconds the longest-running task has been running; 0 where none is known to."""
    started = [
        task.started_at
        for task in (worker.active.value if worker.active is not None else ())
        if task.started_at is not None
    ]
    return max(((now - moment).total_seconds() for moment in started), default=0.0)


def _purges(arguments: tuple[str, ...]) -> bool:
    """`--purge` and its other name, also inside a shell's one argument."""
    return any(_PURGE.search(argument) for argument in arguments)
