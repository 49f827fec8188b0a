"""Which tasks a revoke step is meant for, what is in the way of it, and what it does not do. Pure.

A revoke is a note that each worker keeps of an id: a worker that is about to begin that task
discards it instead. So it must be in every worker that may get the message, later too. It is kept
in memory, for three hours at most and together with at most 50,000 others
(`celery.worker.state.REVOKE_EXPIRES`, `REVOKES_MAX`), or in a file (`--statedb`); a worker that
starts copies it from the others (`celery.worker.consumer.mingle`). Nothing takes it back.

A pool of threads or greenlets is handed all that its worker has reserved at once, so what is
reserved there runs although it is revoked (measured on Celery 5.7); a prefork pool is handed a task
when a process is free.

To terminate is to revoke, and to signal the process that runs the task. Its message is acknowledged
at once, whatever `acks_late` and `reject_on_worker_lost` say
(`celery.worker.request.Request.terminate`, `_announce_revoked`): it does not run again.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.document import Place
from celery_ops.config.units import as_duration, counted
from celery_ops.errors import UsageError
from celery_ops.model import TaskPlace, WorkerState
from celery_ops.runbook.expressions import InvalidExpression, Truth, condition
from celery_ops.runbook.facts import MessageFacts
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.names import names_of_messages
from celery_ops.runbook.plan import PlannedAction, PlannedStep, PlannedTask
from celery_ops.runbook.probes import listed
from celery_ops.runbook.schema import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Self

    from celery_ops.fleet.tracing import Sightings
    from celery_ops.model import FleetSnapshot, SeenTask, Worker
    from celery_ops.runbook.expressions import Condition
    from celery_ops.runbook.schema import Param
    from celery_ops.runbook.task_steps import RevokeStep

MOST = 10_000
"""Tasks that one step revokes: each worker keeps 50,000, and forgets the oldest of more."""
FORGOTTEN_AFTER = timedelta(hours=3)
IRREVERSIBLE = (
    "a revoke cannot be taken back: Celery has no command for it; a task that is revoked by mistake"
    " must be sent again"
)
_SIGNALLED = "prefork"
"""The one pool whose tasks run in processes of their own."""
_ENDED = frozenset({"SUCCESS", "FAILURE"})
"""REVOKED is not among them: newer workers store it of a task that still waits."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a revoke step asks for: ids, or a name (a glob) and a condition that must hold."""

    ids: frozenset[str]
    task: str
    filter: Condition | None
    scope: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, step: RevokeStep, scope: Mapping[str, object], params: Sequence[Param]) -> Self:
        """Raise UsageError for what makes no sense."""
        ids = frozenset(re.findall(r"[^,\s]+", resolve(step.ids, scope)))
        task = resolve(step.task, scope).strip()
        written = resolve(step.filter, scope).strip()
        signal = resolve(step.signal, scope)
        if signal not in SIGNALS:
            raise UsageError(f"signal is one of {', '.join(SIGNALS)}, not {signal!r}")
        if ids and (task or written):
            raise UsageError("name the tasks by their ids, or by name and filter: not both")
        if not (ids or task or written):
            raise UsageError("which tasks? Name their ids, or a task's name, or a filter")
        return cls(ids, task, _filter(written, params) if written else None, scope)

    def judge(self, seen: SeenTask) -> Truth:
        """Whether a task is meant. Unknown where the condition rests on what is not known of it."""
        if self.ids:
            return Truth.HOLDS if seen.id in self.ids else Truth.FAILS
        if self.task and not (
            seen.task is not None and (seen.task == self.task or fnmatchcase(seen.task, self.task))
        ):
            return Truth.FAILS
        if self.filter is None:
            return Truth.HOLDS
        return self.filter.evaluate({**_facts(seen), **self.scope}).truth


@dataclass(frozen=True, slots=True)
class Choice:
    """What a step would revoke; `left_out` and `undecided` are told, not revoked."""

    tasks: tuple[PlannedTask, ...]
    seen: tuple[SeenTask, ...]
    left_out: tuple[str, ...] = ()
    undecided: int = 0

    @property
    def refusals(self) -> list[str]:
        """Why nothing is revoked; empty where something is."""
        if len(self.tasks) > MOST:
            return [
                f"more than {MOST:,} tasks are meant, and a worker keeps only 50,000 revokes: move"
                " or purge them in their queue, which is for good"
            ]
        if self.tasks:
            return []
        says = [*self.left_out, *self._undecided()]
        return [f"there is nothing to revoke: {'; '.join(says) or 'no such task is seen'}"]

    @property
    def hazards(self) -> list[str]:
        return [f"not revoked: {says}" for says in (*self.left_out, *self._undecided())]

    def _undecided(self) -> list[str]:
        if not self.undecided:
            return []
        tasks = counted(self.undecided, "task")
        return [f"of {tasks} it is not known whether the filter holds: retries, origin, priority"
                " and age are told only of messages that wait"]  # fmt: skip


