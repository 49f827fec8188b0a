"""The verbs of beat: every scheduler that is configured as a service, stopped, started, restarted.

Proved by their supervisors, by the processes on all hosts, and by what is seen to be sent. What a
run stops is recorded as owed, and just that is started again, but for a second sender.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.config.units import as_duration
from celery_ops.fleet import beats as fleet_beats
from celery_ops.runbook import actions, beat_proof, catch_up, forgetting, silences
from celery_ops.runbook.beat_proof import Marks
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.orders import Order
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import ANY_RUN, OTHERS_IGNORED, OTHERS_REFUSED, BeatStep, WorkerVerb
from celery_ops.runbook.slots import skips
from celery_ops.runbook.targets import UP, plan_beat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_ops.model import Beat, FleetSnapshot, Service
    from celery_ops.ports import Hosts
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.planner import Request
    from celery_ops.runbook.schema import Runbook
    from celery_ops.runbook.stage import Stage

_STOPS = frozenset({WorkerVerb.STOP, WorkerVerb.RESTART})


def chosen(
    step: BeatStep, runbook: Runbook, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[Service, ...]:
    """Those that run, to be stopped; those that are owed, or stopped earlier on, to be started."""
    if step.forgets is not None:
        return forgetting.chosen(step.forgets, snapshot, scope)
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


def _left(step: BeatStep, snapshot: FleetSnapshot, scope: Mapping[str, object]) -> list[str]:
    """What is said of those that are left out, and of there being none."""
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
    if step.forgets is not None:
        return forgetting.obstacles(step.forgets, services, snapshot, scope)
    others = resolve(step.others, scope)
    if others not in {OTHERS_REFUSED, OTHERS_IGNORED}:
        return [f"others is {OTHERS_REFUSED} or {OTHERS_IGNORED}, not {shown(others)}"]
    found = []
    if step.verb is WorkerVerb.STOP and others == OTHERS_REFUSED:
        found += [_in_the_way(beat) for beat in fleet_beats.strays(snapshot)]
    if step.verb is WorkerVerb.START and others == OTHERS_REFUSED:
        found += _rivals(services, snapshot)
    if not services and step.optional:
        return found
    if not any(service.ref.beat for service in snapshot.services):
        return ["no scheduler is configured: name its service with `beat: true`", *found]
    if not services and step.verb is WorkerVerb.START:
        runs = resolve(step.owed_by, scope)
        who = "no run" if runs == ANY_RUN else f"no run {shown(runs)}"
        return [f"{who} has stopped a scheduler that it still owes: nothing is to be given back"]
    if not services:
        return ["no scheduler runs: there is nothing to stop", *found]
    return [
        *found,
        *(
            f"the supervisor of {one.ref} did not answer: {one.error or 'no reason given'}"
            for one in services
            if one.status is None
        ),
    ]


def hazards(
    step: BeatStep,
    services: tuple[Service, ...],
    request: Request,
    snapshot: FleetSnapshot,
) -> list[str]:
    """What an operator must know of it before agreeing."""
    if step.forgets is not None:
        return forgetting.hazards(services, snapshot)
    scope = {"params": request.params}
    ignored = resolve(step.others, scope) == OTHERS_IGNORED
    told = _left(step, snapshot, scope)
    if step.verb is WorkerVerb.STOP:
        blind = fleet_beats.blind(snapshot.hosts, [host.name for host in snapshot.hosts])
        told += [f"a scheduler may go on unseen on {one}" for one in blind]
        told += [
            f"{named(beat)} is not stopped: it may be another deployment's (it runs in a container,"
            " or below a supervisord that runs nothing configured here)"
            for beat in fleet_beats.doubtful(snapshot)
        ]
        strays = fleet_beats.strays(snapshot) if ignored else ()
        told += [f"{named(beat)} goes on sending: it is not stopped" for beat in strays]
        told += silences.of(step, request).hazards
    if step.verb is WorkerVerb.START and len(services) > 1 and not ignored:
        first, *rest = (str(service.ref) for service in services)
        told.append(
            f"{len(services)} schedulers were stopped, and one is to send: {first} is started, and "
            f"{', '.join(rest)} only if RedBeat's lock makes it stand by; else it stays stopped "
            f"and is owed no more (others: {OTHERS_IGNORED} starts them all)"
        )
    if step.verb is WorkerVerb.START:
        sends = services if ignored else services[:1]
        told += catch_up.foreseen(sends, request.schedule, snapshot)
    return told


def planned(
    step: BeatStep,
    services: tuple[Service, ...],
    request: Request,
    snapshot: FleetSnapshot,
    hosts: Hosts,
) -> PlannedStep:
    """The exact commands, and for how long it is watched who sends."""
    if step.forgets is not None:
        return forgetting.planned(step, services, snapshot)
    done = [
        PlannedAction(step.id, beat.name, str(action), actions.undo_of(step.verb, beat, hosts))
        for beat in (plan_beat(service, snapshot) for service in services)
        for action in actions.of_verb(step.verb, beat, hosts)
    ]
    names = tuple(str(service.ref) for service in services)
    if step.verb is WorkerVerb.STOP:
        silence = silences.of(step, request)
        says = f"stop beat, and watch for {as_duration(silence.seconds)} that no scheduler sends"
        return PlannedStep(
            step.id, f"{says}: {silence.says}", names, actions=tuple(done), silence=silence.seconds
        )
    says = f"{step.verb} beat"
    if step.verb is WorkerVerb.START:
        seconds = as_duration(resolve(step.silence, {"params": request.params}))
        says += f", and watch for {seconds} that no more than one sends"
    return PlannedStep(step.id, says, names, actions=tuple(done))


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


async def perform(stage: Stage, step: BeatStep, planned_step: PlannedStep) -> str:
    """All of them; what is proved by that. Raise StepFailed."""
    if step.forgets is not None:
        return await forgetting.perform(stage, step, planned_step)
    snapshot = await stage.look()
    targets = [stage.targets[name] for name in planned_step.targets]
    ready = [one for one in targets if await _meet(stage, step, one, snapshot)]
    match step.verb:
        case WorkerVerb.STOP:
            await _all(stage, step, ready, targets)
            return await _silence(stage, step, planned_step.silence)
        case WorkerVerb.START:
            return await _start(stage, step, ready, targets)
        case _:
            await _all(stage, step, ready, targets)
            return "beat has been restarted"


async def _all(
    stage: Stage, step: BeatStep, ready: Sequence[Target], targets: Sequence[Target]
) -> None:
    """The step's verb, for those that are ready, at once."""
    await stage.verbs.perform(Order(step.id, step.verb, stage.value(step.timeout)), ready)
    for target in ready:
        target.done = not target.failed
    failed = [target for target in targets if target.failed]
    if failed:
        raise StepFailed("; ".join(f"{one.name}: {one.failed}" for one in failed))


