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
from celery_ops.runbook.recall import VERIFY
from celery_ops.runbook.schema import Roll, WorkerVerb

if TYPE_CHECKING:
    from celery_ops.runbook.recall import Act, Recall
    from celery_ops.runbook.schema import Runbook

UNDO = "undo "
"""How the step of a reversal begins, before the one that it reverses."""


@dataclass(frozen=True, slots=True)
class Reversal:
    """One act that is reversed: `argv` is run on the act's host, its pool gets so many `processes`
    again, or its worker is stopped again.
    """

    step: str
    target: str
    argv: tuple[str, ...] = ()
    processes: int | None = None

    def __str__(self) -> str:
        if self.processes is not None:
            return f"step {self.step}, {self.target}: scale it back to {self.processes}"
        does = shlex.join(self.argv) if self.argv else "stop it again"
        return f"step {self.step}, {self.target}: {does}"


@dataclass(frozen=True, slots=True)
class Irreversible:
    """One act that was done and that nothing takes back."""

    step: str
    target: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.target}: cannot be taken back"


def reversals(recall: Recall, runbook: Runbook) -> tuple[Reversal | Irreversible, ...]:
    """The newest first, as they must be taken back."""
    verified = {
        (act.step.removesuffix(VERIFY), act.target)
        for act in recall.acts
        if act.step.endswith(VERIFY) and act.outcome and act.outcome.result is Result.DONE
    }
    roll_of = {
        step.id: roll.id for roll in runbook.steps if isinstance(roll, Roll) for step in roll.steps
    }
    undone = {
        (act.step.removeprefix(UNDO), act.target)
        for act in recall.acts
        if act.step.startswith(UNDO) and act.outcome and act.outcome.result is Result.DONE
    }
    found = [
        reversal
        for act in reversed(recall.acts)
        if act.began and _may_have_happened(act) and not act.step.startswith(UNDO)
        if (roll_of.get(act.step), act.target) not in verified
        if (act.step, act.target) not in undone
        for reversal in _reversal(act)
    ]
    return tuple(dict.fromkeys(found))


def _may_have_happened(act: Act) -> bool:
    return act.outcome is None or act.outcome.result is Result.DONE


def _reversal(act: Act) -> tuple[Reversal | Irreversible, ...]:
    target = act.target or ""
    if act.verb == "run":
        argv = tuple(shlex.split(act.undo or ""))
        return (Reversal(act.step, target, argv) if argv else Irreversible(act.step, target),)
    if act.verb == "scale" and act.worker is not None and act.worker.processes is not None:
        return (Reversal(act.step, target, processes=act.worker.processes),)
    if act.verb == "control":
        return (Irreversible(act.step, target),)
    was_stopped = act.worker is not None and act.worker.state is WorkerState.STOPPED
    if act.verb == WorkerVerb.START and was_stopped:
        return (Reversal(act.step, target),)
    return ()
