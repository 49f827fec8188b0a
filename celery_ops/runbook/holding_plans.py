"""What holding tasks and releasing them would do, and why it must not be done."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import did_you_mean
from celery_ops.config.units import counted
from celery_ops.errors import UsageError
from celery_ops.model import HELD, HOLD, parked
from celery_ops.model.holding import HOLDS, behind, held_of, through
from celery_ops.runbook import held_queues, queue_judges
from celery_ops.runbook.forwarding import MOST_A_SECOND
from celery_ops.runbook.hold_grammar import BACK, KEEP
from celery_ops.runbook.leaving_out import is_left_out
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.moves import rate_of
from celery_ops.runbook.plan import PlannedAction, PlannedMove, PlannedStep
from celery_ops.runbook.probes import listed
from celery_ops.runbook.scouting import Scouted
from celery_ops.runbook.task_steps import HoldStep, ReleaseStep, SieveStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from celery_ops.model import FleetSnapshot, StoredMessage, TakenRecord
    from celery_ops.ports import Broker
    from celery_ops.runbook.schema import Runbook, Value

NOT_HERE = (
    "tasks can be held on Redis only: on RabbitMQ a task that is tried again is sent to the queue"
    " that it was delivered from (celery.app.task.Task.signature_from_request), which would be the"
    " one that stands in for its own. celery-ops queue pause takes a whole queue, celery-ops task"
    " revoke the tasks that are there now"
)
NOTHING_HELD = "no task is held"
_GAP = (
    "a worker that starts meanwhile (a restart too) consumes its own queues until it is seen, for a"
    " few tenths of a second as a rule: what is sent in that moment may begin"
)


@dataclass(frozen=True, slots=True)
class Held:
    """What a hold step asks for: names of tasks, or patterns; in these queues, or in all."""

    tasks: tuple[str, ...]
    queues: tuple[str, ...] = ()

    @classmethod
    def of(cls, step: HoldStep, scope: Mapping[str, object]) -> Self:
        """Raise UsageError if no task is named."""
        tasks = _names(resolve(step.tasks, scope))
        if not tasks:
            raise UsageError("which tasks? Name them: celery-ops task hold NAME")
        return cls(tasks, _names(resolve(step.queues, scope)))

    @property
    def name(self) -> str:
        """All of them, for people."""
        return ", ".join(self.tasks)

    def is_held(self, message: StoredMessage) -> bool:
        """One that does not tell its task is not."""
        return message.task is not None and self.means(message.task)

    def means(self, task: str) -> bool:
        return any(task == one or fnmatchcase(task, one) for one in self.tasks)


@dataclass(frozen=True, slots=True)
class Released:
    """What a release step asks for; no `tasks`: whichever are held. `rate` is in messages a second;
    None: as fast as can be.
    """

    tasks: tuple[str, ...]
    keeps: bool
    rate: float | None

    @classmethod
    def of(cls, step: ReleaseStep, scope: Mapping[str, object]) -> Self:
        """Raise UsageError for a parameter that makes no sense."""
        parked_ones = resolve(step.parked, scope)
        if parked_ones not in {BACK, KEEP}:
            raise UsageError(f"parked is {BACK} or {KEEP}, not {parked_ones!r}")
        rate = rate_of(resolve(step.rate, scope))
        return cls(_names(resolve(step.tasks, scope)), parked_ones == KEEP, rate)


def concerned(wanted: Held, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """The queues that have to be looked after: those that are named, or all that somebody of ours
    consumes or is owed.
    """
    if wanted.queues:
        return wanted.queues
    names = {queue for worker in snapshot.workers if worker.mine for queue in worker.queues or ()}
    names |= {queue.name for record in snapshot.taken for queue in record.queues}
    return tuple(sorted(behind(name) or name for name in names))


def refusals(queues: Sequence[str], snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Why they cannot be held for certain."""
    owed = [one for one in snapshot.taken if one.kind in {HOLD, HELD}]
    if owed:
        return (
            f"{held_queues.in_words(owed[0])}: {owed[0].mend}, and hold all that are to be held"
            " at once then",
        )
    if not queues:
        return ("nobody of this context consumes anything: there is nowhere to hold them",)
    found = []
    for queue in queues:
        if behind(queue) is not None or parked(queue) is not None:
            found.append(f"{queue} is a queue of ours: name the one that it is of")
            continue
        seen = queue_judges.consumers(queue, snapshot)
        found += [f"{doubt}, so {queue} cannot be proved to be switched" for doubt in seen.doubts]
        for worker in seen.workers:
            if not worker.mine:
                where = "is outside of this context's scope"
                found.append(f"{worker.name} consumes {queue}, and {where}")
            elif not worker.answers:
                found.append(f"{worker.name} consumes {queue}, and is {worker.state}")
        if expires(queue, snapshot):
            others = ",".join(one for one in queues if one != queue)
            found.append(
                f"{queue} expires (x-expires): the broker would forget where its messages go while"
                f" nobody consumes it; hold in -p queues={others}"
            )
        for record in snapshot.pauses_of(queue)[:1]:
            found.append(f"{queue} is paused, by run {record.run}: {record.mend}")
    return tuple(dict.fromkeys(found))


