"""The verb `restore: orphans`: gives back the messages of dead workers, and looks whether it did.

Whatever the plan said, it is proved again right before the effect, by two rounds of everybody and a
fresh word of every supervisor. Only messages of the plan go back: what was agreed to, and no more.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import BrokerUnreachable, PreconditionFailed
from celery_ops.fleet.orphans import BETWEEN_ROUNDS
from celery_ops.ports import GivenBack, Question
from celery_ops.runbook.events import Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.orphans import Wanted, by_queue, choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.model import FleetSnapshot, HeldMessage
    from celery_ops.runbook.orphans import Choice
    from celery_ops.runbook.schema import RestoreStep
    from celery_ops.runbook.stage import Stage

_Delivery = tuple[str, datetime]

ROUND_TIMEOUT = 3.0
ROUNDS = 2
_ASKED = tuple(question for question in Question if question.is_of_the_fleet)
_AT_A_TIME = 100
"""Messages between two chances to abort."""


class Restoring:
    """One restore step of a run."""

    def __init__(self, stage: Stage, step: RestoreStep) -> None:
        self._stage = stage
        self._step = step
        self._outcomes: Counter[GivenBack] = Counter()

    async def go(self) -> str:
        """Do it and say what came of it. Raise PreconditionFailed if it is not proved any more."""
        stage, step = self._stage, self._step
        snapshot = await self._prove()
        choice = choose(Wanted.of(step, {"params": stage.params}), snapshot)
        planned = {(one.tag, one.since) for one in stage.plan.messages}
        still = [one for one in choice.messages if (one.tag, one.since) in planned]
        self._say_what_stays(choice, planned, is_all=not still)
        if not still:
            says = "nothing was left to give back: others did, or acknowledged, meanwhile"
            stage.effects.conclude(step.id, None, Result.SKIPPED, says)
            return says
        for queue, messages in by_queue(still).items():
            await self._give_back(queue, messages)
        return self._sum(len(planned))

    async def _prove(self) -> FleetSnapshot:
        """Two rounds of everybody, and every supervisor, all asked from now on."""
        stage = self._stage
        services = stage.plan.where.services
        stage.say(None, "proving again that nobody holds them", self._step.id)
        for number in range(ROUNDS):
            if number:
                await stage.clock.sleep(BETWEEN_ROUNDS)
            snapshot = await stage.surveyor.refresh(
                questions=_ASKED, timeout=ROUND_TIMEOUT, services=services
            )
        return snapshot

    def _say_what_stays(self, choice: Choice, planned: set[_Delivery], *, is_all: bool) -> None:
        """Doubts about messages of the plan: a refusal where nothing else is left of it."""
        concerned = [
            says
            for doubt, says in zip(choice.doubts, choice.left, strict=True)
            if any((one.tag, one.since) in planned for one in doubt.messages)
        ]
        if not choice.known:
            concerned = choice.refusals
        if concerned and is_all:
            raise PreconditionFailed("; ".join(concerned))
        for says in concerned:
            self._stage.say(None, f"left where they are: {says}", self._step.id)

    async def _give_back(self, queue: str, messages: Sequence[HeldMessage]) -> None:
        stage, step = self._stage, self._step
        # One that was begun before is done again as it is: what was moved is not held any more.
        if stage.recall.next(step.id, queue) is None:
            stage.effects.intend(
                step.id,
                queue,
                f"give back {counted(len(messages), 'message')} that nobody holds",
                expect="they are held no longer and wait in their queue, next to be served",
                undo=None,
                verb="restore",
            )
        trouble = ""
        outcomes: Counter[GivenBack] = Counter()
        try:
            for start in range(0, len(messages), _AT_A_TIME):
                stage.brake.check(safe=True)
                some = messages[start : start + _AT_A_TIME]
                outcomes.update(await stage.effects.restore(some))
        except BrokerUnreachable as error:
            trouble = error.says
        self._outcomes += outcomes
        says, is_fine = await self._look(queue, messages, outcomes, trouble)
        stage.effects.conclude(step.id, queue, Result.DONE if is_fine else Result.FAILED, says)
        if not is_fine:
            raise StepFailed(f"{queue}: {says}")

    async def _look(
        self,
        queue: str,
        messages: Sequence[HeldMessage],
        outcomes: Counter[GivenBack],
        trouble: str,
    ) -> tuple[str, bool]:
        """What the broker shows afterwards, and whether it is all that was meant."""
        reading = await self._stage.surveyor.broker.queues([queue])
        if reading.unacked is None:
            return "what is held now cannot be told", False
        held = {(one.tag, one.since) for one in reading.unacked}
        stay = sum((one.tag, one.since) in held for one in messages)
        ready = next((one.ready for one in reading.queues if one.name == queue), None)
        parts = [f"{outcomes[GivenBack.DONE]} of {len(messages)} given back, held no longer"]
        if trouble:
            gone = len(messages) - stay
            parts = [f"{trouble} in the midst of it; {gone} of {len(messages)} are held no longer"]
        if outcomes[GivenBack.GONE]:
            parts.append(f"{outcomes[GivenBack.GONE]} settled by others meanwhile")
        if outcomes[GivenBack.UNROUTABLE]:
            unroutable = outcomes[GivenBack.UNROUTABLE]
            parts.append(f"of {unroutable} the one queue they came from cannot be told")
        if stay:
            parts.append(f"{stay} still {'lies' if stay == 1 else 'lie'} there")
        parts.append(f"{'unknown' if ready is None else ready} ready in {queue}")
        return ", ".join(parts), not stay and not trouble

    def _sum(self, planned: int) -> str:
        done = self._outcomes[GivenBack.DONE]
        others = planned - done
        says = f"{counted(done, 'message')} given back"
        return f"{says}, {others} of the plan not: settled meanwhile, or left" if others else says
