"""What stands in the way of doing something to a worker, and what is dangerous about it. Pure.

Asked when a plan is made, and again right before the step: a worker may have changed meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.model import ServiceState, WorkerState
from celery_ops.model.holding import behind
from celery_ops.runbook import held_queues
from celery_ops.runbook.schema import (
    ControlStep,
    OnTimeout,
    Roll,
    RunStep,
    ScaleStep,
    WorkerStep,
    WorkerVerb,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery_ops.model import FleetSnapshot, ServiceStatus, Worker
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.schema import InnerStep, Runbook, Step

_ASKS = frozenset({WorkerVerb.DRAIN, WorkerVerb.RESUME})
"""Verbs that a worker itself must answer; the others are its supervisor's."""
_PURGE = frozenset({"--purge", "--discard"})


def obstacles(verb: WorkerVerb, worker: PlannedWorker, snapshot: FleetSnapshot) -> list[str]:
    """Why this must not be done to that worker, in words with what to do instead."""
    name, state = worker.name, worker.state
    live = snapshot.worker(name)
    says = live.says if live else ""
    if state is WorkerState.CONFLICT:
        fix = "stop one of them with its own supervisor, or give it a name of its own (-n)"
        return [f"{name}: {says}: {fix}"]
    if verb in _ASKS:
        if state is WorkerState.UNREADABLE:
            return [f"{name} answers in a format that is not read here, so nothing can be proved"]
        if live is None or not (live.answers or live.busy_solo):
            return [f"{name} is {state} and cannot be asked to {verb}: leave it out (!{name})"]
        if live.busy_solo and (worker.queues is None or worker.incarnation is None):
            return [
                f"{name} runs a task, and a solo pool tells nothing meanwhile: what it consumes is"
                " not known and could not be given back; plan again when its task has ended, let"
                f" the plan wait longer (-p busy_wait=1h), or leave it out (!{name})"
            ]
    if verb is WorkerVerb.DRAIN and worker.queues is None:
        return [f"{name} did not say what it consumes, so its queues could not be given back"]
    if verb is WorkerVerb.RESUME and not worker.queues:
        fix = f"restart it instead: celery-ops worker restart {name}"
        return [f"nothing is recorded that {name} consumed: {fix}"]
    if verb in {WorkerVerb.STOP, WorkerVerb.START, WorkerVerb.RESTART}:
        return _service_obstacles(verb, worker, live)
    return []


def asks(step: InnerStep) -> bool:
    """Whether the worker itself must answer for the step to be done; else it is its host."""
    if isinstance(step, ControlStep | ScaleStep):
        return True
    return isinstance(step, WorkerStep) and step.verb in _ASKS and not step.passes_over


def cannot_be_asked(worker: PlannedWorker, snapshot: FleetSnapshot, what: str) -> list[str]:
    """Why a worker cannot be sent that; empty if it can."""
    live = snapshot.worker(worker.name)
    if live is not None and live.answers:
        return []
    return [f"{worker.name} is {worker.state} and cannot be asked to {what}: leave it out"
            f" (!{worker.name})"]  # fmt: skip


def scale_obstacles(worker: PlannedWorker, goal: int | None, snapshot: FleetSnapshot) -> list[str]:
    """Why its pool cannot be made that large."""
    refusals = cannot_be_asked(worker, snapshot, "scale")
    if refusals:
        return refusals
    name = worker.name
    if worker.size is None or goal is None:
        return [f"{name} does not tell how many processes its pool has: only prefork pools do"]
    if worker.autoscale is not None and goal < max(1, worker.autoscale[0]):
        least, most = worker.autoscale
        return [f"{name} scales itself between {least} and {most} processes: {goal} is less than"
                " its least"]  # fmt: skip
    if goal < 1:
        return [f"{name} would be left with no process at all, and go on consuming"]
    return []


def absence(
    steps: Iterable[InnerStep], worker: PlannedWorker, snapshot: FleetSnapshot
) -> str | None:
    """Why these steps cannot reach that worker now: it is silent where one of them needs its
    answers, or its supervisor is where one needs that. None: they can, as far as can be seen.
    """
    live = snapshot.worker(worker.name)
    if live is None:
        return "was not seen any more"
    needed = [
        asks(step) for step in steps if isinstance(step, WorkerStep | ControlStep | ScaleStep)
    ]
    if any(needed) and live.state is WorkerState.SILENT and not live.busy_solo:
        return f"is silent: {live.says}" if live.says else "is silent"
    service = live.service
    if not all(needed) and service is not None and service.status is None and service.error:
        return f"its supervisor cannot be asked: {service.error}"
    return None