def expires(queue: str, snapshot: FleetSnapshot) -> bool:
    """Whether it is forgotten, its binding too, when nobody has consumed it for a while."""
    declared = [
        json.loads(one.declaration)
        for worker in snapshot.workers
        for one in (() if worker.consuming is None else worker.consuming.value)
        if one.name == queue
    ]
    return any("x-expires" in (one.get("queue_arguments") or {}) or one.get("expires")
               for one in declared)  # fmt: skip


def in_workers(wanted: Held, snapshot: FleetSnapshot) -> str:
    """How many of these tasks workers have taken, in words; empty: none is seen."""
    running = waiting = 0
    for worker in snapshot.workers:
        if worker.active is not None:
            running += sum(wanted.means(task.name) for task in worker.active.value)
        for part in (worker.reserved, worker.scheduled):
            waiting += 0 if part is None else sum(wanted.means(one.name) for one in part.value)
    if not running + waiting:
        return ""
    return f"{counted(running + waiting, 'task')} ({running} running, {waiting} reserved)"


async def look(
    runbook: Runbook,
    params: Mapping[str, Value],
    snapshot: FleetSnapshot,
    broker: Broker,
) -> dict[str, Scouted]:
    """What its steps that hold or release would do, by their ids. Raise UsageError."""
    found = {}
    if any(isinstance(step, SieveStep) for step in runbook.steps):
        return {}  # its release step ends what this one began
    for step in runbook.steps:
        if isinstance(step, HoldStep | ReleaseStep) and not is_left_out(step, params):
            if broker.beside(HOLDS) is None:
                says = PlannedStep(
                    step.id, "hold tasks" if isinstance(step, HoldStep) else "release"
                )
                found[step.id] = Scouted(says, refusals=(NOT_HERE,))
            elif isinstance(step, HoldStep):
                found[step.id] = _hold(step, runbook, {"params": params}, snapshot)
            else:
                found[step.id] = await _release(step, {"params": params}, snapshot, broker)
    return found


# --- the steps ----------------------------------------------------------------------------------


def _hold(
    step: HoldStep, runbook: Runbook, scope: Mapping[str, object], snapshot: FleetSnapshot
) -> Scouted:
    wanted = Held.of(step, scope)
    queues = concerned(wanted, snapshot)
    refused = refusals(queues, snapshot)
    if runbook.steps[-1] is not step:
        refused = (*refused, f"step {step.id}: a hold goes on until it is released: nothing can"
                   " come after it")  # fmt: skip
    actions = [
        PlannedAction(
            step.id,
            queue,
            f"have {listed(one.name for one in snapshot.consumers_of(queue)) or 'nobody'} consume"
            f" {through(queue)} in its place; carry there what comes into {queue}, but park"
            f" {wanted.name}",
            "all of it is given back as it was",
        )
        for queue in queues
    ]
    says = f"hold {wanted.name} in {counted(len(queues), 'queue')} until it is released"
    planned = PlannedStep(step.id, says, actions=tuple(actions))
    return Scouted(planned, refusals=refused, hazards=tuple(_hazards(wanted, queues, snapshot)))


