"""The verbs about messages: `backup`, `park`, `unpark`, `move`, `purge`, `restore: backup`.

Whatever changes is counted in the broker under a ticket, in the same step: of the run and the step,
or of the backup that is restored. So an act that was begun before is done again as it is, and goes
on.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.errors import OpsError
from celery_ops.model import Parked, parked
from celery_ops.ports import Transfer
from celery_ops.runbook import backups
from celery_ops.runbook.backups import Header
from celery_ops.runbook.carrying import Carrier, Noted, burst, read_through, store_of
from celery_ops.runbook.events import Owed, Result
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.journal import read
from celery_ops.runbook.moves import RETURNS, Wanted, about, is_way_back
from celery_ops.runbook.recall import UNDO, Recall
from celery_ops.runbook.returning import AsTheyWere, returned
from celery_ops.runbook.schema import QueueVerb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from celery_ops.model import StoredMessage
    from celery_ops.runbook.backups import Backup
    from celery_ops.runbook.plan import PlannedMove
    from celery_ops.runbook.schema import Param, QueueStep
    from celery_ops.runbook.stage import Stage


class Moving:
    """One step of a run about messages."""

    def __init__(self, stage: Stage, step: QueueStep, params: Sequence[Param]) -> None:
        self._stage = stage
        self._wanted = Wanted.of(step, params, {"params": stage.params})
        self._store = store_of(stage)
        self._unknown = self._meant = self._before = 0

    async def go(self) -> str:
        """Do it and say what came of it. Raise StepFailed."""
        does = {
            QueueVerb.BACKUP: self._backup,
            QueueVerb.PARK: self._park,
            QueueVerb.UNPARK: self._unpark,
            QueueVerb.MOVE: self._move,
            QueueVerb.PURGE: self._purge,
            QueueVerb.RESTORE: self._restore,
            QueueVerb.RETURN: self._return,
            QueueVerb.UNWRAP: self._return,
        }[self._wanted.verb]
        moves = [move for move in self._stage.plan.moves if move.step == self._wanted.step]
        says = [await does(move) for move in moves]
        if self._wanted.verb in RETURNS and moves:
            left = await self._carrier(moves[0], "").size(self._wanted.queue)
            says.append(f"{left} wait in {self._wanted.queue} now")
        return "; ".join(says)

    # --- the verbs ---

    async def _backup(self, move: PlannedMove) -> str:
        return await self._act(
            move.queue,
            "backup",
            f"copy {about(move)} to {move.file}",
            expect="the file is whole, as its checksum says",
            do=lambda: self._copied(move),
        )

    async def _copied(self, move: PlannedMove) -> str:
        carrier = self._carrier(move, "")
        before = await carrier.size(move.queue)
        backup = await self._written(move, move.queue)
        after = await carrier.size(move.queue)
        return (
            f"{counted(backup.count, 'message')} of {move.queue} copied to {move.file}"
            f" ({before} waited there before, {after} after; what workers held is not among them)"
        )

    async def _park(self, move: PlannedMove) -> str:
        return await self._act(
            move.queue,
            "park",
            f"move {about(move)} to {move.parked}, as they are",
            expect="they wait there, where nobody consumes",
            undo="they go back, to be served first",
            do=lambda: self._parked(move),
        )

    async def _parked(self, move: PlannedMove) -> str:
        done = await self._carrier(move, "parked").transfer(
            Transfer(
                ticket=ticket(self._stage, move.step),
                queue=move.queue,
                to=move.parked,
                choose=self._chooser(),
                limit=self._wanted.limit,
                portion=burst(self._wanted.rate),
            ),
            self._anew,
        )
        return f"{counted(done, 'message')} of {move.queue} parked in {move.parked}{self._rest()}"

    async def _move(self, move: PlannedMove) -> str:
        return await self._act(
            move.queue,
            "move",
            f"move {about(move)} to {move.to}, addressed to it",
            expect=f"they wait in {move.to}, in their order",
            undo="those that are not consumed by then go back",
            do=lambda: self._moved(move),
        )

    async def _moved(self, move: PlannedMove) -> str:
        noted = Noted(self._stage, move.step)
        carrier = self._carrier(move, "moved")
        try:
            done = await carrier.transfer(
                Transfer(
                    ticket=ticket(self._stage, move.step),
                    queue=move.queue,
                    to=move.to,
                    choose=self._chooser(noted),
                    limit=self._wanted.limit,
                    address=move.to,
                    portion=burst(self._wanted.rate),
                ),
                self._anew,
            )
        except OSError as error:
            says = f"what moves cannot be noted beside the journal: {error.strerror or error}"
            raise StepFailed(says) from error
        finally:
            noted.close()
        left = await carrier.size(move.queue)
        says = f"{counted(done, 'message')} of {move.queue} moved to {move.to}{self._rest()}"
        stayed = self._meant - (done - self._before)
        if stayed > 0:
            says += f"; {stayed} more did not go: consumed meanwhile, or no messages of Celery's"
        return f"{says}; {left} wait in {move.queue} now"

    async def _purge(self, move: PlannedMove) -> str:
        """First out of the way, then to the disk, and only then destroyed: just those."""
        await self._park(move)
        is_begun = self._stage.recall.peek(move.step, move.parked) is not None
        if not is_begun and not await self._carrier(move, "").size(move.parked):
            return f"nothing was left to be purged in {move.queue}"
        try:
            await self._act(
                move.parked,
                "backup",
                f"copy what is parked to {move.file}",
                expect="the file is whole, as its checksum says",
                do=lambda: self._secured(move),
            )
        except StepFailed as failed:
            await _take_back(self._stage, QueueVerb.PARK, move)
            raise StepFailed(f"{failed.says}; the messages are back in {move.queue}") from failed
        says = await self._act(
            move.parked,
            "purge",
            f"destroy {move.parked}",
            expect="there is no such queue",
            undo=f"they are put back from {move.file}",
            do=lambda: self._destroyed(move),
        )
        forget = self._stage.effects.forget
        await self._carrier(move, "").patiently(lambda: forget(ticket(self._stage, move.step)))
        return says

    async def _secured(self, move: PlannedMove) -> str:
        backup = await self._written(move, move.parked)
        return f"{counted(backup.count, 'message')} written to {move.file}"

    async def _destroyed(self, move: PlannedMove) -> str:
        backup = await read_through(Path(move.file), self._store)
        carrier = self._carrier(move, "")
        there = await carrier.size(move.parked)
        if there not in {0, backup.count}:  # none: it was done before
            raise StepFailed(
                f"{move.parked} has {there} messages and {move.file} {backup.count}:"
                " nothing was destroyed"
            )
        if not there and await carrier.counted(ticket(self._stage, move.step)) < backup.count:
            raise _forgotten(move)
        await carrier.patiently(lambda: self._stage.effects.drop(move.parked))
        return (
            f"{counted(backup.count, 'message')} of {move.queue} purged; give them back with:"
            f" {self._stage.plan.where.command(f'queue restore {shlex.quote(move.file)}')}"
        )

    async def _restore(self, move: PlannedMove) -> str:
        return await self._act(
            move.to,
            "put",
            f"put {about(move)} of {move.file} into {move.to}",
            expect="they wait there, each once",
            do=lambda: self._put(move),
        )

    async def _put(self, move: PlannedMove) -> str:
        backup = await read_through(Path(move.file), self._store)
        if not move.ticket.startswith(backup.ticket):
            raise StepFailed(f"{move.file} is another backup than the one that was planned")
        done = await self._carrier(move, "put back").put(
            backup,
            queue=move.to,
            ticket=move.ticket,
            address=None if move.to == move.queue else move.to,
        )
        there = await self._carrier(move, "").size(move.to)
        return (
            f"{counted(done, 'message')} of {move.file} put into {move.to}; {there} wait there now"
        )

    async def _unpark(self, move: PlannedMove) -> str:
        return await self._act(
            move.queue,
            "unpark",
            f"move {about(move)} to {move.to}",
            expect=f"they wait in {move.to}",
            do=lambda: self._unparked(move),
        )

    async def _unparked(self, move: PlannedMove) -> str:
        is_back = is_way_back(move)
        done = await self._carrier(move, "moved").transfer(
            Transfer(
                ticket=f"{ticket(self._stage, move.step)} {move.queue}",
                queue=move.queue,
                to=move.to,
                address=None if is_back else move.to,
                first=is_back,
                portion=burst(self._wanted.rate),
            )
        )
        return f"{counted(done, 'message')} of {move.queue} moved to {move.to}"

    async def _return(self, move: PlannedMove) -> str:
        return await self._act(
            move.to,
            str(self._wanted.verb),
            f"return {about(move)} of {move.queue} to {move.to}",
            expect=f"they wait in {move.to}, in their order",
            undo="those that are not consumed by then go back, as they were",
            do=lambda: returned(self._stage, self._wanted, move),
        )

    # --- how ---

    async def _act(
        self,
        target: str,
        verb: str,
        intent: str,
        *,
        expect: str,
        do: Callable[[], Awaitable[str]],
        undo: str | None = None,
    ) -> str:
        """One act with its intent and its result; of one that is over, its result. Raise StepFailed
        where it failed.
        """
        step, effects = self._wanted.step, self._stage.effects
        past = self._stage.recall.next(step, target)
        if past is not None and past.outcome is not None:
            if past.outcome.result is Result.FAILED:
                raise StepFailed(past.outcome.says)
            return past.outcome.says
        if past is None:
            effects.intend(step, target, intent, expect=expect, undo=undo, verb=verb)
        try:
            says = await do()
        except StepFailed as failed:
            effects.conclude(step, target, Result.FAILED, failed.says)
            raise
        effects.conclude(step, target, Result.DONE, says)
        return says

    def _carrier(self, move: PlannedMove, does: str) -> Carrier:
        return Carrier(self._stage, move.step, does, of=move.messages, rate=self._wanted.rate)

    def _chooser(self, noted: Noted | None = None) -> Callable[[StoredMessage], bool] | None:
        """Which are meant; None: all, and nothing need be known of them."""
        judge = self._wanted.judge(self._stage.params, self._stage.clock.now())
        if judge is None and noted is None:
            return None

        def choose(message: StoredMessage) -> bool:
            truth = Truth.HOLDS if judge is None else judge(message)
            self._unknown += truth is Truth.UNKNOWN
            if truth is not Truth.HOLDS:
                return False
            self._meant += 1
            if noted is not None:
                noted.note(message.id)
            return True

        return choose

    def _anew(self, done: int) -> None:
        """All are looked at from the beginning, and judged again."""
        self._unknown = self._meant = 0
        self._before = done

    def _rest(self) -> str:
        if not self._unknown:
            return ""
        return f" (of {self._unknown} it cannot be told whether they are meant: they stay)"

    async def _written(self, move: PlannedMove, source: str) -> Backup:
        """The file as this run wrote it, now or before."""
        path = Path(move.file)
        if backups.is_there(path):
            found = await read_through(path, self._store)
            if (found.header.run, found.header.step) == (self._stage.plan.run, move.step):
                return found
            raise StepFailed(f"{path} exists already: a backup is never written over")
        origin = parked(move.queue)
        header = Header(
            kind=self._store.kind,
            context=self._stage.plan.where.context,
            queue=move.queue if origin is None else origin.queue,
            at=self._stage.clock.now(),
            run=self._stage.plan.run,
            step=move.step,
            copied=source == move.queue,
        )
        return await self._carrier(move, "written").copy(source, path, header)


# --- the way back -------------------------------------------------------------------------------


async def take_back(stage: Stage, step: QueueStep, target: str) -> list[str]:
    """Give back what a step has parked, moved, purged or, to the queue `target`, returned, and say
    what came of it. Raise StepFailed or an OpsError.
    """
    moves = [move for move in stage.plan.moves if move.step == step.id]
    if step.verb in RETURNS:
        moves = [move for move in moves if move.to == target]
    return [await _take_back(stage, step.verb, move) for move in moves]


async def _take_back(stage: Stage, verb: QueueVerb, move: PlannedMove) -> str:
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
            says = await _unparked(stage, move, move.parked)
    except (StepFailed, OpsError) as error:
        effects.conclude(undoing, target, Result.FAILED, error.says)
        raise
    effects.conclude(undoing, target, Result.DONE, says)
    for suffix in ("", " undo", " back"):
        await effects.forget(_ticket(stage, move) + suffix)
    return says


async def _moved_back(stage: Stage, verb: QueueVerb, move: PlannedMove) -> str:
    """Those that are still there, first out of the other queue and then before those that wait."""
    moved = await Carrier(stage, move.step, "").counted(_ticket(stage, move))
    place = _place_of_undo(stage, move)
    way = Transfer(
        ticket=_ticket(stage, move) + " undo",
        queue=move.to,
        to=place,
        limit=moved,
    )
    if verb in RETURNS:
        before = AsTheyWere(stage, move.step)
        way = replace(way, choose=before.has, become=before.of)
    else:
        ids = Noted(stage, move.step).ids()
        way = replace(way, choose=lambda message: message.id in ids, address=move.queue)
    back = await Carrier(stage, move.step, "on their way back", of=moved).transfer(way)
    await _unparked(stage, move, place)
    gone = moved - back
    says = f"{back} of {counted(moved, 'message')} moved back to {move.queue}"
    return f"{says}; {gone} had been consumed meanwhile" if gone else says


async def _restored(stage: Stage, move: PlannedMove) -> str:
    """What is parked still goes back, and its copy is removed: else it could be restored beside.

    What was destroyed is put back from the file, under the ticket of any restore of it.
    """
    store, path = store_of(stage), Path(move.file)
    if await store.count(move.parked):
        backups.remove(path, stage.plan.run, move.step)
        return await _unparked(stage, move, move.parked)
    if not backups.is_there(path):
        return "nothing had been purged"
    backup = await read_through(path, store)
    carrier = Carrier(stage, move.step, "put back", of=backup.count)
    parked_ones = await carrier.counted(ticket(stage, move.step))
    if parked_ones < backup.count and not _is_destroyed(stage, move):
        raise _forgotten(move)
    done = await carrier.put(backup, queue=move.queue, ticket=backup.ticket, address=None)
    return f"{counted(done, 'message')} put back from {path}"


def _is_destroyed(stage: Stage, move: PlannedMove) -> bool:
    """Whether the run knows that what it parked was destroyed, and counts it no more."""
    return any(
        (act.step, act.target, act.verb) == (move.step, move.parked, "purge")
        and act.outcome is not None
        and act.outcome.result is Result.DONE
        for act in Recall.of(read(stage.journal.path)).acts
    )


def _forgotten(move: PlannedMove) -> StepFailed:
    """Restored as well, each message that is back in its queue would be there twice."""
    return StepFailed(
        f"the broker has forgotten what was parked in {move.parked}, as after a fail-over that lost"
        f" its last writes: nothing was destroyed by this run. Look whether the messages wait in"
        f" {move.queue} again; if they do not, {move.file} has them"
    )


async def _unparked(stage: Stage, move: PlannedMove, place: str) -> str:
    done = await Carrier(stage, move.step, "given back").transfer(
        Transfer(ticket=_ticket(stage, move) + " back", queue=place, to=move.queue, first=True)
    )
    return f"{counted(done, 'message')} given back to {move.queue}"


async def left_parked(stage: Stage) -> tuple[Owed, ...]:
    """What the run has parked and nobody has given back yet. Raise BrokerUnreachable."""
    store = stage.surveyor.broker.store
    left: list[Owed] = []
    told: set[str] = set()
    for move in stage.plan.moves if store is not None else ():
        places = (
            move.parked,
            _place_of_undo(stage, move) if move.to else "",
            move.queue if parked(move.queue) else "",
        )
        for place in places:
            if place in told:  # what is returned to several queues comes back by one
                continue
            told.add(place)
            there = await store.count(place) if store is not None and place else 0
            if there:
                mend = f"celery-ops queue unpark {shlex.quote(place)}"
                left.append(Owed(f"{counted(there, 'message')} of {move.queue} in {place}", mend))
    return tuple(left)


def ticket(stage: Stage, step: str) -> str:
    """What the messages of a step are counted under."""
    return f"{stage.plan.run} {step}"


def _ticket(stage: Stage, move: PlannedMove) -> str:
    return move.ticket or ticket(stage, move.step)


def _place_of_undo(stage: Stage, move: PlannedMove) -> str:
    return str(Parked(move.queue, stage.plan.run, f"{move.step}undo"))
