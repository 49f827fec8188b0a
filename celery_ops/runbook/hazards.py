"""What stands in the way of doing something to a worker, and what is dangerous about it. Pure.

Asked when a plan is made, and again right before the step: a worker may have changed meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.model import WorkerState
from celery_ops.runbook.schema import OnTimeout, WorkerVerb

if TYPE_CHECKING:
    from celery_ops.model import FleetSnapshot, Worker
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.schema import WorkerStep

_PURGE = frozenset({"--purge", "--discard"})


def obstacles(verb: WorkerVerb, worker: PlannedWorker, snapshot: FleetSnapshot) -> list[str]:
    """Why this must not be done to that worker, in words with what to do instead."""
    name, state = worker.name, worker.state
    live = snapshot.worker(name)
    says = live.says if live else ""
    if state is WorkerState.CONFLICT:
        fix = "stop one of them with its own supervisor, or give it a name of its own (-n)"
        return [f"{name}: {says}: {fix}"]
    if verb in {WorkerVerb.DRAIN, WorkerVerb.RESUME}:
        if state is WorkerState.UNREADABLE:
            return [f"{name} answers in a format that is not read here, so nothing can be proved"]
        if live is None or not live.answers:
            return [f"{name} is {state} and cannot be asked to {verb}: leave it out (!{name})"]
    if verb is WorkerVerb.DRAIN and worker.queues is None:
        return [f"{name} did not say what it consumes, so its queues could not be given back"]
    if verb is WorkerVerb.RESUME and not worker.queues:
        fix = f"restart it instead: celery-ops worker restart {name}"
        return [f"nothing is recorded that {name} consumed: {fix}"]
    if verb in {WorkerVerb.STOP, WorkerVerb.START, WorkerVerb.RESTART}:
        return _service_obstacles(verb, worker, live)
    return []


def _service_obstacles(verb: WorkerVerb, worker: PlannedWorker, live: Worker | None) -> list[str]:
    name = worker.name
    if live is None or live.service is None:
        fix = "name its service in celery-ops.yaml"
        return [f"{name} has no supervisor that is known here, so it could not be started: {fix}"]
    if live.service.status is None:
        why = live.service.error or "no reason given"
        return [f"the supervisor of {name} did not answer: {why}"]
    status = live.service.status.value
    if status.startable is False and verb is not WorkerVerb.STOP:
        return [f"{name} could not be started: {status.says}"]
    if _PURGE & set(status.arguments or ()) and verb is not WorkerVerb.STOP:
        return [
            f"{name} purges its queues when it starts (--purge): waiting messages would be lost"
        ]
    if verb is WorkerVerb.RESTART and worker.state is WorkerState.STOPPED:
        fix = f"start it (celery-ops worker start {name}) or leave it out (!{name})"
        return [f"{name} is stopped: {fix}"]
    return []


def dangers(
    step: WorkerStep, worker: PlannedWorker, snapshot: FleetSnapshot, *, drained: bool
) -> list[str]:
    """What an operator must know before doing this to that worker."""
    live = snapshot.worker(worker.name)
    status = live.service.status.value if live and live.service and live.service.status else None
    found = []
    name, verb = worker.name, step.verb
    if verb in {WorkerVerb.STOP, WorkerVerb.RESTART} and status is not None:
        after = "the proven drain before it keeps them" if drained else "running tasks will be LOST"
        if status.signals_children:
            found.append(f"{name}: a stop signals the pool's children too: {after}")
        if status.stops_cold:
            found.append(f"{name}: it is stopped with {status.stop_signal}, a cold stop: {after}")
        grace, longest = status.stop_grace, worker.longest
        if not drained and grace is not None and longest is not None and longest > grace:
            found.append(
                f"{name}: a task runs for {as_duration(longest)} already and the stop grace is"
                f" {as_duration(grace)}: it may be killed"
            )
    if verb is WorkerVerb.DRAIN:
        if worker.scheduled:
            found.append(
                f"{name} holds {counted(worker.scheduled, 'ETA task')}: given back at a stop"
            )
        if step.on_timeout is OnTimeout.PROCEED:
            found.append(f"{name}: tasks that outlast the drain will be cut off")
    if verb is WorkerVerb.START and worker.queues is None:
        found.append(f"{name}: what it will consume is not known before it runs")
    return found