def _hazards(wanted: Held, queues: Sequence[str], snapshot: FleetSnapshot) -> list[str]:
    release = f"celery-ops task release {shlex.join(wanted.tasks)}"
    found = [
        f"all messages of {listed(queues)} pass through this run meanwhile, each some milliseconds"
        f" later; about {MOST_A_SECOND:,} a second, where this machine is busy",
        f"it goes on until {release}; if its process dies, the workers get nothing of these queues,"
        f" and nothing is lost, until celery-ops runs resume, or {release} from any machine",
        _GAP,
        "a message that does not tell its task (an old one that is pickled) is let through",
    ]
    before = in_workers(wanted, snapshot)
    if before:
        found.append(
            f"{before} of {wanted.name} are with workers already, and run: celery-ops task revoke"
            " --name keeps those that have not begun from it"
        )
    found += [
        f"{record.worker} is drained, and consumes its own queues for a moment once it is resumed"
        for record in snapshot.taken
        if record.kind == "queues"
    ]
    known = {task.name for worker in snapshot.workers if worker.registered is not None
             for task in worker.registered.value}  # fmt: skip
    for name in wanted.tasks:
        if known and not any(fnmatchcase(task, name) for task in known):
            found.append(f"no worker has a task {name}{did_you_mean(name, known)}: nothing is held"
                         " unless somebody sends it under that name")  # fmt: skip
    return found


async def _release(
    step: ReleaseStep, scope: Mapping[str, object], snapshot: FleetSnapshot, broker: Broker
) -> Scouted:
    wanted = Released.of(step, scope)
    owed = [one for one in snapshot.taken if one.kind in {HOLD, HELD}]
    if not owed:
        return Scouted(PlannedStep(step.id, "release"), refusals=(NOTHING_HELD,))
    tasks, run = owed[0].tasks, owed[0].run
    refused = []
    if wanted.tasks and set(wanted.tasks) != set(tasks):
        refused.append(
            f"held are {', '.join(tasks)}, and only all of them can be released: celery-ops task"
            f" release {shlex.join(tasks)}, and celery-ops task hold those that are to stay held"
        )
    queues = sorted({queue.name for record in owed for queue in record.queues})
    moves = []
    for queue in queues:
        place = held_of(queue, run)
        count = 0 if broker.store is None else await broker.store.count(place)
        moves.append(PlannedMove(step.id, place, count, to=queue))
    again = f"celery-ops task hold {shlex.join(tasks)}"
    actions = [
        PlannedAction(step.id, record.worker, _given_back(record, snapshot), again)
        for record in owed
        if record.kind == HELD
    ]
    rate = "" if wanted.rate is None else f", at most {wanted.rate:g} a second"
    for move in moves:
        does = f"move {counted(move.messages, 'message')} to {move.to}, to be served first{rate}"
        if wanted.keeps:
            does = f"{counted(move.messages, 'message')} stay there, where nobody consumes"
        if move.messages:
            actions.append(PlannedAction(step.id, move.queue, does, again))
    held = sum(move.messages for move in moves)
    hazards = [] if wanted.keeps or not held else [
        f"{counted(held, 'message')} that were held run as soon as a worker is free{rate}"
    ]  # fmt: skip
    if held and owed[0].unknown_to and not wanted.keeps:
        hazards.append(
            f"workers of {owed[0].unknown_to} discard them: -p parked=keep leaves them parked until"
            " celery-ops queue unpark"
        )
    says = f"release {', '.join(tasks)}, held by run {run}"
    planned = PlannedStep(step.id, says, actions=tuple(actions))
    return Scouted(planned, tuple(moves), tuple(refused), tuple(hazards))


def _given_back(record: TakenRecord, snapshot: FleetSnapshot) -> str:
    over = queue_judges.is_over(record, snapshot)
    if over:
        return f"nothing to give back: it {over}"
    queue = record.queue or ""
    return f"add_consumer {queue}, as it had declared it; cancel_consumer {through(queue)}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip()))