async def _silence(stage: Stage, step: BeatStep, planned: float | None) -> str:
    """That nobody sends any more, proved once: a later step may have started one again since.

    Raise StepFailed.
    """
    past = stage.recall.next(step.id, None)
    if past is not None and past.outcome is not None:
        if past.outcome.result is Result.FAILED:
            raise StepFailed(past.outcome.says)
        return past.outcome.says
    try:
        says = await _nobody_sends(stage, step, planned)
    except StepFailed as failed:
        stage.effects.conclude(step.id, None, Result.FAILED, failed.says)
        raise
    stage.effects.conclude(step.id, None, Result.DONE, says)
    return says


async def _nobody_sends(stage: Stage, step: BeatStep, planned: float | None) -> str:
    """For so many seconds no process does, and no message comes. Raise StepFailed."""
    seconds = stage.value(step.silence) if planned is None else planned
    marks = Marks(stage, await stage.look())
    async with marks.watching():
        await stage.brake.sleep(seconds)
    snapshot = await beat_proof.look(stage)
    still = beat_proof.still_there(snapshot)
    says = f"{beat_proof.seen_on(snapshot)}; in {as_duration(seconds)} {marks.told()}"
    if stage.value(step.others) == OTHERS_IGNORED:
        return f"beat is stopped, and {still or 'nobody'} is known to go on; {marks.told()}"
    if still:
        raise StepFailed(f"beat was stopped, and {still} runs")
    if marks.found:
        raise StepFailed(f"beat was stopped, and somebody goes on sending: {marks.told()}")
    return f"beat is stopped: {says}"


