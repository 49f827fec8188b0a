"""The way back of messages that a run has parked, moved or purged; what of them is left, and how
many they were.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import OpsError
from celery_ops.model import Parked, parked
from celery_ops.ports import Transfer
from celery_ops.runbook import backups
from celery_ops.runbook.carrying import Carrier, Noted, read_through
from celery_ops.runbook.events import Owed, Result
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.journal import read
from celery_ops.runbook.moves import RETURNS
from celery_ops.runbook.recall import UNDO, Recall
from celery_ops.runbook.returning import AsTheyWere
from celery_ops.runbook.schema import QueueVerb

if TYPE_CHECKING:
    from celery_ops.runbook.plan import PlannedMove
    from celery_ops.runbook.recall import Act
    from celery_ops.runbook.schema import QueueStep
    from celery_ops.runbook.stage import Stage


async def take_back(stage: Stage, step: QueueStep, target: str) -> list[str]:
    """Give back what a step has parked, moved, purged or, to the queue `target`, returned, and say
    what came of it. Raise StepFailed or an OpsError.
    """
    moves = [move for move in stage.plan.moves if move.step == step.id]
    if step.verb in RETURNS:
        moves = [move for move in moves if move.to == target]
    return [await take_back_move(stage, step.verb, move) for move in moves]


async def take_back_move(stage: Stage, verb: QueueVerb, move: PlannedMove) -> str:
    """The same for one of them, as by its verb."""
    effects, undoing = stage.effects, f"{UNDO}{move.step}"
    target = move.to if verb in RETURNS else move.queue
    effects.intend(
        undoing,
        target,
        f"give the messages back to {move.queue}",
        expect="they wait there, to be served first",
        undo=None,
        verb="undo",
    )
    try:
        if verb is QueueVerb.MOVE or verb in RETURNS:
            says = await _moved_back(stage, verb, move)
        elif verb is QueueVerb.PURGE:
            says = await _restored(stage, move)
        else:
            says = await _unparked(stage, move)
    except (StepFailed, OpsError) as error:
        effects.conclude(undoing, target, Result.FAILED, error.says)
        raise
    effects.conclude(undoing, target, Result.DONE, says)
    for suffix in ("", " undo", " back"):
        await effects.forget(_ticket_of(stage, move) + suffix)
    return says


async def _moved_back(stage: Stage, verb: QueueVerb, move: PlannedMove) -> str:
    """Those that are still there, first out of the other queue and then before those that wait."""
    moved = count_of(stage, move.step, move.to if verb in RETURNS else move.queue, verb)
    if moved is None:
        moved = await Carrier(stage, move.step, "").counted(_ticket_of(stage, move))
    place = _place_of_undo(stage, move)
    carrier = Carrier(stage, move.step, "on their way back", of=moved)
    transfer = Transfer(
        ticket=_ticket_of(stage, move) + " undo", queue=move.to, to=place, limit=moved
    )
    if verb in RETURNS:
        before = AsTheyWere(stage, move.step)
        transfer = replace(transfer, choose=before.has, become=before.of)
    else:
        ids = Noted(stage, move.step).ids()
        transfer = replace(transfer, choose=lambda message: message.id in ids, address=move.queue)
    while True:
        back = await carrier.transfer(transfer)
        given = await _given_back(stage, move, place)
        is_known = await carrier.counted(transfer.ticket) >= back
        if is_known and await carrier.counted(_way_back(stage, move)) >= given:
            break  # else a fail-over has lost some of it since
    gone = moved - back
    says = f"{back} of {counted(moved, 'message')} moved back to {move.queue}"
    return f"{says}; {gone} had been consumed, or taken elsewhere, meanwhile" if gone else says


async def _restored(stage: Stage, move: PlannedMove) -> str:
    """What is parked still goes back, and its copy is removed: else it could be restored beside.

    What was destroyed is put back from the file, under the ticket of any restore of it.
    """
    store, path = stage.effects.store, Path(move.file)
    if await store.count(move.parked):
        backups.remove(path, stage.plan.run, move.step)
        return await _unparked(stage, move)
    if not backups.is_there(path):
        return "nothing had been purged"
    backup = await read_through(path, store)
    carrier = Carrier(stage, move.step, "put back", of=backup.count)
    parked_ones = await carrier.counted(ticket(stage, move.step))
    if parked_ones < backup.count and not _is_destroyed(stage, move):
        raise forgotten(move)
    done = await carrier.put(backup, queue=move.queue, ticket=backup.ticket, address=None)
    return f"{counted(done, 'message')} put back from {path}"


def _is_destroyed(stage: Stage, move: PlannedMove) -> bool:
    """Whether the run knows that what it parked was destroyed, and counts it no more."""
    return _done(stage, move.step, move.parked, QueueVerb.PURGE) is not None


def forgotten(move: PlannedMove) -> StepFailed:
    """What stands before a purge whose file is written, and whose messages are parked no more.

    Restored as well, each message that is back in its queue would be there twice.
    """
    return StepFailed(
        f"the broker has forgotten what was parked in {move.parked}, as after a fail-over that lost"
        f" its last writes: nothing was destroyed by this run. Look whether the messages wait in"
        f" {move.queue} again; if they do not, {move.file} has them"
    )


async def _unparked(stage: Stage, move: PlannedMove) -> str:
    done = await _given_back(stage, move, move.parked)
    return f"{counted(done, 'message')} given back to {move.queue}"


async def _given_back(stage: Stage, move: PlannedMove, place: str) -> int:
    return await Carrier(stage, move.step, "given back").transfer(
        Transfer(ticket=_way_back(stage, move), queue=place, to=move.queue, first=True)
    )


def _way_back(stage: Stage, move: PlannedMove) -> str:
    """What they are counted under."""
    return _ticket_of(stage, move) + " back"


# --- what is left, and what is known ------------------------------------------------------------


async def left_parked(stage: Stage) -> tuple[Owed, ...]:
    """What the run has parked and nobody has given back yet. Raise BrokerUnreachable."""
    left: list[Owed] = []
    told: set[str] = set()
    for move in stage.plan.moves:
        places = (
            move.parked,
            _place_of_undo(stage, move) if move.to else "",
            move.queue if parked(move.queue) else "",
        )
        for place in filter(None, places):
            if place in told:  # what is returned to several queues comes back by one
                continue
            told.add(place)
            there = await stage.effects.store.count(place)
            if there:
                mend = f"celery-ops queue unpark {shlex.quote(place)}"
                left.append(Owed(f"{counted(there, 'message')} of {move.queue} in {place}", mend))
    return tuple(left)


async def forget_tickets(stage: Stage) -> None:
    """The run came to its good end: nobody goes on with it, and the journal tells how many each act
    was about, should it be taken back. What a backup is restored under is not forgotten.
    """

    def is_of_the_run(move: PlannedMove) -> bool:
        return move.ticket.startswith(ticket(stage, move.step))

    tickets = [
        f"{ticket(stage, move.step)} {move.queue}" if parked(move.queue)
        else _ticket_of(stage, move)
        for move in stage.plan.moves
        if (move.to or move.parked) and (not move.ticket or is_of_the_run(move))
    ]  # fmt: skip
    with suppress(OpsError):  # it does no harm where it stays
        for one in dict.fromkeys(tickets):
            await stage.effects.forget(one)


def count_of(stage: Stage, step: str, target: str, verb: QueueVerb) -> int | None:
    """How many messages an act of this run was about; None: it is not done, or it does not say."""
    act = _done(stage, step, target, verb)
    return None if act is None else act.count


def _done(stage: Stage, step: str, target: str, verb: QueueVerb) -> Act | None:
    """The last act of that kind that was done, as the journal tells by now."""
    acts = reversed(Recall.of(read(stage.journal.path)).acts)
    return next(
        (
            act for act in acts
            if (act.step, act.target, act.verb) == (step, target, verb)
            and act.outcome is not None and act.outcome.result is Result.DONE
        ),
        None,
    )  # fmt: skip


def ticket(stage: Stage, step: str) -> str:
    """What the messages of a step are counted under."""
    return f"{stage.plan.run} {step}"


def _ticket_of(stage: Stage, move: PlannedMove) -> str:
    return move.ticket or ticket(stage, move.step)


def _place_of_undo(stage: Stage, move: PlannedMove) -> str:
    return str(Parked(move.queue, stage.plan.run, f"{move.step}undo"))
