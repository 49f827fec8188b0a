"""What the journal of a run that is taken up again tells: what was done, and what is not known.

Pure. An executor that goes on with a run walks through its steps from the first one, and asks here
before each act. An act with a result is not done again; one without is settled by observing the
fleet, never by repeating it blindly.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_ops.runbook.events import EventKind, Outcome, Result
from celery_ops.runbook.schema import WorkerVerb

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import PlannedWorker


VERIFY = " verify"
"""How the step of a roll's proof ends, after the roll's own."""
UNDO = "undo "
"""How the step of a reversal begins, before the one that it reverses."""
PAUSE_QUEUE, RESUME_QUEUE = "pause queue", "resume queue"
"""The verbs of what is done to the consumers of a queue."""
ACTIVATE = "activate"
"""The verb of a switch of a host's release."""
NOTIFY = "notify"
"""The verb of the one act that changes nothing in a fleet."""


@dataclass(slots=True)
class Act:
    """Something that was begun: its intent, and what came of it.

    `outcome` None: it is not known whether it happened at all. `worker` is the target as it was met
    right before.
    """

    step: str
    target: str | None
    verb: str | None = None
    worker: PlannedWorker | None = None
    undo: str | None = None
    outcome: Outcome | None = None
    count: int | None = None
    """Messages that its outcome is about."""
    intent: str = ""
    at: datetime | None = None
    """When it was intended."""
    began: bool = True
    """False for what has no intent, since it changes nothing: a check, a proof, a step left out."""
    ended: bool = False
    """The run came to an end after it, before it was taken up again."""
    taken_back: bool = False
    """Its reversal was begun."""

    @property
    def changes(self) -> bool:
        """It may have changed something in the fleet."""
        return self.began and self.verb != NOTIFY

    @property
    def is_open(self) -> bool:
        return self.outcome is None

    @property
    def leaves_owed(self) -> bool:
        """It took something away that the next act is to give back."""
        takes = self.verb in {WorkerVerb.DRAIN, WorkerVerb.STOP}
        return takes and (self.outcome is None or self.outcome.result is Result.DONE)


_Key = tuple[str | None, str | None]


