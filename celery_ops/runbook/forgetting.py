"""`forget: NAMES`: schedulers that a run has stopped stay stopped, and are owed no start any more.

Only the record is taken away, and only of a service that is seen to be stopped.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.fleet import beats as fleet_beats
from celery_ops.model import ServiceState
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.targets import plan_beat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import FleetSnapshot, Service
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import PlannedWorker
    from celery_ops.runbook.schema import BeatStep, Slot
    from celery_ops.runbook.stage import Stage

FORGET = "forget"
_DOWN = frozenset({ServiceState.STOPPED, ServiceState.FAILED})
_EXPECT = "no run owes it its start"


def chosen(
    names: Slot[str], snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[Service, ...]:
    """Those that are meant and owed; a name or glob is the service's, with its host or without."""
    wanted = _wanted(names, scope)
    return tuple(
        one
        for one in snapshot.services
        if one.ref.beat and plan_beat(one, snapshot).debtors
        if any(fnmatchcase(name, glob) for glob in wanted for name in (one.ref.name, str(one.ref)))
    )


def obstacles(
    names: Slot[str],
    services: Sequence[Service],
    snapshot: FleetSnapshot,
    scope: Mapping[str, object],
) -> list[str]:
    """Why it cannot be done, in words with what to do instead."""
    if not services:
        owed = [one.worker for one in snapshot.taken if one.service and one.service.beat]
        which = f"owed are: {', '.join(dict.fromkeys(owed))}" if owed else "none is owed its start"
        asked = shown(", ".join(_wanted(names, scope)))
        return [f"no configured scheduler {asked} is owed its start; {which}"]
    return [why for one in services if (why := _in_the_way(one))]


def hazards(services: Sequence[Service], snapshot: FleetSnapshot) -> list[str]:
    """What an operator must know of it before agreeing."""
    if fleet_beats.senders(snapshot):
        return []
    names = {str(one.ref) for one in services}
    left = {one.worker for one in snapshot.taken if one.service and one.service.beat} - names
    if left:
        return []
    return ["no scheduler runs, and none is owed its start any more: nothing is scheduled until one"
            " is started by hand"]  # fmt: skip


def planned(step: BeatStep, services: Sequence[Service], snapshot: FleetSnapshot) -> PlannedStep:
    """Which records of which runs are taken away."""
    beats = [plan_beat(service, snapshot) for service in services]
    return PlannedStep(
        step.id,
        "leave schedulers stopped: only the record that they are owed their start is taken away",
        tuple(one.name for one in beats),
        actions=tuple(PlannedAction(step.id, one.name, _does(one), None) for one in beats),
    )


async def perform(stage: Stage, step: BeatStep, planned_step: PlannedStep) -> str:
    """Each that is seen to be stopped. Raise StepFailed."""
    targets = [stage.targets[name] for name in planned_step.targets]
    services = [one.planned.service for one in targets if one.planned.service is not None]
    snapshot = await stage.surveyor.refresh(questions=(), services=services)
    for target in targets:
        await _forget(stage, step.id, target, snapshot)
    failed = [f"{one.name}: {one.failed}" for one in targets if one.failed]
    if failed:
        raise StepFailed("; ".join(failed))
    return f"{', '.join(planned_step.targets)} stays stopped, and is owed no more"


async def _forget(stage: Stage, step: str, target: Target, snapshot: FleetSnapshot) -> None:
    past = stage.recall.next(step, target.name)
    if past is not None and past.outcome is not None:
        target.done = past.outcome.result is Result.DONE
        target.failed = "" if target.done else past.outcome.says
        return
    found = (one for one in snapshot.services if one.ref == target.planned.service)
    service = next(found, None)
    target.failed = "is not configured any more" if service is None else _in_the_way(service)
    if service is None or target.failed:
        stage.effects.conclude(step, target.name, Result.FAILED, target.failed)
        return
    target.planned = plan_beat(service, snapshot)
    if past is not None:
        target.planned = past.worker or target.planned
    else:
        stage.effects.intend(
            step, target.name, _does(target.planned),
            expect=_EXPECT, undo=None, verb=FORGET, worker=target.planned,
        )  # fmt: skip
    await stage.effects.give_back("service", target.planned)
    target.down, target.done = False, True
    stage.effects.conclude(step, target.name, Result.DONE, "stays stopped, and is owed no more")


def _in_the_way(service: Service) -> str:
    """Why it is not known to be stopped; empty: it is."""
    if service.status is None or service.error:
        return (
            f"the supervisor of {service.ref} did not answer: {service.error or 'no reason given'}"
        )
    if service.state in _DOWN:
        return ""
    return (
        f"{service.ref} is {service.state.value}, not stopped: celery-ops beat start settles that"
    )


def _does(beat: PlannedWorker) -> str:
    runs = ", ".join(beat.debtors) or "no run any more"
    return f"forget that it was stopped by {runs}"


def _wanted(names: Slot[str], scope: Mapping[str, object]) -> list[str]:
    return [one.strip() for one in resolve(names, scope).split(",") if one.strip()]
