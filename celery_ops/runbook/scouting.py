"""Looks, when a plan is made, at what the steps about messages would be done to. Changes nothing.

Of a long queue no more is looked at than can be in a moment: what was counted then is `about`.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.config.document import shown
from celery_ops.config.units import counted
from celery_ops.errors import PreconditionFailed, UsageError
from celery_ops.fleet.peeking import MOST_LOOKED_AT, look
from celery_ops.model import Parked, parked
from celery_ops.model.holding import behind
from celery_ops.runbook import backups, dead_letters, held_queues, moves
from celery_ops.runbook.leaving_out import is_left_out
from celery_ops.runbook.looks import Found, estimate, known, marking, nothing, of_a_look
from celery_ops.runbook.moves import Wanted
from celery_ops.runbook.plan import PlannedMove, PlannedSieve, PlannedStep
from celery_ops.runbook.probes import listed
from celery_ops.runbook.queue_judges import likely_name
from celery_ops.runbook.schema import CheckStep, ConfirmStep, NotifyStep, QueueStep, QueueVerb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Broker, MessageStore
    from celery_ops.runbook.schema import Runbook, Value

_NO_STORE = "the messages of this kind of broker can be looked at here, and not be moved"
_SHOWN_OF_A_QUEUE = 60
_ASIDE = CheckStep | ConfirmStep | NotifyStep
"""Steps that change nothing."""


@dataclass(frozen=True, slots=True)
class Scouted:
    """What was found out about a step: how it is planned, why it must not be done, and what has to
    be known before.
    """

    planned: PlannedStep
    moves: tuple[PlannedMove, ...] = ()
    refusals: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()
    sieves: tuple[PlannedSieve, ...] = ()


class Scout:
    """For one plan. `backups` is the directory of files that have no name of their own."""

    def __init__(
        self, broker: Broker, snapshot: FleetSnapshot, *, run: str, context: str, backups: Path
    ) -> None:
        self._broker = broker
        self._snapshot = snapshot
        self._run = run
        self._context = context
        self._backups = backups
        self._is_alone = True
        """The step that is looked at is all that the runbook is about."""
        self._parks: list[PlannedMove] = []
        """What steps before it will have parked."""

    async def look(
        self, runbook: Runbook, params: Mapping[str, Value], now: datetime
    ) -> dict[str, Scouted]:
        """By the ids of the steps. Raise UsageError, InvalidDocument or BrokerUnreachable."""
        found = {}
        self._is_alone = sum(not isinstance(step, _ASIDE) for step in runbook.steps) == 1
        for step in runbook.steps:
            if not isinstance(step, QueueStep) or step.verb not in moves.VERBS:
                continue
            if not is_left_out(step, params):
                wanted = Wanted.of(step, runbook.params, {"params": params})
                found[step.id] = one = await self._step(wanted, params, now)
                self._parks += one.moves if wanted.verb is QueueVerb.PARK else ()
        return found

    async def _step(self, wanted: Wanted, params: Mapping[str, object], now: datetime) -> Scouted:
        store = self._broker.store
        if store is None:
            return _refused(wanted, _NO_STORE)
        held = held_queues.in_the_way(wanted.queue, self._snapshot)
        if behind(wanted.to) is not None:
            held += held_queues.in_the_way(wanted.to, self._snapshot)
        if held:
            return _refused(wanted, held[0])
        try:
            match wanted.verb:
                case QueueVerb.RESTORE:
                    found = await self._of_backup(store, wanted)
                case QueueVerb.UNPARK:
                    found = await self._of_parked(store, wanted)
                case QueueVerb.RETURN | QueueVerb.UNWRAP:
                    found = await self._of_dead_letters(store, wanted, params, now)
                case _:
                    found = await self._of_queue(store, wanted, params, now)
        except PreconditionFailed as error:
            return _refused(wanted, f"{error.says} {error.fix}" if error.fix else error.says)
        done = [
            action
            for move in found.moves
            for action in moves.actions(
                wanted, move, first=store.puts_first, snapshot=self._snapshot
            )
        ]
        hazards = [*found.hazards, *self._unconsumed(found)]
        return Scouted(
            PlannedStep(wanted.step, wanted.says, actions=tuple(done)),
            found.moves,
            tuple(f"step {wanted.step}: {says}" for says in found.refusals),
            tuple(hazards),
        )

    # --- of a queue ---

    async def _of_queue(
        self,
        store: MessageStore,
        wanted: Wanted,
        params: Mapping[str, object],
        now: datetime,
    ) -> Found:
        queue = wanted.queue
        refusals = _misdirected(wanted)
        judge = wanted.judge(params, now)
        if wanted.verb is QueueVerb.BACKUP and store.marks:
            await store.peek(queue, skip=0, count=0)  # refused where a look wears messages out
        if judge is None:
            found, surely, hazards = await store.count(queue), True, []
        else:
            seen = await look(
                store,
                queue,
                skip=0,
                limit=MOST_LOOKED_AT,
                wants=lambda message: known(judge(message)),
            )
            found, surely, hazards = (
                estimate(seen, len(seen.wanted)),
                seen.left == 0,
                of_a_look(seen, wanted),
            )
        if found == 0 and surely and self._is_alone:
            hint = likely_name(queue, self._snapshot)
            refusals += [f"there is nothing to do: {nothing(wanted)}{hint}"]
        if store.marks and found and (judge is not None or wanted.verb is QueueVerb.BACKUP):
            hazards = [*hazards, marking(wanted)]
        file = ""
        if wanted.verb in {QueueVerb.BACKUP, QueueVerb.PURGE}:
            path = self._file(wanted)
            file, refusals = str(path), refusals + _unwritable(path, is_named=bool(wanted.file))
        move = PlannedMove(
            step=wanted.step,
            queue=queue,
            messages=found if wanted.limit is None else min(found, wanted.limit),
            surely=surely or (wanted.limit is not None and found > 2 * wanted.limit),
            to=wanted.to,
            parked=str(Parked(queue, self._run, wanted.step))
            if wanted.verb in {QueueVerb.PARK, QueueVerb.PURGE}
            else "",
            file=file,
        )
        return Found((move,), refusals, [*hazards, *self._in_use(wanted)])

    def _in_use(self, wanted: Wanted) -> list[str]:
        """What else has to be known of the queue they are taken from."""
        queue = wanted.queue
        says = []
        now = next((one for one in self._snapshot.queues if one.name == queue), None)
        if now is not None and now.unacked:
            says.append(
                f"{counted(now.unacked, 'message')} of {queue} {_are(now.unacked)} held by workers"
                " now: no part of it, and they may come back"
            )
        used_by = listed(one.name for one in self._snapshot.consumers_of(queue))
        if used_by and wanted.verb is QueueVerb.BACKUP:
            says.append(
                f"{queue} is in use ({used_by} consume it): the file is no picture of one moment,"
                " some may be missing or have run"
            )
        return says

    def _file(self, wanted: Wanted) -> Path:
        if wanted.file:
            return _named(wanted.file)
        queue = "".join(mark if mark.isalnum() or mark in "-_." else "_" for mark in wanted.queue)
        name = f"{queue[:_SHOWN_OF_A_QUEUE]}-{self._run}-{wanted.step}.backup"
        return self._backups.absolute() / name.lstrip(".")

    # --- on the way back ---

    async def _of_parked(self, store: MessageStore, wanted: Wanted) -> Found:
        """All that is parked of a queue, or in one queue of parked messages: the newest first,
        since each goes before those that wait.
        """
        named = parked(wanted.queue)
        reading = await self._broker.queues([wanted.queue] if named else [])
        places = {one.name: parked(one.name) for one in reading.queues}
        found = sorted(
            (place for name, place in places.items() if place and wanted.queue in
             {name, place.queue}),
            key=lambda place: (place.run, place.step),
            reverse=True,
        )  # fmt: skip
        going = [
            PlannedMove(wanted.step, one.parked, one.messages, one.surely, wanted.to or one.queue)
            for one in reversed(self._parks)
            if one.queue == wanted.queue
        ]
        refusals, hazards = [], []
        for place in found:
            count = await store.count(str(place))
            to = wanted.to or place.queue
            if to == str(place):
                refusals.append(f"{to} is where they are parked")
            if count:
                going.append(PlannedMove(wanted.step, str(place), count, to=to))
            if to != place.queue:
                hazards.append(f"parked messages of {place.queue} go to {to}, another queue")
        if not going:
            hint = likely_name(wanted.queue, self._snapshot)
            refusals.append(_nothing_parked(wanted.queue, reading.unlisted) + hint)
        return Found(tuple(going), refusals, list(dict.fromkeys(hazards)))

    async def _of_backup(self, store: MessageStore, wanted: Wanted) -> Found:
        path = _named(wanted.file)
        if not path.exists():
            raise UsageError(
                f"There is no file {path}.",
                fix=f"Backups that were given no name are in {self._backups.absolute()}; what a run"
                " wrote is told by celery-ops runs show ID.",
            )
        backup = await backups.read(path, kind=store.kind)
        ticket = backup.ticket + (f" {wanted.again}" if wanted.again else "")
        done = await store.counted(ticket)
        header = backup.header
        refusals, hazards = [], []
        if done >= backup.count:
            again = f"-p again={'NAME' if not wanted.again else 'ANOTHER-NAME'}"
            refusals.append(
                f"{path} was restored before, all {counted(backup.count, 'message')} of it;"
                f" once more, as new messages: {again}"
                if backup.count
                else f"there is nothing to do: {path} has no messages"
            )
        elif done:
            hazards.append(f"{done} of the {backup.count} messages of {path} were put back before")
        if wanted.again and not done:
            hazards.append(f"{path} is restored once more: its messages may run a second time")
        if header.copied:
            hazards.append(
                f"{path} is a copy: its messages were left in {header.queue}, and those that wait"
                " there or have run since will be there, or run, twice"
            )
        if header.context != self._context:
            hazards.append(f"{path} was written of the context {shown(header.context)}")
        queue = wanted.queue or header.queue
        if queue != header.queue:
            hazards.append(f"messages of {header.queue} go to {queue}, another queue")
        move = PlannedMove(
            step=wanted.step,
            queue=header.queue,
            messages=backup.count - done,
            to=queue,
            file=str(path),
            ticket=ticket,
        )
        return Found((move,), refusals, hazards)

    async def _of_dead_letters(
        self, store: MessageStore, wanted: Wanted, params: Mapping[str, object], now: datetime
    ) -> Found:
        found = await dead_letters.scouted(
            store, wanted, params=params, now=now, run=self._run, snapshot=self._snapshot
        )
        if not found.moves and not found.refusals and self._is_alone:
            stay = "".join(f"; {says}" for says in found.hazards)
            hint = likely_name(wanted.queue, self._snapshot)
            found.refusals.append(f"there is nothing to do: {nothing(wanted)}{hint}{stay}")
        return found

    def _unconsumed(self, found: Found) -> list[str]:
        """Destinations where they would only wait."""
        names = dict.fromkeys(move.to for move in found.moves if move.to)
        return [
            f"nobody is seen to consume {name}: messages wait there until somebody does"
            for name in names
            if not self._snapshot.consumers_of(name)
        ]


def _refused(wanted: Wanted, says: str) -> Scouted:
    planned = PlannedStep(wanted.step, wanted.says)
    return Scouted(planned, refusals=(f"step {wanted.step}: {says}",))


def _misdirected(wanted: Wanted) -> list[str]:
    if wanted.verb is not QueueVerb.MOVE:
        return []
    if not wanted.to:
        return ["it is not said where they go: -p to=QUEUE"]
    if wanted.to == wanted.queue:
        return [f"{wanted.to} is where they are: nothing would move"]
    if parked(wanted.to) is not None:
        return [f"{wanted.to} is a queue of parked messages: nobody consumes it"]
    return []


def _named(file: str) -> Path:
    return Path(file).expanduser().absolute()


def _nothing_parked(queue: str, unlisted: str) -> str:
    """`unlisted`: why some may not have been found."""
    if not unlisted:
        return f"there is nothing to do: nothing of {queue} is parked"
    return (
        f"nothing of {queue} was found parked, and it cannot be told whether something is"
        f" ({unlisted.rstrip('.')}): name the queue that it is in, as the run told that parked it"
        " (celery-ops runs show)"
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _unwritable(path: Path, *, is_named: bool) -> list[str]:
    """Why a backup cannot be written there, so that nothing is moved for it. The directory of one
    that the operator has named is not made: a slip of the pen would hide it.
    """
    if path.exists():
        return [f"{path} exists already: a backup is never written over"]
    if is_named and not path.parent.exists():
        return [f"there is no directory {path.parent}: mkdir -p {shlex.quote(str(path.parent))}"]
    place = next(one for one in path.parents if one.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return []
    return [f"{path} cannot be written: {place} is not writable"]