@dataclass(slots=True)
class Recall:
    """The acts of a run in the order in which they were begun; each is told once.

    An empty one is that of a run which begins.
    """

    acts: list[Act] = field(default_factory=list)
    resumes: bool = False
    """An executor had begun it."""
    confirmed: frozenset[str] = frozenset()
    aborting: str = ""
    """Who had ended the run; its end was still to come."""
    aborted_in: str = ""
    """The step that was under way then."""
    _answers: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    _open: dict[_Key, deque[Act]] = field(default_factory=lambda: defaultdict(deque))
    _batches: dict[str | None, deque[datetime]] = field(default_factory=lambda: defaultdict(deque))

    @classmethod
    def of(cls, events: Iterable[Event]) -> Recall:
        """What these events tell."""
        recall = cls()
        confirmed: set[str] = set()
        latest: dict[_Key, Act] = {}
        for event in events:
            key = (event.step, event.target)
            match event.event:
                case EventKind.INTENT:
                    latest[key] = recall._begin(event)
                case EventKind.RESULT if event.outcome is not None:
                    recall._conclude(event, latest.get(key))
                case EventKind.CONFIRMED if event.step is not None:
                    confirmed.add(event.step)
                case EventKind.ANSWERED if event.step is not None and event.outcome is not None:
                    recall._answers[event.step].append(event.outcome.says)
                case EventKind.BATCH:
                    recall._batches[event.step].append(event.at)
                case EventKind.STARTED:
                    recall.resumes = True
                case EventKind.ABORTING if event.outcome is not None:
                    recall.aborting, recall.aborted_in = event.outcome.says, event.step or ""
                case EventKind.ENDED:
                    recall.aborting = recall.aborted_in = ""
                    for act in recall.acts:
                        act.ended = True
                case _:
                    pass
        recall.confirmed = frozenset(confirmed)
        return recall

    @property
    def changed_something(self) -> bool:
        """Something was begun that may have had an effect."""
        return any(act.changes for act in self.acts)

    def next(self, step: str, target: str | None) -> Act | None:
        """The next act of a step on a target, if it was begun before."""
        acts = self._open.get((step, target))
        return acts.popleft() if acts else None

    def peek(self, step: str, target: str | None) -> Act | None:
        """The same, without having been told it."""
        acts = self._open.get((step, target))
        return acts[0] if acts else None

    def knows(self, step: str) -> bool:
        """Something of a step was begun, or it was told that it is left out."""
        return step in self._batches or any(act.step == step for act in self.acts)

    def was_left_out(self, step: str) -> bool:
        """A step as a whole."""
        return any(
            act.step == step and act.target is None and act.outcome is not None
            and act.outcome.result is Result.SKIPPED
            for act in self.acts
        )  # fmt: skip

    def was_put_off(self, steps: Collection[str], target: str) -> bool:
        """The next act of one of these steps on a target was put off: it had another turn later."""
        acts = [self.peek(step, target) for step in steps]
        outcomes = [act.outcome for act in acts if act is not None]
        return any(one is not None and one.result is Result.DEFERRED for one in outcomes)

    def last(self, target: str) -> Act | None:
        """The last thing that was begun with a target."""
        return next(
            (act for act in reversed(self.acts) if act.target == target and act.began), None
        )

    def met(self, target: str) -> PlannedWorker | None:
        """A target as it was met last: what it is owed was taken from that life of it."""
        met = (act.worker for act in reversed(self.acts) if act.target == target)
        return next((worker for worker in met if worker is not None), None)

    def leaves(self, target: str) -> tuple[bool, bool]:
        """Whether its queues, and its service, are taken by what was begun with a target, as far as
        that can be told without the broker's records, which know better.
        """
        queues = down = False
        for act in self.acts:
            if act.target != target or not act.began:
                continue
            is_done = act.outcome is not None and act.outcome.result is Result.DONE
            started = is_done and act.verb == WorkerVerb.START
            resumed = is_done and act.verb == WorkerVerb.RESUME
            queues = (queues or act.verb == WorkerVerb.DRAIN) and not (started or resumed)
            down = (down or act.verb == WorkerVerb.STOP) and not started
        return queues, down

    @property
    def paused(self) -> tuple[str, ...]:
        """The queues that were paused, as far as that can be told without the broker's records."""
        last: dict[str, Act] = {}
        for act in self.acts:
            if act.target is not None and act.verb in {PAUSE_QUEUE, RESUME_QUEUE}:
                last[act.target] = act
        return tuple(
            queue for queue, act in last.items()
            if act.verb == PAUSE_QUEUE or act.outcome is None or act.outcome.result is Result.FAILED
        )  # fmt: skip

    def was_verified(self, target: str) -> bool:
        """The proof of a roll's batch was seen of it."""
        return any(
            act.target == target and act.step.endswith(VERIFY) and act.outcome is not None
            and act.outcome.result is Result.DONE
            for act in self.acts
        )  # fmt: skip

    def answer(self, step: str) -> str | None:
        """What the next question of a step was answered, if it was."""
        answers = self._answers.get(step)
        return answers.popleft() if answers else None

    def forget(self, target: str, steps: Collection[str] | None = None) -> None:
        """What is still to be told of a target (in these steps, or at all) is over, or is not true
        any more.
        """
        for key in list(self._open):
            if key[1] == target and (steps is None or key[0] in steps):
                del self._open[key]

    def forget_failed(self, step: str, target: str) -> None:
        """What failed may be tried again: what is next to be told of it is what came after that."""
        acts = self._open.get((step, target))
        while acts and acts[0].outcome is not None and acts[0].outcome.result is Result.FAILED:
            acts.popleft()

    def batch(self, step: str) -> datetime | None:
        """When the next batch of a roll began, if it did."""
        began = self._batches.get(step)
        return began.popleft() if began else None

    def _begin(self, event: Event) -> Act:
        act = Act(
            event.step or "", event.target, event.verb, event.worker, event.undo,
            intent=event.intent or "", at=event.at,
        )  # fmt: skip
        self._add(act)
        if act.step.startswith(UNDO):  # what is taken back is to be done anew
            for undone in self._open.pop((act.step.removeprefix(UNDO), act.target), ()):
                undone.taken_back = True
        return act

    def _conclude(self, event: Event, act: Act | None) -> None:
        """An unknown result leaves its act open: the next one, by observing, is what came of it."""
        outcome = event.outcome
        if act is not None and act.is_open:
            act.outcome = None if outcome and outcome.result is Result.UNKNOWN else outcome
            act.count = event.count
            return
        self._add(Act(event.step or "", event.target, outcome=outcome, began=False))

    def _add(self, act: Act) -> None:
        self.acts.append(act)
        self._open[act.step, act.target].append(act)
