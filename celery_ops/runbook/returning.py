"""Messages on their way back to where they came from, and what they were before they went."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from celery_ops.model import Address
from celery_ops.ports import Transfer
from celery_ops.runbook.carrying import Carrier, Noted, burst
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.origins import Origins, Returned

if TYPE_CHECKING:
    from types import TracebackType

    from celery_ops.model import StoredMessage
    from celery_ops.runbook.moves import Wanted
    from celery_ops.runbook.plan import PlannedMove
    from celery_ops.runbook.stage import Stage


GIVEN_BACK_WITHIN = 5.0
"""Seconds without any that comes back."""
_BETWEEN_LOOKS = 0.5


async def returned(stage: Stage, wanted: Wanted, move: PlannedMove) -> int:
    """Return those that one move is meant for; how many. Raise StepFailed or Aborted."""
    carrier = Carrier(stage, move.step, "returned", of=move.messages, rate=wanted.rate)
    with _Homeward(stage, wanted, move) as way:
        transfer = Transfer(
            ticket=move.ticket,
            queue=move.queue,
            to=move.to,
            choose=way.is_meant,
            limit=None if wanted.limit is None else move.messages,
            address=move.to,
            portion=burst(wanted.rate),
            become=way.become,
        )
        try:
            done = await carrier.transfer(transfer)
            if stage.effects.store.marks and move.surely:
                done = await _settled(stage, carrier, transfer, done, planned=move.messages)
        except OSError as error:
            says = f"what goes cannot be kept beside the journal: {error.strerror or error}"
            raise StepFailed(says) from error
    return done


async def _settled(
    stage: Stage, carrier: Carrier, transfer: Transfer, done: int, *, planned: int
) -> int:
    """Look again while fewer have gone than were planned: a broker that takes messages out to look
    at them gives back what others, or a killed run, held only some time after they have closed.
    """
    began = stage.clock.monotonic()
    while done < planned and stage.clock.monotonic() - began < GIVEN_BACK_WITHIN:
        await stage.brake.sleep(_BETWEEN_LOOKS)
        before, done = done, await carrier.transfer(transfer)
        if done > before:
            began = stage.clock.monotonic()
    return done


class _Homeward:
    """Which messages go with one move, and what they are from then on. To be closed.

    What was not looked at when the plan was made goes too if it came from one of the same places;
    what came from another one stays.
    """

    def __init__(self, stage: Stage, wanted: Wanted, move: PlannedMove) -> None:
        sender = f"celery-ops run {stage.plan.run} by {stage.plan.operator}"
        self._origins = Origins(stage.effects.store, wanted, sender=sender)
        self._judge = wanted.judge(stage.params, stage.clock.now())
        self._from = frozenset(move.origins)
        self._with_untold = move.untold
        self._noted = Noted(stage, move.step)
        self._going: StoredMessage | None = None
        """What goes back of the one that was meant last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._noted.close()

    def is_meant(self, message: StoredMessage) -> bool:
        if self._judge is not None and self._judge(message) is not Truth.HOLDS:
            return False
        found = self._origins.of(message)
        if not isinstance(found, Returned):
            return False
        self._going = found.message
        if isinstance(found.address, Address):
            return found.address in self._from
        return self._with_untold

    def become(self, message: StoredMessage) -> StoredMessage:
        """What goes back of the one that was meant last; what it was is noted before."""
        if self._going is None:
            raise RuntimeError("none was meant")
        self._noted.keep(message, self._going)
        return self._going


class AsTheyWere:
    """What a step has returned, as it was before."""

    def __init__(self, stage: Stage, step: str) -> None:
        self._kept = Noted(stage, step).kept()

    def has(self, message: StoredMessage) -> bool:
        """Whether it is one of those; what a task has become that is tried again is not."""
        return (message.id, message.retries) in self._kept

    def of(self, message: StoredMessage) -> StoredMessage:
        """One of several with the same id and as many retries is as good as the other."""
        raws = self._kept[message.id or "", message.retries]
        return replace(message, raw=raws[0] if len(raws) == 1 else raws.pop(0))
