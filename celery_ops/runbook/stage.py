"""What every part of a running run works with: the frozen plan, its targets, and one look at the
fleet.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from celery_ops.errors import PreconditionFailed
from celery_ops.model.holding import through
from celery_ops.ports import Question
from celery_ops.runbook import facts
from celery_ops.runbook.attempts import backoff, failed_attempt
from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.guard import Guard, consumers
from celery_ops.runbook.hazards import obstacles
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.orders import Target
from celery_ops.runbook.params import keep_available
from celery_ops.runbook.targets import plan_beat, plan_worker

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from celery_ops.config.units import Count
    from celery_ops.fleet.survey import Surveyor
    from celery_ops.model import ConsumedQueue, FleetSnapshot, Incarnation
    from celery_ops.ports import Clock, Hosts, Results
    from celery_ops.runbook.brake import Brake
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.inbox import Message
    from celery_ops.runbook.journal import Journal
    from celery_ops.runbook.plan import Plan
    from celery_ops.runbook.recall import Recall
    from celery_ops.runbook.schema import (
        Constant,
        Reference,
        Retries,
        Value,
        WorkerStep,
        WorkerVerb,
    )
    from celery_ops.runbook.task_events import TaskEvents
    from celery_ops.runbook.watch import Watch
    from celery_ops.runbook.worker_verbs import WorkerVerbs

T = TypeVar("T")

LOOK_TIMEOUT = 2.0
GUARD_LOOKS = 4
"""So often a worker that counts for the guard is asked whether it is there."""
BETWEEN_LOOKS = 1.0
LOOKED_AT = (
    Question.PING,
    Question.STATS,
    Question.ACTIVE,
    Question.RESERVED,
    Question.SCHEDULED,
    Question.ACTIVE_QUEUES,
)


@dataclass(slots=True)
class Stage:
    """One run under way. `targets` keeps what each is owed; `params` are typed values.

    `recall` is what its journal told when it was taken up again; empty for a run that begins.
    """

    plan: Plan
    params: Mapping[str, Value]
    surveyor: Surveyor
    hosts: Hosts
    clock: Clock
    journal: Journal
    brake: Brake
    effects: Effects
    watch: Watch
    verbs: WorkerVerbs
    recall: Recall
    task_events: TaskEvents
    results: Results | None = None
    targets: dict[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.targets = {planned.name: Target(planned) for planned in self.plan.targets}

    async def look(self) -> FleetSnapshot:
        """The whole fleet, now."""
        return await self.surveyor.refresh(questions=LOOKED_AT, timeout=LOOK_TIMEOUT)

    def scope(self, snapshot: FleetSnapshot) -> dict[str, object]:
        """What conditions outside a roll can see."""
        names = frozenset(one.name for one in self.targets.values() if not one.planned.is_beat)
        return {
            "params": self.params,
            "fleet": facts.of_fleet(snapshot),
            "targets": facts.of_targets(names, self.plan.message_count, self.plan.tasks),
        }

    def value(self, slot: Constant[T] | Reference) -> T:
        """A slot's value; only parameters can be referred to once a run goes on."""
        return resolve(slot, {"params": self.params})

    async def guard(
        self, keep: Count, taking: Collection[str], *, for_good: bool = False
    ) -> FleetSnapshot:
        """Look at the whole fleet and refuse to take these workers if a queue would go short.

        Raise PreconditionFailed; return what was seen.
        """
        guard = Guard(keep, frozenset(self.plan.allow_gap), for_good=for_good)
        planned = {
            name: [queue.name for queue in target.planned.queues or ()]
            for name, target in self.targets.items()
            if target.drained is None  # it takes from no queue now, also if it does not tell so
        }
        for _ in range(GUARD_LOOKS):
            since = self.clock.now()
            snapshot = await self.look()
            there = consumers(snapshot, since, taking, planned)
            short = guard.shortfalls(taking, there, self.plan.healthy)
            # Short of what is known, or only as long as somebody does not answer?
            known = consumers(snapshot, None, taking, planned)
            if not short or guard.shortfalls(taking, known, self.plan.healthy):
                break
            await self.brake.sleep(BETWEEN_LOOKS)
        if short:
            says = "; ".join(str(one) for one in short)
            raise PreconditionFailed(
                f"the guard refused to take {', '.join(sorted(taking))}: {says}",
                fix="Bring consumers back first (celery-ops status), or allow the gap: "
                f"-p allow_gap={short[0].queue}",
            )
        return snapshot

    def not_begun(self, step: str, targets: Sequence[Target]) -> list[str]:
        """Those that a step is still to be begun with: only these are taken away by it."""
        return [one.name for one in targets if self.recall.peek(step, one.name) is None]

    def keep_available(self, step: WorkerStep | None = None) -> Count:
        """What the guard keeps while steps outside of a roll take workers away."""
        return keep_available(self.params, step)

    def refresh_target(
        self, step: str, target: Target, verb: WorkerVerb, snapshot: FleetSnapshot
    ) -> None:
        """Meet the target as it is now. It fails here if the verb cannot be done to it any more.

        What it must consume afterwards stays as planned. One that the step was begun with before
        stays as it was met then: that is what the effect was meant for.
        """
        begun = self.recall.peek(step, target.name)
        if begun is not None and begun.worker is not None:
            target.planned = begun.worker
            return
        if target.planned.is_beat:
            found = (one for one in snapshot.services if one.ref == target.planned.service)
            service = next(found, None)
            target.planned = plan_beat(service, snapshot) if service else target.planned
            return
        worker = snapshot.worker(target.name)
        if worker is None:
            target.failed = "was not seen any more"
            return
        now = plan_worker(worker, snapshot)
        before = target.planned
        queues = before.queues if before.queues is not None else now.queues
        queues = None if queues is None else in_place_of(queues, now.queues or ())
        life = now.incarnation
        if life is None and now.identity is not None and now.identity == before.identity:
            life = before.incarnation  # a busy solo pool tells nothing; its supervisor knows it
        target.planned = replace(now, queues=queues, debtors=before.debtors, incarnation=life)
        in_the_way = obstacles(verb, target.planned, snapshot)
        if in_the_way:
            target.failed = "; ".join(in_the_way)
        elif not target.renewed and _was_restarted(before.incarnation, now.incarnation):
            self.say(target.name, "was restarted by somebody else since the plan was made")

    async def again(
        self, retries: Retries, attempt: int, step: str, target: str | None, says: str
    ) -> bool:
        """Whether a step that failed is tried once more, and the pause before that.

        One whose next attempt the journal tells of needs none. Raise Aborted.
        """
        times = self.value(retries.times)
        if attempt > times:
            return False
        if self.recall.peek(step, target) is None:
            pause = backoff(self.value(retries.pause), attempt)
            self.say(target, failed_attempt(attempt, times, says, pause), step)
            await self.brake.sleep(pause)
        return True

    async def ask(
        self, step: str, question: str, *, target: str | None = None, says: str = ""
    ) -> Message | None:
        """What whoever follows the run answers; None: nobody is there. Raise Aborted."""
        async with self.brake.asking:
            self.brake.forget_answer(step)
            self.brake.check(safe=True)
            outcome = Outcome(Result.UNKNOWN, says) if says else None
            self.journal.append(
                EventKind.ASKED, step=step, target=target, intent=question, outcome=outcome
            )
            message = await self.brake.answer(step)
            if message is not None:
                said = Outcome(Result.DONE, f"{message.answer} ({message.who})")
                self.journal.append(EventKind.ANSWERED, step=step, target=target, outcome=said)
            return message

    def say(self, target: str | None, says: str, step: str | None = None) -> None:
        """A line of progress in the journal."""
        outcome = Outcome(Result.UNKNOWN, says)
        self.journal.append(EventKind.PROGRESS, step=step, target=target, outcome=outcome)

    async def safe_point(self) -> None:
        """Between two things: a pause is kept here, an abort ends the run here.

        Raise PreconditionFailed where there is no room for more in the journal: what is left of it
        is for the undo.
        """
        self.brake.check(safe=True)
        if self.journal.is_cramped:
            raise PreconditionFailed(f"the disk is full: no room for {self.journal.path}")
        if not self.brake.paused:
            return
        self.journal.append(EventKind.PAUSED)
        while self.brake.paused:
            await self.brake.sleep(0.2)
        self.journal.append(EventKind.CONTINUED)


def in_place_of(
    queues: Sequence[ConsumedQueue], consumed: Sequence[ConsumedQueue]
) -> tuple[ConsumedQueue, ...]:
    """A worker's queues as it consumes them now: what goes through a run in place of its own."""
    now = {one.name: one for one in consumed}
    return tuple(now.get(through(one.name), one) if one.name not in now else one for one in queues)


def _was_restarted(before: Incarnation | None, now: Incarnation | None) -> bool:
    return before is not None and now is not None and not now.same_life_as(before)
