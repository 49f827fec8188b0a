"""Which messages a restore step is meant for, and why they may go back. Pure.

The plan chooses with it, and the run again right before the effect: what is not proved any more
stays where it is.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration, counted
from celery_ops.model import WorkerState
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.plan import PlannedAction, PlannedStep
from celery_ops.runbook.schema import RestoreStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from celery_ops.model import FleetSnapshot, HeldMessage, Unproven
    from celery_ops.runbook.schema import Step

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a restore step asks for: globs of queues and of nodes that somebody vouches for, and the
    least age in seconds.
    """

    queues: tuple[str, ...]
    older_than: float
    vouched: tuple[str, ...]

    @classmethod
    def of(cls, step: RestoreStep, scope: Mapping[str, object]) -> Self:
        return cls(
            _words(resolve(step.queue, scope)),
            resolve(step.older_than, scope),
            _words(resolve(step.vouched, scope)),
        )

    def includes(self, message: HeldMessage, snapshot: FleetSnapshot) -> bool:
        """Whether a message is of these queues and old enough."""
        age = (snapshot.at - message.since).total_seconds()
        return age >= self.older_than and _is_among(message.queue or "", self.queues)

    def accepts(self, doubt: Unproven) -> bool:
        """Whether all that is missing in a proof is what somebody vouches for."""
        return (
            bool(doubt.vouch_for)
            and not doubt.settles
            and all(_is_among(name, self.vouched) for name in doubt.vouch_for)
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Messages that may go back, and those that may not, with the reasons in words.

    `known` is False where it cannot be told at all what is held.
    """

    messages: tuple[HeldMessage, ...]
    doubts: tuple[Unproven, ...]
    known: bool = True

    @property
    def refusals(self) -> list[str]:
        """Why nothing at all may go back; empty if something may."""
        if self.messages:
            return []
        if not self.known:
            return ["what workers hold cannot be told now: see the notes of celery-ops status"]
        return self.left or [
            "there is nothing to do: no held message is proved to be a dead worker's"
        ]

    @property
    def left(self) -> list[str]:
        """What stays where it is, and why."""
        return [
            f"it is not proved that nobody holds {counted(len(one.messages), 'message')} of "
            f"{one.queue or 'an unknown queue'}: {one.why}{_way_out(one)}"
            for one in self.doubts
        ]


def choose(wanted: Wanted, snapshot: FleetSnapshot) -> Choice:
    """What may go back, as far as this snapshot proves it; the oldest delivery first."""
    chosen = [one for one in snapshot.orphans or () if wanted.includes(one, snapshot)]
    doubts: list[Unproven] = []
    for doubt in snapshot.unproven:
        concerned = tuple(one for one in doubt.messages if wanted.includes(one, snapshot))
        if concerned and wanted.accepts(doubt):
            chosen += concerned
        elif concerned:
            doubts.append(_of(doubt, concerned))
    chosen.sort(key=lambda one: (one.since, one.tag))
    return Choice(tuple(chosen), tuple(doubts), known=snapshot.orphans is not None)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What all restore steps of a runbook are meant for; where that is nothing, why."""

    messages: tuple[HeldMessage, ...]
    hazards: tuple[str, ...]
    refusals: tuple[str, ...]


def choose_all(
    steps: Iterable[Step], snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> Chosen:
    """Of each restore step among them."""
    messages: dict[HeldMessage, None] = {}
    hazards: list[str] = []
    refusals: list[str] = []
    for step in steps:
        if isinstance(step, RestoreStep):
            choice = choose(Wanted.of(step, scope), snapshot)
            messages |= dict.fromkeys(choice.messages)
            refusals += choice.refusals
            if choice.messages:
                hazards += [f"left where they are: {says}" for says in choice.left]
    return Chosen(tuple(messages), tuple(hazards), () if messages else tuple(refusals))


def by_queue(messages: Iterable[HeldMessage]) -> dict[str, list[HeldMessage]]:
    """Messages by their queues, in the order of the queues' names."""
    found: dict[str, list[HeldMessage]] = {}
    for message in messages:
        found.setdefault(message.queue or "", []).append(message)
    return dict(sorted(found.items()))


def told(messages: Sequence[HeldMessage], snapshot: FleetSnapshot) -> str:
    """Messages of one queue in a line: how many of which tasks, since when, and some ids."""
    names = Counter(message.task or "no name" for message in messages).most_common(_SHOWN)
    tasks = ", ".join(f"{count} {name}" for name, count in names)
    ages = [(snapshot.at - message.since).total_seconds() for message in messages]
    ids = ", ".join(message.task_id or "no id" for message in messages[:_SHOWN])
    more = f" and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return (
        f"give back {counted(len(messages), 'message')} ({tasks}), the oldest held "
        f"for {as_duration(round(max(ages)))}: {ids}{more}"
    )


def evidence(wanted: Wanted, snapshot: FleetSnapshot) -> tuple[str, ...]:
    """Who proved that nobody holds them."""
    alive = [worker for worker in snapshot.workers if worker.answers and worker.mine]
    told_by = [worker.name for worker in alive]
    dead = [worker for worker in snapshot.workers if worker.state is WorkerState.STOPPED]
    found = []
    if told_by:
        found.append(f"not among what these hold, as they said twice: {_listed(told_by)}")
    if alive and all(worker.service is not None for worker in alive):
        found.append("each of these is the process that its supervisor runs: none stops unseen")
    found += [f"{worker.name} is stopped: {worker.says}" for worker in dead]
    if wanted.vouched:
        found.append(f"you vouch for {', '.join(wanted.vouched)}; no supervisor proves it")
    return tuple(found)


def reruns(messages: Sequence[HeldMessage], snapshot: FleetSnapshot) -> list[str]:
    """A warning, if some may have been begun by who died: only what is acknowledged late was."""
    late = {
        task.name
        for worker in snapshot.workers
        for task in (worker.registered.value if worker.registered is not None else ())
        if task.acks_late is not False
    }
    names = sorted({message.task for message in messages if message.task in late and message.task})
    if not names:
        return []
    return [
        f"{_listed(names)}: acknowledged late, so what a dead worker had begun, or even ended, is "
        "among these and runs again from its beginning"
    ]


def planned(
    step: RestoreStep, snapshot: FleetSnapshot, scope: Mapping[str, object]
) -> tuple[tuple[HeldMessage, ...], PlannedStep]:
    """The messages that the step would give back, and how it says so."""
    wanted = Wanted.of(step, scope)
    messages = choose(wanted, snapshot).messages
    says = f"restore {counted(len(messages), 'orphan')}, each proved again right before"
    done = tuple(
        PlannedAction(step.id, queue, told(some, snapshot), None)
        for queue, some in by_queue(messages).items()
    )
    proof = evidence(wanted, snapshot) if messages else ()
    return messages, PlannedStep(step.id, says, actions=done, evidence=proof)


def _of(doubt: Unproven, messages: tuple[HeldMessage, ...]) -> Unproven:
    return type(doubt)(
        doubt.queue, messages, doubt.why, doubt.vouch_for, doubt.settles, doubt.expected
    )


def _way_out(doubt: Unproven) -> str:
    if not doubt.vouch_for:
        return ""
    names = shlex.quote(",".join(doubt.vouch_for))
    return f"; if you know that nobody does: -p vouched={names}"


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^,\s]+", text))


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 8
    return ", ".join(names[:8]) + (f" and {more} more" if more > 0 else "")
