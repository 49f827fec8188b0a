"""Steps about the messages that wait in queues: what one asks for, and how it is told. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.config.document import Place, shown
from celery_ops.config.units import counted
from celery_ops.errors import UsageError
from celery_ops.model import parked
from celery_ops.runbook.expressions import InvalidExpression, condition
from celery_ops.runbook.facts import scope_of_message
from celery_ops.runbook.loader import render, resolve
from celery_ops.runbook.names import names_of_messages
from celery_ops.runbook.plan import PlannedAction
from celery_ops.runbook.probes import listed
from celery_ops.runbook.schema import QueueVerb, Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Self

    from celery_ops.model import FleetSnapshot, StoredMessage
    from celery_ops.runbook.expressions import Condition, Truth
    from celery_ops.runbook.plan import PlannedMove
    from celery_ops.runbook.schema import Param, QueueStep, Slot

VERBS = frozenset(
    {
        QueueVerb.BACKUP,
        QueueVerb.PARK,
        QueueVerb.UNPARK,
        QueueVerb.MOVE,
        QueueVerb.PURGE,
        QueueVerb.RESTORE,
    }
)
"""The verbs that are about messages, and not about who consumes them."""

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A step about messages with its values; what it does not say is empty or None.

    `rate` is in messages a second.
    """

    step: str
    verb: QueueVerb
    queue: str
    to: str
    file: str
    filter: Condition | None
    limit: int | None
    rate: float | None
    again: str

    @classmethod
    def of(cls, step: QueueStep, params: Sequence[Param], scope: Mapping[str, object]) -> Self:
        """Raise UsageError for a parameter that cannot be read as what it stands for."""
        return cls(
            step=step.id,
            verb=step.verb,
            queue=_text(step.queue, scope),
            to=_text(step.to, scope),
            file="" if step.file is None else render(step.file, scope),
            filter=_filter(step.filter, params, scope),
            limit=None if step.limit is None else _limit(resolve(step.limit, scope)),
            rate=rate_of(_text(step.rate, scope)),
            again=_text(step.again, scope),
        )

    @property
    def says(self) -> str:
        """What it is about, in one line."""
        does = [str(self.verb)]
        if self.queue:
            does.append(self.queue)
        if self.to:
            does.append(f"to {self.to}")
        if self.file:
            at = "from" if self.verb is QueueVerb.RESTORE else "to"
            does.append(f"{at} the file {self.file}")
        bounds = [" ".join(does)]
        if self.filter is not None:
            bounds.append(f"where {self.filter.source}")
        if self.limit is not None:
            bounds.append(f"at most {counted(self.limit, 'message')}")
        if self.rate is not None:
            bounds.append(f"at most {self.rate:g} a second")
        return ", ".join(bounds)

    def judge(
        self, params: Mapping[str, object], now: datetime
    ) -> Callable[[StoredMessage], Truth] | None:
        """Whether a message is meant; None: each is."""
        where = self.filter
        if where is None:
            return None
        return lambda message: where.evaluate(scope_of_message(message, now, params)).truth


def about(move: PlannedMove) -> str:
    """`1,000 messages`, `about 1,000 messages`."""
    number = f"{move.messages:,} message{'' if move.messages == 1 else 's'}"
    return number if move.surely else f"about {number}"


def actions(
    wanted: Wanted, move: PlannedMove, *, first: bool, snapshot: FleetSnapshot
) -> tuple[PlannedAction, ...]:
    """What is done, in order, and how each of it is taken back. `first`: the broker can put
    messages before those that wait.
    """

    def act(does: str, undo: str | None, target: str = move.queue) -> PlannedAction:
        return PlannedAction(wanted.step, target, does, undo)

    where = "before those that wait there" if first else "behind those that wait there"
    park = act(
        f"move {about(move)} to {move.parked}, as they are: nobody consumes them there",
        f"they go back, {where}",
    )
    match wanted.verb:
        case QueueVerb.BACKUP:
            says = f"copy {about(move)} to {move.file}; they stay where they are"
            return (act(says, "nothing to take back: the messages stay where they are"),)
        case QueueVerb.PARK:
            return (park,)
        case QueueVerb.MOVE:
            there = as_it_is(move.to, snapshot)
            return (
                act(
                    f"move {about(move)} to {move.to}, addressed to it, in their order ({there})",
                    f"those that are not consumed by then go back, {where}",
                ),
            )
        case QueueVerb.PURGE:
            undo = f"they are put back from the file, {where}"
            return (
                park,
                act(f"copy them to {move.file}, and read that through", undo, move.parked),
                act(f"destroy {move.parked}", undo, move.parked),
            )
        case QueueVerb.RESTORE:
            anew = "" if move.to == move.queue else f", addressed to {move.to}"
            says = f"put {about(move)} of {move.file} back, {where}{anew}"
            return (act(says, None, move.to),)
        case QueueVerb.UNPARK:
            anew = "as they are, " + where
            if not is_way_back(move):
                anew = f"addressed to {move.to}, behind those that wait there"
            return (act(f"move {about(move)} to {move.to}, {anew}", None),)
        case _:
            raise ValueError(f"{wanted.verb} is not about messages")


def is_way_back(move: PlannedMove) -> bool:
    """Parked messages go to the queue they were taken from: not a byte of them has to change."""
    place = parked(move.queue)
    return place is not None and place.queue == move.to


def as_it_is(name: str, snapshot: FleetSnapshot) -> str:
    """A queue now, and who consumes it."""
    queue = next((one for one in snapshot.queues if one.name == name), None)
    names = listed(worker.name for worker in snapshot.consumers_of(name)) or "nobody"
    if queue is None:
        return f"no such queue is seen now; consumed by {names}"
    ready = "unknown" if queue.ready is None else queue.ready
    unacked = "unknown" if queue.unacked is None else queue.unacked
    return f"now {ready} ready, {unacked} held by workers; consumed by {names}"


def _text(slot: Slot[str] | None, scope: Mapping[str, object]) -> str:
    return "" if slot is None else resolve(slot, scope)


def _filter(
    written: Condition | Reference | None, params: Sequence[Param], scope: Mapping[str, object]
) -> Condition | None:
    if not isinstance(written, Reference):
        return written
    source: str = resolve(written, scope)
    if not source.strip():
        return None
    try:
        return condition(source, Place(str(written), 1, 1), names_of_messages(params))
    except InvalidExpression as error:
        marks = "".join(f"\n  {source}\n  {' ' * one.offset}^ {one.says}" for one in error.faults)
        raise UsageError(f"{'.'.join(written.path)} cannot be used:{marks}") from error


def _limit(number: int) -> int | None:
    if number < 0:
        raise UsageError(f"not a limit: {number} (write how many at most; 0: any number)")
    return number or None


def rate_of(text: str) -> float | None:
    """Messages a second; None: as fast as can be. Raise UsageError."""
    if not text:
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise UsageError(f"not a rate: {shown(text)} (write how many in which time: 100/s, 30/m)")
    return int(match[1]) / _SECONDS[match[2]]