def _service_obstacles(verb: WorkerVerb, worker: PlannedWorker, live: Worker | None) -> list[str]:
    name = worker.name
    if live is None or live.service is None:
        fix = "name its service in celery-ops.yaml"
        return [f"{name} has no supervisor that is known here, so it could not be started: {fix}"]
    if live.service.status is None:
        why = live.service.error or "no reason given"
        return [f"the supervisor of {name} did not answer: {why}"]
    status = live.service.status.value
    if verb in {WorkerVerb.STOP, WorkerVerb.RESTART}:
        forbidding = [one for one in status.hazards if one.forbids]
        if forbidding:
            return [f"{name}: {one.says}: {one.fix}" for one in forbidding]
    if status.startable is False and verb is not WorkerVerb.STOP:
        return [f"{name} could not be started: {status.says}"]
    if _PURGE & set(status.arguments or ()) and verb is not WorkerVerb.STOP:
        return [
            f"{name} purges its queues when it starts (--purge): waiting messages would be lost"
        ]
    is_down_on_purpose = status.state is not ServiceState.FAILED
    if verb is WorkerVerb.RESTART and worker.state is WorkerState.STOPPED and is_down_on_purpose:
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
        found += _of_a_stop(worker, status, drained=drained)
    its_own = any(behind(queue.name) is None for queue in worker.queues or ())
    if verb in {WorkerVerb.START, WorkerVerb.RESTART} or (verb is WorkerVerb.RESUME and its_own):
        found += held_queues.restarted(name, snapshot)
    if step.for_good and status is not None:
        found += _why_it_comes_back(name, status)
    if verb in {WorkerVerb.STOP, WorkerVerb.RESTART} and worker.paused:
        names = ", ".join(worker.paused)
        found.append(f"{name}: {names} is paused, and its next life consumes it again by itself")
    if verb is WorkerVerb.DRAIN:
        if worker.pool == "solo":
            now = ", as it does now" if worker.busy_solo else ""
            found.append(
                f"{name}: a solo pool reads nothing while it runs a task{now}: it leaves its queues"
                " when that has ended, and is waited for as long as its drain may last"
            )
        if worker.scheduled:
            found.append(
                f"{name}: {counted(worker.scheduled, 'ETA task')} held, given back at a stop"
            )
        if step.on_timeout is OnTimeout.PROCEED:
            found.append(f"{name}: tasks that outlast the drain will be cut off")
    if verb is WorkerVerb.START and worker.queues is None:
        found.append(f"{name}: what it will consume is not known before it runs")
    return found


def _of_a_stop(worker: PlannedWorker, status: ServiceStatus, *, drained: bool) -> list[str]:
    """What its supervisor does to it at a stop."""
    found, name = [], worker.name
    after = "the proven drain before it keeps them" if drained else "running tasks will be LOST"
    if status.signals_children:
        found.append(f"{name}: a stop signals the pool's children too: {after}")
    if status.reaches_worker is False:
        found.append(
            f"{name}: its stop signal does not get to it, PID 1 of its container keeps it, so"
            f" it is killed: {after}"
        )
    found += [f"{name}: {hazard.says}" for hazard in status.hazards if not hazard.forbids]
    if status.state is ServiceState.RUNNING and status.identity is None:
        found.append(
            f"{name}: its supervisor tells neither a pid nor an identity, so a stop is not tied"
            " to the incarnation that is planned for: what runs then is stopped"
        )
    if status.stops_cold:
        found.append(f"{name}: it is stopped with {status.stop_signal}, a cold stop: {after}")
    if worker.state is WorkerState.SILENT and not drained:
        found.append(f"{name} is silent: what it runs is not known, and a stop may cut it off")
    grace, longest = status.stop_grace, worker.longest
    if not drained and grace is not None and longest is not None and longest > grace:
        found.append(
            f"{name}: a task runs for {as_duration(longest)} already and the stop grace is"
            f" {as_duration(grace)}: it may be killed"
        )
    return found


def _why_it_comes_back(name: str, status: ServiceStatus) -> list[str]:
    if status.comes_back:
        return [f"{name} does not stay stopped for ever: {status.comes_back}"]
    if status.at_boot is None:
        return [f"{name}: its supervisor does not tell whether it is started when its host boots"]
    return []


def drains_before_it_stops(runbook: Runbook) -> bool:
    """Every stop comes after a drain in the same roll, which never cuts tasks off."""
    for step in runbook.steps:
        drained = False
        for inner in step.steps if isinstance(step, Roll) else (step,):
            if not isinstance(inner, WorkerStep):
                continue
            if inner.verb is WorkerVerb.DRAIN and inner.on_timeout.never_cuts_off:
                drained = True
            elif inner.verb in {WorkerVerb.STOP, WorkerVerb.RESTART} and not drained:
                return False
    return True


def changes_workers_before(step: Step, runbook: Runbook) -> bool:
    """A step before that one, or around it, acts on workers: they may not be as they are now."""
    acts = WorkerStep | ControlStep | ScaleStep | RunStep
    for one in runbook.steps:
        if isinstance(one, acts | Roll):
            return True
        if one is step:
            break
    return False
