"""The verbs of beat: every scheduler that is configured as a service, stopped, started, restarted.

Proved by their supervisors. What a run stops is recorded as owed, and just that is started again.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.config.units import as_duration
from celery_ops.runbook import actions
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.orders import Order
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import ANY_RUN, BeatStep, WorkerVerb
from celery_ops.runbook.slots import skips
from celery_ops.runbook.targets import UP, plan_beat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import FleetSnapshot, Service
    from celery_ops.ports import Hosts
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.schema import Runbook
    from celery_ops.runbook.stage import Stage

_STOPS = frozenset({WorkerVerb.STOP, WorkerVerb.RESTART})


def chosen(
    step: BeatStep, runbook: Runbook, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[Service, ...]:
    """Those that run, to be stopped; those that are owed, or stopped earlier on, to be started."""
    beats = tuple(service for service in snapshot.services if service.ref.beat)
    left = unanswering(_stop_of(step, runbook), snapshot, scope)
    beats = tuple(one for one in beats if one not in left)
    running = tuple(one for one in beats if one.state in UP or one.status is None)
    if step.verb in _STOPS:
        return running
    stops = any(isinstance(one, BeatStep) and one.verb is WorkerVerb.STOP for one in runbook.steps)
    runs = resolve(step.owed_by, scope)
    services = (one for one in snapshot.taken if one.kind == "service")
    owed = {one.worker for one in services if fnmatchcase(one.run, runs)}
    return tuple(one for one in beats if str(one.ref) in owed or (stops and one in running))


def unanswering(
    step: BeatStep, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[Service, ...]:
    """Those that are left out, for their supervisors do not answer."""
    if not skips(step.offline, scope):
        return ()
    return tuple(one for one in snapshot.services if one.ref.beat and one.status is None)


def warnings(step: BeatStep, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> list[str]:
    """What an operator must know of those that are left out, and of there being none."""
    left = [
        f"{one.ref} is left out, so it is not proved that it sends nothing:"
        f" {one.error or 'its supervisor did not answer'}"
        for one in unanswering(step, snapshot, scope)
    ]
    beats = [one for one in snapshot.services if one.ref.beat]
    if step.verb is WorkerVerb.STOP and not beats:
        left.append("no scheduler is configured: one that runs somewhere goes on sending tasks")
    elif step.verb is WorkerVerb.STOP and not any(one.state in UP for one in beats):
        left.append("no scheduler runs: none is stopped, and only what is owed is started")
    return left


def _stop_of(step: BeatStep, runbook: Runbook) -> BeatStep:
    """What is started is what was stopped before; which that is, the stop tells."""
    stops = (one for one in runbook.steps if isinstance(one, BeatStep) and one.verb in _STOPS)
    return next(stops, step) if step.verb is WorkerVerb.START else step


def obstacles(
    step: BeatStep,
    services: tuple[Service, ...],
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
) -> list[str]:
    """Why it cannot be done, in words with what to do instead."""
    if not services and step.optional:
        return []
    if not any(service.ref.beat for service in snapshot.services):
        return ["no scheduler is configured: name its service with `beat: true`"]
    if not services and step.verb is WorkerVerb.START:
        runs = resolve(step.owed_by, scope)
        who = "no run" if runs == ANY_RUN else f"no run {shown(runs)}"
        return [f"{who} has stopped a scheduler that it still owes: nothing is to be given back"]
    if not services:
        return ["no scheduler runs: there is nothing to stop"]
    return [
        f"the supervisor of {one.ref} did not answer: {one.error or 'no reason given'}"
        for one in services
        if one.status is None
    ]


def planned(
    step: BeatStep, services: tuple[Service, ...], snapshot: FleetSnapshot, hosts: Hosts
) -> PlannedStep:
    """The exact commands."""
    done = [
        PlannedAction(step.id, beat.name, str(action), actions.undo_of(step.verb, beat, hosts))
        for beat in (plan_beat(service, snapshot) for service in services)
        for action in actions.of_verb(step.verb, beat, hosts)
    ]
    names = tuple(str(service.ref) for service in services)
    return PlannedStep(step.id, f"{step.verb} beat", names, actions=tuple(done))


def left_stopped(runbook: Runbook, plan: Plan) -> set[str]:
    """The keys of the records that a run leaves on purpose: its last word to beat is stop."""
    left: set[str] = set()
    for step, one in zip(runbook.steps, plan.steps, strict=True):
        if isinstance(step, BeatStep):
            keys = {f"service:{name}" for name in one.targets}
            left = left | keys if step.verb is WorkerVerb.STOP else left - keys
    return left


def kept_stopped(runbook: Runbook, plan: Plan) -> frozenset[str]:
    """The schedulers that a run which ends in between leaves stopped, for a human to start."""
    return frozenset(
        name
        for step, one in zip(runbook.steps, plan.steps, strict=True)
        if isinstance(step, BeatStep) and not step.gives_back
        for name in one.targets
    )


async def perform(stage: Stage, step: BeatStep, planned_step: PlannedStep) -> None:
    """All at once. Raise StepFailed."""
    snapshot = await stage.look()
    targets = [stage.targets[name] for name in planned_step.targets]
    ready = [one for one in targets if await _meet(stage, step, one, snapshot)]
    order = Order(step.id, step.verb, stage.value(step.timeout))
    await stage.verbs.perform(order, ready)
    for target in ready:
        target.done = not target.failed
    failed = [target for target in targets if target.failed]
    if failed:
        raise StepFailed("; ".join(f"{one.name}: {one.failed}" for one in failed))


async def _meet(stage: Stage, step: BeatStep, target: Target, snapshot: FleetSnapshot) -> bool:
    """As it is now; whether anything is to be done to it."""
    past = stage.recall.peek(step.id, target.name)
    if past is not None:
        target.planned = past.worker or target.planned
        is_over = past.outcome is not None and past.outcome.result is Result.SKIPPED
        return not is_over
    service = next((one for one in snapshot.services if one.ref == target.planned.service), None)
    if service is None or service.status is None:
        why = service.error if service is not None and service.error else "no reason given"
        target.failed = f"its supervisor did not answer: {why}"
        return False
    target.planned = plan_beat(service, snapshot)
    runs = service.state in UP
    says = ""
    if step.verb in _STOPS and not runs:
        says = "does not run any more"
    elif step.verb is WorkerVerb.START and not (target.down or target.planned.debtors):
        says = "no run owes it its start"
    elif step.verb is WorkerVerb.START and runs:
        says = "runs already"
        await stage.effects.give_back("service", target.planned)
        target.down = False
    elif step.verb is WorkerVerb.START:
        _tell_catch_up(stage, step, target, snapshot)
    if says:
        target.done = True
        stage.effects.conclude(step.id, target.name, Result.SKIPPED, says)
    return not says


def _tell_catch_up(stage: Stage, step: BeatStep, target: Target, snapshot: FleetSnapshot) -> None:
    """FACTS: an entry that fell due while beat was stopped is sent once, however often it did; a
    beat that kept no schedule file knows of none.
    """
    stopped = [one.at for one in snapshot.taken if one.key == f"service:{target.name}"]
    if stopped:
        away = max(0.0, (snapshot.at - min(stopped)).total_seconds())
        says = (
            f"was stopped for {as_duration(away)}: each entry that fell due meanwhile is sent once,"
            " at once, if it kept its schedule"
        )
        stage.say(target.name, says, step.id)