async def _start(
    stage: Stage, step: BeatStep, ready: Sequence[Target], targets: Sequence[Target]
) -> str:
    """The first, and those that stand by for it: no more than one sends. Raise StepFailed."""
    is_any = stage.value(step.others) == OTHERS_IGNORED
    before = await stage.look()
    up = {str(one.ref) for one in before.services if one.state in UP}
    number = len(ready)
    if not is_any:  # one of them is enough, whoever runs already
        number = 0 if any(one.name in up and one not in ready for one in targets) else 1
    first, rest = list(ready[:number]), list(ready[number:])
    burst = await catch_up.tell(stage, step.id, first, before)
    marks = Marks(stage, before)
    until = stage.clock.monotonic() + stage.value(step.silence)
    async with marks.watching():
        await _all(stage, step, first, targets)
        if rest and await _waits_for_lock(stage, targets):
            await _all(stage, step, rest, targets)
        else:
            for target in rest:
                await _leave(stage, step, target)
        await stage.brake.sleep(max(0.0, until - stage.clock.monotonic()))
    after = await beat_proof.look(stage)
    says = _one_sender(after, marks, is_any=is_any)
    up = {str(one.ref) for one in after.services if one.state in UP}
    running = ", ".join(one.name for one in targets if one.name in up) or "none"
    left = [one.name for one in targets if one.name not in up]
    stays = f"; {', '.join(left)} stays stopped" if left else ""
    return f"{running} runs{stays}; {says}{burst}"


async def _waits_for_lock(stage: Stage, targets: Sequence[Target]) -> bool:
    """Whether the one that runs by now has RedBeat's lock: then the others stand by."""
    snapshot = await beat_proof.look(stage)
    names = {target.name for target in targets}
    running = [one for one in snapshot.beats if one.running and one.name in names]
    return bool(running) and all(one.waits_for_lock for one in running)


async def _leave(stage: Stage, step: BeatStep, target: Target) -> None:
    """A second sender stays stopped, as the plan said."""
    await stage.effects.give_back("service", target.planned)
    target.down, target.done = False, True
    says = "stays stopped, and is owed no more: another one sends"
    stage.effects.conclude(step.id, target.name, Result.SKIPPED, says)


def _one_sender(snapshot: FleetSnapshot, marks: Marks, *, is_any: bool) -> str:
    """What was seen of who sends. Raise StepFailed where there are two."""
    if is_any:
        return marks.told()
    if len(fleet_beats.senders(snapshot)) > 1:
        raise StepFailed(f"two schedulers send: {beat_proof.still_there(snapshot)}")
    if len(marks.senders) > 1:
        raise StepFailed(f"two schedulers send: {marks.told()}")
    known = {one.origin for one in snapshot.beats if one.running and not one.doubtful}
    if marks.found and None not in known and not known & set(marks.senders):
        raise StepFailed(
            f"somebody else sends: {marks.told()}, and {beat_proof.still_there(snapshot)} runs"
        )
    return marks.told()


def named(beat: Beat) -> str:
    """A scheduler with its pid."""
    return beat.name if beat.pid is None else f"{beat.name} (pid {beat.pid})"


def _in_the_way(beat: Beat) -> str:
    go_on = f"`others: {OTHERS_IGNORED}` in that step leaves it (-p other_beats={OTHERS_IGNORED})"
    if beat.worker is not None:
        return (
            f"{named(beat)} is a worker that schedules too (-B), and goes on as long as it runs: "
            f"stop that worker first, or take -B off its command line; {go_on}"
        )
    if beat.host is None:
        return (
            f"{beat.name} answers, and runs on none of the configured hosts: add its host and its "
            f"service (beat: true), or stop it there; {go_on}"
        )
    return (
        f"{named(beat)} schedules, and no service is configured for it: it would go on sending. "
        f"Add its service (celery-ops config init finds it), or stop it by hand; {go_on}"
    )


def _rivals(services: tuple[Service, ...], snapshot: FleetSnapshot) -> list[str]:
    """Who sends already, while these are to be started."""
    meant = {service.ref for service in services}
    running = [
        one
        for one in snapshot.beats
        if one.running and not one.waits_for_lock and not one.doubtful
        if one.service is None or one.service.ref not in meant
    ]
    return [
        f"{named(one)} sends already: with a second scheduler everything is sent twice. Stop it "
        f"first, or leave the others stopped (celery-ops beat forget NAME); "
        f"`others: {OTHERS_IGNORED}` in that step starts them all the same "
        f"(-p other_beats={OTHERS_IGNORED})"
        for one in (running if services else ())
    ]


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
    if says:
        target.done = True
        stage.effects.conclude(step.id, target.name, Result.SKIPPED, says)
    return not says
