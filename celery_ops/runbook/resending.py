"""Which tasks a retry step is meant for, which of them it must not send again, and why. Pure.

A task is sent again under its own id, as what its result backend kept of it: its name, arguments
and queue. That is kept only where Celery's `result_extended` is on; what is told of arguments in
messages and events is shortened, and never used.

Its result says FAILURE until it ends again: so the result does not tell whether it was sent again.
The broker does: it notes the task's id and the moment of the end that it is sent again after, in
the same step in which it takes the message. After its next end it can be sent again once more.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import UsageError
from celery_ops.model import TaskState
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.facts import ResultFacts
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.moves import as_it_is, limit_of, rate_of
from celery_ops.runbook.names import names_of_results
from celery_ops.runbook.plan import PlannedAction, PlannedStep, PlannedTask
from celery_ops.runbook.probes import listed
from celery_ops.runbook.revocation import marking, told
from celery_ops.runbook.task_choice import TaskChoice
from celery_ops.runbook.task_steps import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from celery_ops.fleet.endings import Endings
    from celery_ops.model import FleetSnapshot, StoredResult
    from celery_ops.runbook.plan import Where
    from celery_ops.runbook.schema import Param
    from celery_ops.runbook.task_steps import RetryStep

MOST = 10_000
"""Tasks that one step sends again."""
_FAILED = frozenset({TaskState.FAILURE.value, TaskState.REVOKED.value})
_ENDED = _FAILED | {TaskState.SUCCESS.value}
_EXTENDED = (
    "what they were called with is kept of those that end after result_extended=True is set in"
    " their application"
)
_UNKNOWN = "nothing is stored of it: never sent, not ended, or expired"
IRREVERSIBLE = (
    "a task that was sent again runs again; until then celery-ops task revoke keeps it from that"
)
ALONE = (
    "each is sent alone, with no retries behind it: what followed it (chain, chord, callbacks), its"
    " priority, expiry, time limits and headers of its own are not kept with a result"
)
_NEWEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a retry step asks for. `to` is empty for the queue that each was in; `rate` is a second.

    `also_done`: those that have succeeded, too.
    """

    chosen: TaskChoice
    also_done: bool
    to: str
    limit: int | None
    rate: float | None
    again: str
    scope: Mapping[str, object]

    @classmethod
    def of(cls, step: RetryStep, scope: Mapping[str, object], params: Sequence[Param]) -> Self:
        """Raise UsageError for what makes no sense."""
        ended = resolve(step.ended, scope)
        if ended not in ENDED:
            raise UsageError(f"ended is one of {', '.join(ENDED)}, not {ended!r}")
        return cls(
            chosen=TaskChoice.of(step, scope, names_of_results(params)),
            also_done=ended != ENDED[0],
            to=resolve(step.to, scope).strip(),
            limit=limit_of(resolve(step.limit, scope)),
            rate=rate_of(resolve(step.rate, scope)),
            again=resolve(step.again, scope).strip(),
            scope=scope,
        )

    @property
    def states(self) -> frozenset[str]:
        """Those in which a task can be sent again."""
        return _ENDED if self.also_done else _FAILED

    def judge(self, id_: str, stored: StoredResult, now: datetime) -> bool | None:
        """Whether a task is meant; None: that rests on what is not stored of it."""
        chosen = self.chosen
        if chosen.ids:
            return id_ in chosen.ids
        if stored.unreadable:
            return None
        if stored.state not in self.states:
            return False
        if chosen.task and stored.task is None:
            return None
        if not chosen.fits(stored.task or ""):
            return False
        if chosen.filter is None:
            return True
        truth = chosen.filter.evaluate({**_facts(id_, stored, now), **self.scope}).truth
        return None if truth is Truth.UNKNOWN else truth is Truth.HOLDS

    def name(self, id_: str, ended: str) -> str:
        """Under which it is sent once after that end; once more for each `again`."""
        return f"retry {json.dumps([id_, ended, self.again])}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a step would send again, the first to end first; what is `left_out`, by the reason, and
    how many are `beyond` the limit.
    """

    tasks: tuple[PlannedTask, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beyond: int = 0


def choose(step: RetryStep, wanted: Wanted, found: Endings, snapshot: FleetSnapshot) -> Choice:
    """Of all that are meant, those that can be sent again."""
    places: dict[str, list[str]] = {}
    for one in found.seen.tasks:
        where = f"{one.place} in {one.worker or one.queue or 'an unknown queue'}"
        places.setdefault(one.id, []).append(where)
    queues = _Queues(snapshot)
    going: list[tuple[datetime, PlannedTask]] = []
    left_out: dict[str, list[str]] = {}
    for id_ in sorted(wanted.chosen.ids - found.results.keys()):
        left_out.setdefault(_UNKNOWN, []).append(id_)
    for id_, stored in sorted(found.results.items()):
        queue = wanted.to or queues.of(stored.queue)
        why = (
            _not_ended(wanted, stored)
            or _in_the_way(wanted, id_, stored, places, found)
            or _nowhere(stored, queue)
        )
        if why:
            left_out.setdefault(why, []).append(id_)
        else:
            task = PlannedTask(step.id, id_, stored.task, queue=queue or "", ended=stored.ended)
            going.append((stored.ended_at or _NEWEST, task))
    going.sort(key=lambda one: one[0])
    tasks = [task for _, task in going]
    beyond = found.beyond + len(tasks[wanted.limit :] if wanted.limit else ())
    return Choice(
        tuple(tasks[: wanted.limit]), {why: tuple(ids) for why, ids in left_out.items()}, beyond
    )


def unread(where: Where) -> str:
    """Why no results can be read here."""
    if where.unread_results:
        return f"a result backend of {where.unread_results} cannot be read here: only Redis can"
    return (
        "no result backend is configured here, and only that keeps what tasks were called with:"
        " results: redis://… in celery-ops.yaml"
    )


def obstacles(choice: Choice, found: Endings) -> list[str]:
    """What makes it impossible."""
    if found.unread:
        return [found.unread]
    if len(choice.tasks) > MOST or len(found.results) > MOST:
        return [f"more than {MOST:,} tasks are meant: choose fewer by name or filter"]
    if choice.tasks:
        return []
    says = [*_left_out(choice), *_undecided(found), *found.notes]
    return [f"there is nothing to send again: {'; '.join(says) or 'no such task has failed'}"]


def hazards(wanted: Wanted, choice: Choice, found: Endings, snapshot: FleetSnapshot) -> list[str]:
    """What must be known before agreeing."""
    if not choice.tasks:
        return []
    says = [f"not sent again: {why}" for why in (*_left_out(choice), *_undecided(found))]
    says += [f"not all could be looked at: {note}" for note in found.notes]
    says += [*marking(found.seen), ALONE]
    stored = [found.results[one.id] for one in choice.tasks]
    grouped = sum(one.group is not None for one in stored)
    if grouped:
        says.append(
            f"{counted(grouped, 'task')} of these belonged to a group or a chord: what was to come"
            " after all of it does not come because of this"
        )
    done = sum(one.state == TaskState.SUCCESS for one in stored)
    if done:
        says.append(
            f"{counted(done, 'task')} of these has succeeded already and is done a second time;"
            " its stored result stays as it is: Celery does not overwrite a success"
            if done == 1
            else f"{done} tasks of these have succeeded already and are done a second time; their"
            " stored results stay as they are: Celery does not overwrite a success"
        )
    if choice.beyond:
        says.append(f"{counted(choice.beyond, 'task')} more than the limit wait for another run")
    for name in dict.fromkeys(one.queue for one in choice.tasks):
        if not snapshot.consumers_of(name):
            says.append(
                f"nobody is seen to consume {name}: messages wait there until somebody does"
            )
    if wanted.again:
        says.append("those that were sent again before, and have not ended since, may run twice")
    return says


def planned(step: RetryStep, choice: Choice, snapshot: FleetSnapshot) -> PlannedStep:
    """What is done, queue by queue."""
    actions = [
        PlannedAction(step.id, queue, f"send {told(tasks)}, behind those that wait there"
                      f" ({as_it_is(queue, snapshot)})", None)
        for queue, tasks in by_queue(choice.tasks).items()
    ]  # fmt: skip
    says = f"send {counted(len(choice.tasks), 'task')} again"
    proof = (
        "the broker notes id and last end of each in the step in which it takes the message: none"
        " goes twice"
    )
    return PlannedStep(step.id, says, actions=tuple(actions), evidence=(proof,))


def by_queue(tasks: Sequence[PlannedTask]) -> dict[str, list[PlannedTask]]:
    """In the order of the tasks."""
    found: dict[str, list[PlannedTask]] = {}
    for one in tasks:
        found.setdefault(one.queue, []).append(one)
    return found


def _not_ended(wanted: Wanted, stored: StoredResult) -> str:
    if stored.unreadable:
        return f"its result is not read: {stored.unreadable}"
    if stored.state not in _ENDED:
        return f"its result says {stored.state}: it has not ended"
    if stored.state not in wanted.states:
        return "it has succeeded: -p ended=any sends it again all the same"
    if stored.uncalled:
        return f"{stored.uncalled}: {_EXTENDED}"
    if not stored.ended:
        return "when it ended is not stored, so it could not be told whether it was sent again"
    return ""


def _in_the_way(
    wanted: Wanted,
    id_: str,
    stored: StoredResult,
    places: Mapping[str, Sequence[str]],
    found: Endings,
) -> str:
    if id_ in places:
        return f"it is there still ({' and '.join(places[id_])}): it would run twice"
    knowing = sorted(name for name, ids in found.revoked.items() if id_ in ids)
    if knowing:
        return (
            f"it is revoked in {listed(knowing)} (as is what expires there), and discarded there:"
            " a worker forgets that after three hours, or with its restart"
        )
    if wanted.name(id_, stored.ended) in found.sent:
        return (
            "it was sent again before, and no end is stored since: it is on its way, or its results"
            " are not kept; if it is known to be lost, -p again=NAME sends it once more"
        )
    return ""


def _nowhere(stored: StoredResult, queue: str | None) -> str:
    if queue is not None:
        return ""
    told = "" if stored.queue is None else f" (its routing key was {stored.queue})"
    return f"which queue it was in is not known{told}: -p to=QUEUE says where it goes"


def _left_out(choice: Choice) -> Iterator[str]:
    for why, ids in choice.left_out.items():
        yield f"{listed(ids)}: {why}"


def _undecided(found: Endings) -> Iterator[str]:
    if found.undecided:
        yield (
            f"of {counted(found.undecided, 'stored result')} it is not known whether that is meant:"
            f" what is asked for is not stored; {_EXTENDED}"
        )


def _facts(id_: str, stored: StoredResult, now: datetime) -> dict[str, object]:
    ended = stored.ended_at
    facts = ResultFacts(
        id=id_,
        task=stored.task,
        state=stored.state,
        exception=stored.exception,
        retries=stored.retries,
        queue=stored.queue,
        worker=stored.worker,
        age=None if ended is None else max(0.0, (now - ended).total_seconds()),
    )
    return asdict(facts)


class _Queues:
    """Which queue a routing key led to, by what workers consume."""

    def __init__(self, snapshot: FleetSnapshot) -> None:
        self._names = {queue.name for queue in snapshot.queues}
        self._bound: dict[str, Counter[str]] = {}
        for worker in snapshot.workers:
            for queue in () if worker.consuming is None else worker.consuming.value:
                self._names.add(queue.name)
                key = json.loads(queue.declaration).get("routing_key")
                if isinstance(key, str):
                    self._bound.setdefault(key, Counter())[queue.name] += 1

    def of(self, key: str | None) -> str | None:
        """None where it is not known, or could be several."""
        if key is None:
            return None
        bound = self._bound.get(key, Counter())
        if key in self._names and (not bound or key in bound):
            return key
        return next(iter(bound)) if len(bound) == 1 else None
