"""Makes plans: from one real picture of the fleet to what a run would do, by name. Pure.

`planning` reads the fleet. Whatever makes a run impossible is a refusal in the plan, not an
exception: the operator sees all of them at once, with the rest of the plan.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_ops.errors import UsageError
from celery_ops.fleet.tracing import Sightings
from celery_ops.model import Level, Schedule, WorkerState
from celery_ops.runbook import (
    absences,
    actions,
    beats,
    choosing,
    facts,
    orphans,
    probes,
    queue_plans,
    switching,
    task_plans,
)
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.guard import Guard, consumers
from celery_ops.runbook.hazards import (
    absence,
    cannot_be_asked,
    changes_workers_before,
    dangers,
    drains_before_it_stops,
    obstacles,
)
from celery_ops.runbook.leaving_out import is_left_out, left_out
from celery_ops.runbook.loader import render, resolve
from celery_ops.runbook.params import ALLOW_GAP, keep_available
from celery_ops.runbook.plan import (
    Plan,
    PlannedAction,
    PlannedActivation,
    PlannedBatch,
    PlannedStep,
    QueueCapacity,
)
from celery_ops.runbook.questions import confirmations
from celery_ops.runbook.release_steps import ActivateStep, WatchStep
from celery_ops.runbook.saying import in_words, rolled
from celery_ops.runbook.scaling import planned_scale
from celery_ops.runbook.schema import (
    BeatStep,
    CheckStep,
    ConfirmStep,
    ControlStep,
    DoctorStep,
    NotifyStep,
    ProbeStep,
    RestoreStep,
    Roll,
    RunStep,
    ScaleStep,
    WaitStep,
    WorkerStep,
    WorkerVerb,
)
from celery_ops.runbook.slots import skips
from celery_ops.runbook.targets import plan_beat, plan_worker
from celery_ops.runbook.task_steps import RetryStep, RevokeStep

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from celery_ops.fleet.endings import Endings
    from celery_ops.model import Finding, FleetSnapshot, HeldMessage, Service, Worker
    from celery_ops.ports import Hosts
    from celery_ops.runbook.plan import PlannedMove, PlannedTask, PlannedWorker, Where
    from celery_ops.runbook.schema import InnerStep, Other, Runbook, Step, Value
    from celery_ops.runbook.scouting import Scouted

_ON_WORKERS = Roll | WorkerStep | ControlStep | ScaleStep | WatchStep
_NOTHING_OWED = "nothing is owed to any of these workers"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: a runbook with its parameters, as given and as typed values."""

    runbook: Runbook
    given: Mapping[str, str]
    params: Mapping[str, Value]
    allow_gap: tuple[str, ...]
    where: Where
    operator: str
    run: str
    scouted: Mapping[str, Scouted] = field(default_factory=dict)
    """What was found out about the steps that are about messages, by their ids."""
    traced: Sightings = field(default_factory=Sightings)
    """Where the tasks are that steps are about."""
    ended: Mapping[str, Endings] = field(default_factory=dict)
    """What was found of those that are to be sent again, by step."""
    schedule: Schedule = field(default_factory=Schedule)
    """What is known of what schedulers send."""


def selected(
    request: Request, snapshot: FleetSnapshot, hosts: Hosts, now: datetime
) -> frozenset[str]:
    """The workers that its selectors mean on this fleet; nobody where they match nothing."""
    draft = _Draft(request, snapshot, hosts, now)
    draft.choose_targets()
    return frozenset(draft.targets)