def choose(step: RevokeStep, wanted: Wanted, looked: Sightings) -> Choice:
    """What is meant, of what was seen; ids are meant wherever they are, unless they have ended."""
    verdicts = [(one, wanted.judge(one)) for one in looked.tasks]
    seen = tuple(one for one, truth in verdicts if truth is Truth.HOLDS)
    held = {one.id for one in seen}
    by_id: dict[str, list[SeenTask]] = {}
    for one in seen:
        by_id.setdefault(one.id, []).append(one)
    ended = {}
    for id_, reading in looked.results.items():
        if id_ in wanted.ids and id_ not in held and reading.value.state in _ENDED:
            ended[id_] = f"{id_} has ended ({reading.value.state}, says the result backend)"
    ids = [id_ for id_ in (sorted(wanted.ids) or by_id) if id_ not in ended]
    unknown = {one.id for one, truth in verdicts if truth is Truth.UNKNOWN} - held
    tasks = tuple(_planned_task(step.id, id_, by_id.get(id_, ())) for id_ in ids)
    return Choice(tasks, seen, tuple(ended.values()), len(unknown))


def addressed(snapshot: FleetSnapshot) -> tuple[Worker, ...]:
    """Every worker that can be told: whoever may get a message must know of the revoke."""
    return tuple(worker for worker in snapshot.workers if worker.mine and worker.answers)


def unreached(snapshot: FleetSnapshot) -> list[str]:
    """Who is not told, and what that means."""
    found = []
    for worker in snapshot.workers:
        if not worker.mine:
            found.append(f"{worker.name} is outside of the scope: not revoked there")
        elif worker.state is WorkerState.STOPPING:
            found.append(f"{worker.name} is stopping: not revoked there; what it runs, it runs on")
        elif worker.state is WorkerState.STOPPED:
            found.append(
                f"{worker.name} is stopped: not revoked there; when it starts it copies what is"
                " revoked from others that run then, unless it runs --without-mingle"
            )
        elif not worker.answers:
            found.append(
                f"{worker.name} is {worker.state}: not revoked there; it may begin these tasks"
            )
    found += [f"{name} is bound on the broker and does not answer: not revoked there"
              for name in snapshot.bound_but_silent]  # fmt: skip
    return found


def hazards(
    step: RevokeStep, choice: Choice, looked: Sightings, snapshot: FleetSnapshot
) -> list[str]:
    """What must be known before agreeing."""
    found = [*choice.hazards, *unreached(snapshot), *_forgetting(choice.seen, snapshot.at)]
    found += _lasting([worker.name for worker in addressed(snapshot)], looked.keeps_revokes)
    found += [f"not all could be looked at: {note}" for note in looked.notes]
    unseen = [one.id for one in choice.tasks if not one.seen]
    if unseen:
        says = "is not seen anywhere" if len(unseen) == 1 else "are not seen anywhere"
        found.append(f"{listed(unseen)} {says}: ended, never sent, or where nobody can look;"
                     " revoked all the same")  # fmt: skip
    handed = [one for one in choice.seen if runs_all_the_same(one, snapshot)]
    if handed:
        where = listed(f"{one.id} in {one.worker}" for one in handed)
        found.append("will run all the same, reserved by a worker whose pool is not prefork and so"
                     f" handed to that already: {where}")  # fmt: skip
    running = [one for one in choice.seen if one.place is TaskPlace.ACTIVE]
    if running and not step.terminates:
        where = listed(f"{one.id} in {one.worker}" for one in running)
        found.append(f"run now, and run on to the end: {where};"
                     " celery-ops task terminate ends them")  # fmt: skip
    if step.terminates:
        found += _terminating(running)
    return found


def obstacles(step: RevokeStep, choice: Choice, snapshot: FleetSnapshot) -> list[str]:
    """What makes it impossible."""
    found = list(choice.refusals)
    if not addressed(snapshot):
        found.append("there is no worker that answers, so nobody can be told")
    if step.terminates:
        found += [
            f"{one.id} runs in {one.worker}: {why}"
            for one in choice.seen
            if one.place is TaskPlace.ACTIVE
            and (why := cannot_terminate(snapshot.worker(one.worker or ""))) is not None
        ]
    return found


def runs_all_the_same(seen: SeenTask, snapshot: FleetSnapshot) -> bool:
    """Whether a task was handed to its worker's pool already, though it has not begun."""
    worker = snapshot.worker(seen.worker or "")
    stats = None if worker is None else worker.stats
    pool = None if stats is None else stats.value.pool
    return seen.place is TaskPlace.RESERVED and pool != _SIGNALLED


def cannot_terminate(worker: Worker | None) -> str | None:
    """Why what a worker runs cannot be ended; None: it can."""
    if worker is None or not worker.answers:
        return "it does not answer, so it cannot be told to end it"
    pool = worker.stats.value.pool if worker.stats is not None else None
    if pool is None:
        return "its pool is not known, and only prefork pools can end a running task"
    if pool == _SIGNALLED:
        return None
    return (
        f"its pool is {pool}, which has no process a task that a signal could end: revoke it, or"
        " restart the worker"
    )


