"""What of a run can be taken back, beyond what it owes: effects of the batch that did not come
through, and of steps outside of rolls. Pure.

What a run has taken and owes back is not listed here: the broker's records tell that, and it is
given back first. Batches that were verified stay as they are.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.model import WorkerState
from celery_ops.runbook.events import Result
from celery_ops.runbook.loader import resolve
from celery_ops.runbook.params import parse_params
from celery_ops.runbook.recall import ACTIVATE, UNDO, VERIFY
from celery_ops.runbook.schema import CurrentWorker, Roll, RunStep, WorkerVerb

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.runbook.plan import Plan, PlannedWorker
    from celery_ops.runbook.recall import Act, Recall
    from celery_ops.runbook.schema import Runbook, Text


_GIVEN_BACK = frozenset({"park", "move", "return", "unwrap"})
"""Acts with messages that are taken back; a purge begins with the first of them."""
_NOT_GIVEN_BACK = {
    "put": "what was put back waits to be run, and another restore of the same backup goes on with"
    " the rest",
    "retry": "what was sent again waits to be run, and is kept from that by celery-ops task revoke",
    "forget": "it is stopped, and started by its supervisor's own command",
    "unpark": "they are where they came from, and the rest is still parked",
}


@dataclass(frozen=True, slots=True)
class Reversal:
    """One act that is reversed: `argv` is run on its step's `host` and with its `env`, its pool
    gets so many `processes` again, its `messages` go back, its `release` becomes the current one of
    `host` again (and its worker is restarted on it), or its worker is stopped again.
    """

    step: str
    target: str
    argv: tuple[str, ...] = ()
    host: str = ""
    env: tuple[tuple[str, Text], ...] = ()
    processes: int | None = None
    messages: bool = False
    release: str = ""

    def __str__(self) -> str:
        does = f"{shlex.join(self.argv)} on {self.host}" if self.argv else "stop it again"
        if self.processes is not None:
            does = f"scale it back to {self.processes}"
        if self.messages:
            does = "give its messages back"
        if self.release:
            does = f"make {self.release} the current release of {self.host} again"
        return f"step {self.step}, {self.target}: {does}"


@dataclass(frozen=True, slots=True)
class Irreversible:
    """One act that was done and that nothing takes back, or that is not to be: `why`."""

    step: str
    target: str
    why: str = ""

    def __str__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return f"step {self.step}, {self.target}: cannot be taken back{why}"


def reversals(
    recall: Recall, runbook: Runbook, plan: Plan, within: str | None = None
) -> tuple[Reversal | Irreversible, ...]:
    """The newest first, as they must be taken back; those of the step `within`, or all."""
    verified = {
        (act.step.removesuffix(VERIFY), act.target)
        for act in recall.acts
        if act.step.endswith(VERIFY) and act.outcome and act.outcome.result is Result.DONE
    }
    roll_of = {
        step.id: roll.id for roll in runbook.steps if isinstance(roll, Roll) for step in roll.steps
    }
    undone = {
        (act.step.removeprefix(UNDO), act.target): at
        for at, act in enumerate(recall.acts)
        if act.step.startswith(UNDO) and act.outcome and act.outcome.result is Result.DONE
    }
    given_back = _given_back(recall)
    found = [
        reversal
        for at, act in reversed(list(enumerate(recall.acts)))
        if at not in given_back
        if act.began and _may_have_happened(act) and not act.step.startswith(UNDO)
        if within is None or roll_of.get(act.step, act.step) == within
        if (roll_of.get(act.step), act.target) not in verified
        if at > undone.get((act.step, act.target), -1)
        for reversal in _reversal(act, runbook, plan, verified)
    ]
    return tuple(dict.fromkeys(found))


def stopped_again(recall: Recall) -> dict[str, PlannedWorker]:
    """The schedulers whose start is being taken back, by name, as they were met."""
    return {
        act.worker.name: act.worker
        for act in recall.acts
        if act.step.startswith(UNDO) and act.verb == WorkerVerb.STOP and not act.ended
        if act.worker is not None and act.worker.is_beat
    }


def _given_back(recall: Recall) -> set[int]:
    """Where a start stands of what the run itself had stopped: it gave back what it had taken."""
    stopped: set[str | None] = set()
    found = set()
    for at, act in enumerate(recall.acts):
        if act.verb == WorkerVerb.STOP and act.began and not act.step.startswith(UNDO):
            stopped.add(act.target)
        if act.verb == WorkerVerb.START and act.target in stopped:
            found.add(at)
    return found


def _may_have_happened(act: Act) -> bool:
    """A pool that did not come to its size in time may have come a part of the way, and so may
    messages.
    """
    in_part = act.verb in {"scale", *_GIVEN_BACK, *_NOT_GIVEN_BACK}
    return act.outcome is None or act.outcome.result is Result.DONE or in_part


def _reversal(
    act: Act, runbook: Runbook, plan: Plan, verified: Collection[tuple[str, str | None]]
) -> tuple[Reversal | Irreversible, ...]:
    target = act.target or ""
    if act.verb == "run" and act.undo:
        return (_run_back(act, runbook, plan, verified),)
    if act.verb == "scale" and act.worker is not None and act.worker.size is not None:
        return (Reversal(act.step, target, processes=act.worker.size),)
    if act.verb in {"run", "control", "revoke", "terminate"}:
        return (Irreversible(act.step, target),)
    if act.verb == ACTIVATE:
        return _release_back(act, runbook, plan, verified)
    if act.verb in _GIVEN_BACK:
        return (Reversal(act.step, target, messages=True),)
    if act.verb in _NOT_GIVEN_BACK:
        return (Irreversible(act.step, target, _NOT_GIVEN_BACK[act.verb]),)
    was_stopped = act.worker is not None and act.worker.state is WorkerState.STOPPED
    if act.verb == WorkerVerb.START and was_stopped:
        return (Reversal(act.step, target),)
    return ()


def _run_back(
    act: Act, runbook: Runbook, plan: Plan, verified: Collection[tuple[str, str | None]]
) -> Reversal | Irreversible:
    """On the host where the step was run, and with the values that it was given; not if it was run
    there for a worker that came through, too.
    """
    target = act.target or ""
    argv = tuple(shlex.split(act.undo or ""))
    roll, step = _found(runbook, act.step)
    if step is None:
        return Reversal(act.step, target, argv, target)
    host = _host(step, target, runbook, plan)
    if step.once_per_host and roll is not None:
        names = sorted(name for of, name in verified if of == roll.id and name)
        keep = [name for name in names if _host(step, name, runbook, plan) == host]
        if keep:
            return Irreversible(act.step, target, f"{', '.join(keep)} came through with it")
    return Reversal(act.step, target, argv, host, step.env)


def _release_back(
    act: Act, runbook: Runbook, plan: Plan, verified: Collection[tuple[str, str | None]]
) -> tuple[Reversal | Irreversible, ...]:
    """Not on a host where another worker of the roll came through with it: that keeps it."""
    target = act.target or ""
    planned = [one for one in plan.activations if one.step == act.step]
    service = next((one.service for one in plan.targets if one.name == target), None)
    hosts = {one.host for one in planned}
    host = service.host if service is not None and service.host in hosts else target
    one = next((one for one in planned if one.host == host or len(hosts) == 1), None)
    if one is None or one.before == one.release:
        return ()
    if one.before is None:
        return (Irreversible(act.step, target, "which release was the current one is not known"),)
    roll = next(
        (roll for roll in runbook.steps if isinstance(roll, Roll)
         and any(step.id == act.step for step in roll.steps)), None,
    )  # fmt: skip
    there = {one.name for one in plan.targets if one.service and one.service.host == host}
    keep = sorted(name for of, name in verified if roll and of == roll.id and name in there)
    if keep:
        return (Irreversible(act.step, target, f"{', '.join(keep)} came through with it"),)
    return (Reversal(act.step, target, host=one.host, release=one.before),)


def _host(step: RunStep, target: str, runbook: Runbook, plan: Plan) -> str:
    if not isinstance(step.on, CurrentWorker):
        return resolve(step.on, {"params": parse_params(runbook, plan.params)})
    services = (one.service for one in plan.targets if one.name == target)
    return next((service.host for service in services if service is not None), target)


def _found(runbook: Runbook, id_: str) -> tuple[Roll | None, RunStep | None]:
    """The command of that id, and the roll that it is in."""
    rolls = [one for one in runbook.steps if isinstance(one, Roll)]
    inner = [(roll, step) for roll in rolls for step in roll.steps]
    for roll, step in (*((None, step) for step in runbook.steps), *inner):
        if isinstance(step, RunStep) and step.id == id_:
            return roll, step
    return None, None