def build(request: Request, snapshot: FleetSnapshot, hosts: Hosts, now: datetime) -> Plan:
    """The plan of a request on this fleet. Pure; raise UsageError if a selector matches nothing."""
    draft = _Draft(request, snapshot, hosts, now)
    draft.choose_targets()
    for step in request.runbook.preflight:
        draft.check_preflight(step)
    done = draft.steps
    steps = tuple(
        draft.plan_step(step) if step in done else left_out(step) for step in request.runbook.steps
    )
    return Plan(
        run=request.run,
        runbook=request.runbook.name,
        file=request.runbook.file,
        source=request.runbook.source,
        risk=request.runbook.risk.value,
        summary=request.runbook.summary,
        params=dict(request.given),
        allow_gap=request.allow_gap,
        where=request.where,
        operator=request.operator,
        at=now,
        targets=tuple(draft.targets.values()),
        healthy=draft.healthy,
        steps=steps,
        confirmations=confirmations(
            request.runbook, request.where, draft.scope, tuple(draft.targets), draft.message_count
        ),
        hazards=tuple(dict.fromkeys(draft.hazards)),
        refusals=tuple(dict.fromkeys(draft.refusals)),
        irreversible=tuple(dict.fromkeys(draft.irreversible)),
        messages=tuple(draft.messages),
        tasks=tuple(draft.tasks),
        moves=draft.moves,
        activations=tuple(draft.activations),
        sieves=tuple(one for made in request.scouted.values() for one in made.sieves),
        left_out=draft.left_out,
        at_end=tuple(in_words(step, draft.scope) for step in request.runbook.finally_),
    )


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    request: Request
    snapshot: FleetSnapshot
    hosts: Hosts
    now: datetime
    targets: dict[str, PlannedWorker] = field(default_factory=dict)
    healthy: dict[str, int] = field(default_factory=dict)
    hazards: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    irreversible: list[str] = field(default_factory=list)
    messages: dict[HeldMessage, None] = field(default_factory=dict)
    tasks: list[PlannedTask] = field(default_factory=list)
    scope: dict[str, object] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    activations: dict[PlannedActivation, None] = field(default_factory=dict)
    unasked: set[str] = field(default_factory=set)
    """Those whom a drain passes over: whatever life of them runs is stopped."""

    def choose_targets(self) -> None:
        """Resolve every selector of the runbook, and fix what the guard is measured by."""
        self.scope = {"params": self.request.params, "fleet": facts.of_fleet(self.snapshot)}
        for step in self.steps:
            for worker in self.selected(step):
                self.targets[worker.name] = plan_worker(worker, self.snapshot)
            if isinstance(step, BeatStep):
                for service in self.chosen_beats(step):
                    beat = plan_beat(service, self.snapshot)
                    self.targets[beat.name] = beat
        if not self.targets and any(isinstance(step, _ON_WORKERS) for step in self.steps):
            self.refusals.append(f"there is nothing to do: {self.why_nobody()}")
        names = frozenset(one.name for one in self.targets.values() if not one.is_beat)
        chosen = orphans.choose_all(self.steps, self.snapshot, self.scope)
        self.messages |= dict.fromkeys(chosen.messages)
        self.hazards += chosen.hazards
        self.refusals += chosen.refusals
        for step in self.steps:
            if isinstance(step, RevokeStep | RetryStep):
                self.tasks += self.task_plan(step).tasks
        self.scope["targets"] = facts.of_targets(names, self.message_count, self.tasks)
        self.healthy = {queue: len(workers) for queue, workers in consumers(self.snapshot).items()}
        known = {queue.name for queue in self.snapshot.queues} | self.healthy.keys()
        for queue in self.request.allow_gap:
            if queue not in known:
                raise UsageError(f"allow_gap names {queue!r}, and there is no such queue")

    def why_nobody(self) -> str:
        """Why there is no worker at all for any step."""
        if self.left_out:
            return "none of these workers can be reached"
        rolls = [step for step in self.steps if isinstance(step, Roll)]
        whys = (choosing.nothing_to_take(one, self.snapshot, self.scope) for one in rolls)
        return next((why for why in whys if why), _NOTHING_OWED)

    @property
    def moves(self) -> tuple[PlannedMove, ...]:
        return tuple(move for one in self.request.scouted.values() for move in one.moves)

    @property
    def message_count(self) -> int:
        return len(self.messages) + sum(move.messages for move in self.moves)

    @property
    def steps(self) -> list[Step]:
        """Those that are not left out by the parameters alone."""
        params = self.request.params
        return [one for one in self.request.runbook.steps if not is_left_out(one, params)]

    def selected(self, step: Step) -> list[Worker]:
        """The workers a step is meant for, in its order."""
        found = choosing.chosen(step, self.snapshot, self.scope)
        if isinstance(step, Roll) and skips(step.offline, self.scope):
            for worker in found:
                absent = self.absence(step, worker)
                self.left_out |= {} if absent is None else {worker.name: absent}
        elif not isinstance(step, WatchStep):
            return found
        return [worker for worker in found if worker.name not in self.left_out]

    def chosen_beats(self, step: BeatStep) -> tuple[Service, ...]:
        return beats.chosen(step, self.request.runbook, self.snapshot, self.scope)

    def absence(self, roll: Roll, worker: Worker) -> str | None:
        """Why the steps of a roll that are for this worker cannot reach it, if so."""
        steps = [step for step in roll.steps if self.may_apply(step, worker.name)]
        return absence(steps, plan_worker(worker, self.snapshot), self.snapshot)

    def may_apply(self, step: InnerStep, name: str) -> bool:
        """False where the step's `when` is known not to hold for this target now."""
        verdict = None if step.when is None else step.when.evaluate(self.scope_of(name))
        return verdict is None or verdict.truth is not Truth.FAILS

    def check_preflight(self, step: CheckStep | DoctorStep) -> None:
        match step:
            case CheckStep():
                verdict = step.that.evaluate(self.scope)
                if not verdict.holds:
                    message = render(step.message, self.scope) if step.message else ""
                    self.refusals.append(f"{message or step.that.source} ({verdict.says})")
            case DoctorStep():
                for finding in self.snapshot.problems:
                    if finding.rule in step.rules and finding.worker in self.targets:
                        self.note(finding)

    def note(self, finding: Finding) -> None:
        """What doctor found about a target; a danger that the drain removes is told with its
        step.
        """
        if finding.drained_is_safe and drains_before_it_stops(self.request.runbook):
            return
        says = f"{finding.subject}: {finding.says}. {finding.fix}"
        (self.refusals if finding.level is Level.ERROR else self.hazards).append(says)

    def plan_step(self, step: Step) -> PlannedStep:
        match step:
            case Roll():
                return self.plan_roll(step)
            case WorkerStep():
                chosen = [worker.name for worker in self.selected(step)]
                batches = self.guarded(step, chosen) if step.verb.takes_capacity else ()
                return PlannedStep(
                    id=step.id,
                    says=in_words(step, self.scope),
                    targets=tuple(chosen),
                    batches=batches,
                    actions=self.actions(step, chosen),
                )
            case ControlStep() | ScaleStep() | WatchStep():
                chosen = [worker.name for worker in self.selected(step)]
                says, done = in_words(step, self.scope), self.actions(step, chosen)
                return PlannedStep(step.id, says, tuple(chosen), actions=done)
            case ProbeStep():
                self.hinder(step)
                return probes.planned(step, self.request.where, self.snapshot, self.scope)
            case BeatStep():
                services = self.chosen_beats(step)
                self.refusals += beats.obstacles(step, services, self.snapshot, self.scope)
                self.hazards += beats.hazards(step, services, self.request, self.snapshot)
                return beats.planned(step, services, self.request, self.snapshot, self.hosts)
            case WaitStep() | CheckStep() | ConfirmStep() | RunStep() | NotifyStep():
                return PlannedStep(
                    step.id, in_words(step, self.scope), actions=self.actions(step, ())
                )
            case _:
                return self.plan_other(step)

    def plan_other(self, step: Other) -> PlannedStep:
        """Of a step that is not meant for workers."""
        match step:
            case RevokeStep() | RetryStep():
                about = self.task_plan(step)
                self.refusals += about.refusals
                self.hazards += about.hazards
                self.irreversible.append(about.irreversible)
                return about.planned
            case RestoreStep():
                messages, one = orphans.planned(step, self.snapshot, self.scope)
                self.hazards += orphans.reruns(messages, self.snapshot)
                return one
            case ActivateStep():
                return self.switch(step, ()).planned
            case _:
                made = self.request.scouted.get(step.id) or queue_plans.planned(
                    step, self.request.runbook, self.snapshot, self.scope
                )
                self.refusals += made.refusals
                self.hazards += made.hazards
                return made.planned

    def task_plan(self, step: RevokeStep | RetryStep) -> task_plans.Made:
        return task_plans.plan(
            step, self.request.runbook, self.snapshot, self.scope,
            traced=self.request.traced, ended=self.request.ended,
            workers=[worker.name for worker in self.selected(step)],
        )  # fmt: skip

    def hinder(self, step: ProbeStep) -> None:
        """What a probe would fail of: a refusal, unless an earlier step may mend it."""
        probe = self.request.where.probe
        says = probes.obstacles(step, probe, self.snapshot, self.scope)
        is_mended = probe is not None and changes_workers_before(step, self.request.runbook)
        (self.hazards if is_mended else self.refusals).extend(says)

    def plan_roll(self, roll: Roll) -> PlannedStep:
        chosen = [worker.name for worker in self.selected(roll)]
        too_few = choosing.too_few(roll, self.snapshot, self.scope)
        self.refusals += () if too_few is None else (too_few,)
        keep, gap = resolve(roll.keep_available, self.scope), frozenset(self.request.allow_gap)
        guard = Guard(keep, gap, for_good=roll.for_good)
        size = max(1, resolve(roll.batch, self.scope).down(len(chosen)))
        canary = resolve(roll.canary, self.scope)
        takes = any(
            (isinstance(step, WorkerStep) and step.verb.takes_capacity)
            or (isinstance(step, RunStep | ControlStep) and step.takes_worker)
            for step in roll.steps
        )
        queues = {name: self.queues_of(name) for name in chosen}
        cut = guard.batches(chosen, queues, self.healthy, size=size, canary=canary)
        batches = tuple(
            self.batch(
                guard, number, names, canary=number == 1 and canary > 0, takes=takes,
                gone=[one for before in cut[: number - 1] if roll.for_good for one in before],
            )
            for number, names in enumerate(cut, start=1)
        )  # fmt: skip
        lost = self.counted_as_failed(roll, chosen)
        done: list[PlannedAction] = []
        drained: set[str] = set()
        for step in roll.steps:
            turns = [name for name in chosen if name not in lost and self.may_apply(step, name)]
            done += self.actions(step, turns, drained=drained) if turns else ()
            if isinstance(step, WorkerStep) and step.verb is WorkerVerb.DRAIN:
                drained.update(turns)
        says = rolled(len(chosen), len(cut), size)
        return PlannedStep(roll.id, says, tuple(chosen), batches, tuple(done))

    def counted_as_failed(self, roll: Roll, chosen: list[str]) -> frozenset[str]:
        """Those that cannot be reached, where so many may fail; else they stand in the way."""
        absent = {
            name: why
            for name in chosen
            if (worker := self.snapshot.worker(name)) and (why := self.absence(roll, worker))
        }
        found = absences.judged(roll, absent, self.scope)
        self.refusals += found.refusals
        self.hazards += found.hazards
        return found.failed

    def guarded(self, step: WorkerStep, chosen: list[str]) -> tuple[PlannedBatch, ...]:
        """A step outside a roll takes all of its targets at once."""
        guard = Guard(keep_available(self.request.params, step), frozenset(self.request.allow_gap))
        return (self.batch(guard, 1, tuple(chosen), canary=False, takes=True),)

    def batch(
        self, guard: Guard, number: int, names: tuple[str, ...], *, canary: bool, takes: bool,
        gone: Collection[str] = (),
    ) -> PlannedBatch:  # fmt: skip
        taking = set(names) if takes else set()
        found = consumers(self.snapshot, taking=taking)
        now = {queue: there - set(gone) for queue, there in found.items()}
        for shortfall in guard.shortfalls(taking, now, self.healthy):
            fix = f"allow it with -p {ALLOW_GAP.name}={shortfall.queue}"
            self.refusals.append(f"without {', '.join(names)}, {shortfall}: {fix}")
        capacity = []
        for queue in sorted({queue for name in names for queue in self.queues_of(name)}):
            healthy = self.healthy.get(queue, 0)
            during = len(now.get(queue, set()) - taking)
            capacity.append(QueueCapacity(queue, healthy, during, guard.least(queue, healthy)))
            if during == 0 and taking:
                self.hazards.append(f"nobody consumes {queue} without {', '.join(names)}")
        return PlannedBatch(number, names, tuple(capacity), canary)

    def queues_of(self, name: str) -> tuple[str, ...]:
        return tuple(queue.name for queue in self.targets[name].queues or ())

    def actions(
        self,
        step: InnerStep | ConfirmStep | NotifyStep,
        chosen: Iterable[str],
        *,
        drained: Collection[str] = (),
    ) -> tuple[PlannedAction, ...]:
        """The exact effects of a step on each target; notes what is in their way."""
        found: list[PlannedAction] = []
        match step:
            case WorkerStep():
                for name in chosen:
                    found += self.worker_actions(step, name, drained=name in drained)
            case RunStep():
                for turn in actions.turns(step, chosen, self.targets):
                    scope = self.scope_of(turn)
                    argv = shlex.join(render(part, scope) for part in step.argv)
                    undo = shlex.join(render(part, scope) for part in step.undo) or None
                    if undo is None:
                        self.irreversible.append(f"step {step.id}: {argv}")
                    found.append(PlannedAction(step.id, turn, argv, undo))
            case ControlStep():
                for name in chosen:
                    found += self.control_actions(step, name)
            case ScaleStep():
                found += [self.scale_action(step, name) for name in chosen]
            case ProbeStep():
                self.hinder(step)
                where, seen = self.request.where, self.snapshot
                for name in chosen:
                    found += probes.actions(step, where, seen, self.scope, name)
            case ActivateStep():
                found += self.switch(step, chosen).planned.actions
            case WaitStep() | CheckStep() | ConfirmStep() | NotifyStep() | WatchStep():
                pass
        return tuple(found)

    def worker_actions(
        self, step: WorkerStep, name: str, *, drained: bool
    ) -> Iterable[PlannedAction]:
        worker = self.targets[name]
        refusals = obstacles(step.verb, worker, self.snapshot)
        if refusals and step.passes_over and worker.state is not WorkerState.CONFLICT:
            self.unasked.add(name)
            self.hazards.append(f"{name} is {worker.state}: it is not asked to drain")
            return ()
        self.refusals += refusals
        self.hazards += dangers(step, worker, self.snapshot, drained=drained)
        if refusals:
            return ()
        worker = replace(worker, identity=None) if name in self.unasked else worker
        undo = actions.undo_of(step.verb, worker, self.hosts, for_good=step.for_good)
        does = actions.of_verb(step.verb, worker, self.hosts, for_good=step.for_good)
        return [PlannedAction(step.id, name, str(action), undo) for action in does]

    def control_actions(self, step: ControlStep, name: str) -> Iterable[PlannedAction]:
        refusals = cannot_be_asked(self.targets[name], self.snapshot, step.method)
        self.refusals += refusals
        if refusals:
            return ()
        action = actions.control(step, name, self.scope_of(name))
        self.irreversible.append(f"step {step.id}: {action}")
        return [PlannedAction(step.id, name, str(action), None)]

    def switch(self, step: ActivateStep, chosen: Iterable[str]) -> switching.Switching:
        targets = [self.targets[name] for name in chosen]
        made = switching.plan(step, targets, self.snapshot, self.scope, self.hosts)
        self.refusals += made.refusals
        self.activations |= dict.fromkeys(made.activations)
        return made

    def scale_action(self, step: ScaleStep, name: str) -> PlannedAction:
        action, refusals = planned_scale(step, self.targets[name], self.snapshot, self.scope)
        self.refusals += refusals
        return action

    def scope_of(self, name: str | None) -> dict[str, object]:
        """What a step can name when it is the turn of this target."""
        worker = self.snapshot.worker(name) if name is not None else None
        if name is None or worker is None:
            return self.scope
        target = self.targets.get(name) or plan_worker(worker, self.snapshot)
        before = facts.BeforeFacts(facts.of_planned(target))
        return {**self.scope, "worker": facts.of_worker(worker), "before": before}
