"""The verbs about messages: `backup`, `park`, `unpark`, `move`, `purge`, `restore: backup`.

Whatever changes is counted in the broker under a ticket, in the same step: of the run and the step,
or of the backup that is restored. So an act that was begun before is done again as it is, and goes
on.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.units import counted
from celery_ops.model import parked
from celery_ops.ports import Transfer
from celery_ops.runbook import backups
from celery_ops.runbook.backups import Header
from celery_ops.runbook.carrying import Carrier, Noted, burst, read_through
from celery_ops.runbook.events import Result
from celery_ops.runbook.expressions import Truth
from celery_ops.runbook.failure import StepFailed
from celery_ops.runbook.moves import RETURNS, Wanted, about, is_way_back
from celery_ops.runbook.moving_back import count_of, forgotten, take_back_move, ticket
from celery_ops.runbook.returning import returned
from celery_ops.runbook.schema import QueueStep, QueueVerb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from celery_ops.model import StoredMessage
    from celery_ops.runbook.backups import Backup
    from celery_ops.runbook.plan import PlannedMove
    from celery_ops.runbook.schema import Param, Runbook
    from celery_ops.runbook.stage import Stage


@dataclass(frozen=True, slots=True)
class Came:
    """What came of an act, and how many messages it is about. SKIPPED: it is begun anew, since what
    it rested on was forgotten by the broker.
    """

    says: str
    count: int | None = None
    result: Result = Result.DONE


class Moving:
    """One step of a run about messages."""

    def __init__(self, stage: Stage, step: QueueStep, params: Sequence[Param]) -> None:
        self._stage = stage
        self._wanted = Wanted.of(step, params, {"params": stage.params})
        self._store = stage.effects.store
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
        says = [(await does(move)).says for move in moves]
        if self._wanted.verb in RETURNS and moves:
            left = await self._carrier(moves[0], "").size(self._wanted.queue)
            says.append(f"{left} wait in {self._wanted.queue} now")
        return "; ".join(says)

    async def park_again(self, queue: str) -> None:
        """What this step has parked of a queue, where the broker has forgotten that it is parked.

        Raise StepFailed.
        """
        for move in self._stage.plan.moves:
            if move.step != self._wanted.step or move.queue != queue:
                continue
            while await self._is_forgotten(
                move, count_of(self._stage, move.step, move.queue, QueueVerb.PARK)
            ):
                says = f"{move.queue}: the broker has forgotten what was parked: it is parked again"
                self._stage.say(None, says, move.step)
                await self._park(move)

    # --- the verbs ---

    async def _backup(self, move: PlannedMove) -> Came:
        return await self._act(
            move.queue,
            "backup",
            f"copy {about(move)} to {move.file}",
            expect="the file is whole, as its checksum says",
            do=lambda: self._copied(move),
        )

    async def _copied(self, move: PlannedMove) -> Came:
        carrier = self._carrier(move, "")
        before = await carrier.size(move.queue)
        backup = await self._written(move, move.queue)
        after = await carrier.size(move.queue)
        return Came(
            f"{counted(backup.count, 'message')} of {move.queue} copied to {move.file}"
            f" ({before} waited there before, {after} after; what workers held is not among them)",
            backup.count,
        )

    async def _park(self, move: PlannedMove) -> Came:
        return await self._act(
            move.queue,
            "park",
            f"move {about(move)} to {move.parked}, as they are",
            expect="they wait there, where nobody consumes",
            undo="they go back, to be served first",
            do=lambda: self._parked(move),
        )

    async def _parked(self, move: PlannedMove) -> Came:
        carrier = self._carrier(move, "parked")
        done = await carrier.transfer(
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
        says = f"{counted(done, 'message')} of {move.queue} parked in {move.parked}{self._rest()}"
        return Came(says + carrier.missing, done)

    async def _move(self, move: PlannedMove) -> Came:
        return await self._act(
            move.queue,
            "move",
            f"move {about(move)} to {move.to}, addressed to it",
            expect=f"they wait in {move.to}, in their order",
            undo="those that are not consumed by then go back",
            do=lambda: self._moved(move),
        )

    async def _moved(self, move: PlannedMove) -> Came:
        noted = Noted(self._stage, move.step)
        carrier = self._carrier(move, "moved")
        transfer = Transfer(
            ticket=ticket(self._stage, move.step),
            queue=move.queue,
            to=move.to,
            choose=self._chooser(noted),
            limit=self._wanted.limit,
            address=move.to,
            portion=burst(self._wanted.rate),
        )
        try:
            done, left = await carrier.settled(
                lambda: carrier.transfer(transfer, self._anew), transfer.ticket, move.queue
            )
        except OSError as error:
            says = f"what moves cannot be noted beside the journal: {error.strerror or error}"
            raise StepFailed(says) from error
        finally:
            noted.close()
        says = f"{counted(done, 'message')} of {move.queue} moved to {move.to}{self._rest()}"
        stayed = self._meant - (done - self._before)
        if stayed > 0:
            says += f"; {stayed} more did not go: consumed meanwhile, or no messages of Celery's"
        return Came(f"{says}{carrier.missing}; {left} wait in {move.queue} now", done)

    async def _purge(self, move: PlannedMove) -> Came:
        """First out of the way, then to the disk, and only then destroyed: just those."""
        while True:
            known = (await self._park(move)).count
            is_begun = self._stage.recall.peek(move.step, move.parked) is not None
            if is_begun or await self._carrier(move, "").size(move.parked):
                if (await self._secure(move, known)).result is not Result.SKIPPED:
                    break
            elif not await self._is_forgotten(move, known):
                return Came(f"nothing was left to be purged in {move.queue}", 0)
            says = f"{move.queue}: the broker has forgotten what was parked: it is parked again"
            self._stage.say(None, says, move.step)
        return await self._act(
            move.parked,
            "purge",
            f"destroy {move.parked}",
            expect="there is no such queue",
            undo=f"they are put back from {move.file}",
            do=lambda: self._destroyed(move, known),
        )

    async def _secure(self, move: PlannedMove, known: int | None) -> Came:
        try:
            return await self._act(
                move.parked,
                "backup",
                f"copy what is parked to {move.file}",
                expect="the file is whole, as its checksum says",
                do=lambda: self._secured(move, known),
            )
        except StepFailed as failed:
            await take_back_move(self._stage, QueueVerb.PARK, move)
            raise StepFailed(f"{failed.says}; the messages are back in {move.queue}") from failed

    async def _secured(self, move: PlannedMove, known: int | None) -> Came:
        backup = await self._written(move, move.parked)
        lost = await self._is_forgotten(move, known)
        # Before the file goes, what it has must be somewhere else, too.
        if lost and await self._carrier(move, "").size(move.parked) == backup.count:
            backups.remove(backup.path, self._stage.plan.run, move.step)
            says = "not all is there: the broker has forgotten that it was parked"
            return Came(says, backup.count, Result.SKIPPED)
        return Came(f"{counted(backup.count, 'message')} written to {move.file}", backup.count)

    async def _destroyed(self, move: PlannedMove, known: int | None) -> Came:
        backup = await read_through(Path(move.file), self._store)
        carrier = self._carrier(move, "")
        while True:  # a fail-over may have lost it
            drop = partial(self._stage.effects.drop, move.parked, backup.count)
            there = await carrier.patiently(drop)
            if not there:  # it was done now, or before
                break
            if there != backup.count:
                raise StepFailed(
                    f"{move.parked} has {there} messages and {move.file} {backup.count}:"
                    " nothing was destroyed"
                )
        if await carrier.counted(ticket(self._stage, move.step)) < backup.count:
            raise forgotten(move)
        says = (
            f"{counted(backup.count, 'message')} of {move.queue} purged; give them back with:"
            f" {self._stage.plan.where.command(f'queue restore {shlex.quote(move.file)}')}"
        )
        more = (known or 0) - backup.count
        if more > 0:
            says += (
                f"; {more} more had been parked and were not there any more, so they were not"
                " destroyed: somebody gave them back, or the broker has forgotten that they moved"
            )
        return Came(says, backup.count)

    async def _restore(self, move: PlannedMove) -> Came:
        return await self._act(
            move.to,
            "put",
            f"put {about(move)} of {move.file} into {move.to}",
            expect="they wait there, each once",
            do=lambda: self._put(move),
        )

    async def _put(self, move: PlannedMove) -> Came:
        backup = await read_through(Path(move.file), self._store)
        if not move.ticket.startswith(backup.ticket):
            raise StepFailed(f"{move.file} is another backup than the one that was planned")
        carrier = self._carrier(move, "put back")
        done, there = await carrier.settled(
            lambda: carrier.put(
                backup,
                queue=move.to,
                ticket=move.ticket,
                address=None if move.to == move.queue else move.to,
            ),
            move.ticket,
            move.to,
        )
        says = f"{counted(done, 'message')} of {move.file} put into {move.to}"
        return Came(f"{says}; {there} wait there now", done)

    async def _unpark(self, move: PlannedMove) -> Came:
        return await self._act(
            move.queue,
            "unpark",
            f"move {about(move)} to {move.to}",
            expect=f"they wait in {move.to}",
            do=lambda: self._unparked(move),
        )

    async def _unparked(self, move: PlannedMove) -> Came:
        is_back = is_way_back(move)
        carrier = self._carrier(move, "moved")
        done = await carrier.transfer(
            Transfer(
                ticket=f"{ticket(self._stage, move.step)} {move.queue}",
                queue=move.queue,
                to=move.to,
                address=None if is_back else move.to,
                first=is_back,
                portion=burst(self._wanted.rate),
            )
        )
        says = f"{counted(done, 'message')} of {move.queue} moved to {move.to}{carrier.missing}"
        return Came(says + self._shortfall(move, done), done)

    async def _return(self, move: PlannedMove) -> Came:
        return await self._act(
            move.to,
            str(self._wanted.verb),
            f"return {about(move)} of {move.queue} to {move.to}",
            expect=f"they wait in {move.to}, in their order",
            undo="those that are not consumed by then go back, as they were",
            do=lambda: self._returned(move),
        )

    async def _returned(self, move: PlannedMove) -> Came:
        done = await returned(self._stage, self._wanted, move)
        return Came(f"{counted(done, 'message')} of {move.queue} returned to {move.to}", done)

    # --- how ---

    async def _act(
        self,
        target: str,
        verb: str,
        intent: str,
        *,
        expect: str,
        do: Callable[[], Awaitable[Came]],
        undo: str | None = None,
    ) -> Came:
        """One act with its intent and its result; of one that is over, its result. Raise StepFailed
        where it failed.
        """
        step, effects = self._wanted.step, self._stage.effects
        past = self._stage.recall.next(step, target)
        if past is not None and past.outcome is not None:
            if past.outcome.result is Result.FAILED:
                raise StepFailed(past.outcome.says)
            return Came(past.outcome.says, past.count, past.outcome.result)
        if past is None:
            effects.intend(step, target, intent, expect=expect, undo=undo, verb=verb)
        try:
            came = await do()
        except StepFailed as failed:
            effects.conclude(step, target, Result.FAILED, failed.says)
            raise
        effects.conclude(step, target, came.result, came.says, came.count)
        return came

    async def _is_forgotten(self, move: PlannedMove, known: int | None) -> bool:
        """Whether the broker counts fewer under the step's ticket than so many (None: not told)."""
        now = await self._carrier(move, "").counted(ticket(self._stage, move.step))
        return now < (known or 0)

    def _shortfall(self, move: PlannedMove, done: int) -> str:
        """What was parked by this run and was not there any more."""
        place = parked(move.queue)
        if place is None or place.run != self._stage.plan.run:
            return ""
        were = count_of(self._stage, place.step, place.queue, QueueVerb.PARK) or 0
        if done >= were:
            return ""
        return (
            f"; {were - done} more had been parked and were not there any more: somebody gave them"
            " back, or the broker has forgotten that they moved"
        )

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


async def park_again(stage: Stage, runbook: Runbook, step: QueueStep) -> None:
    """Before a queue is given back to its consumers: what this run has parked of it is parked
    still, or again where a fail-over has lost that. Raise StepFailed.
    """
    queue = "" if step.queue is None else stage.value(step.queue)
    begun = stage.recall.peek(step.id, queue)
    if begun is not None and begun.outcome is not None:
        return
    for one in runbook.steps:
        if isinstance(one, QueueStep) and one.verb is QueueVerb.PARK:
            await Moving(stage, one, runbook.params).park_again(queue)