def planned(
    step: RevokeStep, choice: Choice, names: Sequence[str], scope: Mapping[str, object]
) -> PlannedStep:
    """What is done, and how it is proved."""
    verb = "terminate" if step.terminates else "revoke"
    says = f"{verb} {counted(len(choice.tasks), 'task')} in {counted(len(names), 'worker')}"
    actions = [
        PlannedAction(step.id, where, told(tasks), None)
        for where, tasks in _by_place(choice.tasks).items()
    ]
    if step.terminates:
        signal = resolve(step.signal, scope)
        running = Counter(name for one in choice.tasks for name in one.runs_in)
        actions += [
            PlannedAction(step.id, name, f"SIG{signal} to each process that then still runs one of"
                          f" these: {count} now", None)
            for name, count in running.items()
        ]  # fmt: skip
    proof = f"each of these must say itself that they are revoked in it: {', '.join(names)}"
    return PlannedStep(
        step.id, says, tuple(names), actions=tuple(actions), evidence=(proof,) if names else ()
    )


def told(tasks: Sequence[PlannedTask]) -> str:
    """Tasks in a line: how many of which names, and some ids."""
    names = Counter(one.task or "of unknown name" for one in tasks).most_common(_SHOWN)
    kinds = ", ".join(f"{count} {name}" for name, count in names)
    return f"{counted(len(tasks), 'task')} ({kinds}): {listed(one.id for one in tasks)}"


def _planned_task(step: str, id_: str, seen: Sequence[SeenTask]) -> PlannedTask:
    name = next((one.task for one in seen if one.task is not None), None)
    runs_in = [one.worker for one in seen if one.place is TaskPlace.ACTIVE and one.worker]
    return PlannedTask(step, id_, name, tuple(runs_in), tuple(_where(one) for one in seen))


def _where(seen: SeenTask) -> str:
    return f"{seen.place} in {seen.worker or seen.queue or 'an unknown queue'}"


def _by_place(tasks: Iterable[PlannedTask]) -> dict[str, list[PlannedTask]]:
    found: dict[str, list[PlannedTask]] = {}
    for task in tasks:
        found.setdefault(" and ".join(task.seen) or "not seen anywhere", []).append(task)
    return dict(sorted(found.items()))


def _forgetting(seen: Iterable[SeenTask], now: datetime) -> list[str]:
    """Workers forget a revoke; a task that is due after that runs."""
    late = [one.id for one in seen if one.eta is not None and one.eta > now + FORGOTTEN_AFTER]
    if not late:
        return []
    return [
        f"{counted(len(late), 'task')} due in more than {as_duration(FORGOTTEN_AFTER.seconds)} may"
        f" run all the same: a worker forgets a revoke after that time: {listed(late)}"
    ]


def _lasting(names: Sequence[str], keeps: Mapping[str, bool]) -> list[str]:
    """How a revoke is lost with the workers that know of it."""
    if not names or all(keeps.get(name) for name in names):
        return []
    forgetful = [name for name in names if keeps.get(name) is False]
    unknown = [name for name in names if name not in keeps]
    says = []
    if forgetful:
        says.append(f"{listed(forgetful)} keeps revokes in memory only" if len(forgetful) == 1
                    else f"{listed(forgetful)} keep revokes in memory only")  # fmt: skip
    if unknown:
        says.append(f"of {listed(unknown)} it is not known whether a file (--statedb) keeps them")
    lost = (
        "its restart loses them"
        if len(names) == 1
        else "one that restarts copies them from the others (not --without-mingle), and if all"
        " restart at once they are lost"
    )
    return [f"{'; '.join(says)}: {lost}, and tasks that still wait then run"]


def _terminating(running: Collection[SeenTask]) -> list[str]:
    """What ending a process means."""
    if not running:
        return []
    return [
        "the running tasks are cut off wherever they are, and their messages acknowledged, late or"
        " not: they do not run again",
        "the signal goes to the process: one that ends its task at that moment and begins another"
        " one loses that other task",
    ]


def _filter(written: str, params: Sequence[Param]) -> Condition:
    try:
        return condition(written, Place("filter", 1, 1), names_of_messages(tuple(params)))
    except InvalidExpression as error:
        says = "; ".join(f"at {fault.offset + 1}: {fault.says}" for fault in error.faults)
        raise UsageError(f"the filter {written!r} cannot be used: {says}") from error


def _facts(seen: SeenTask) -> dict[str, object]:
    """What a filter can name of it."""
    age = None if seen.sent_at is None else max(0.0, (seen.at - seen.sent_at).total_seconds())
    facts = MessageFacts(
        id=seen.id,
        task=seen.task,
        retries=seen.retries,
        eta=seen.eta,
        age=age,
        origin=seen.origin,
        priority=seen.priority,
        redelivered=seen.redelivered,
    )
    return asdict(facts)
