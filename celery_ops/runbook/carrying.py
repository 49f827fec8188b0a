"""Carries messages for a run, portion by portion: at a rate, with progress, and through a broker's
absence. Whatever is done again goes on where it was, by the ticket it is counted under.
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from celery_ops.config.units import as_duration
from celery_ops.errors import BrokerUnreachable, InvalidDocument
from celery_ops.runbook import backups
from celery_ops.runbook.backups import Header, Writer
from celery_ops.runbook.failure import StepFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from celery_ops.model import StoredMessage
    from celery_ops.ports import MessageStore, Transfer, Transferred
    from celery_ops.runbook.backups import Backup
    from celery_ops.runbook.stage import Stage

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds without any progress for which a broker that is away is tried again."""
BETWEEN_TRIES = 2.0
BETWEEN_WORDS = 2.0
"""Seconds between two lines of progress."""
_BURSTS = 5
"""A rate is kept in portions of so many a second."""
_COMES_BACK = 10.0
"""Seconds: a master that was started again, empty, answers until its sentinels have told it that
another one is the master now.
"""
_CAUGHT_UP = 0.5
"""Seconds of delay that are made up for: after a pause, or while the broker was away, what was not
moved must not come at once.
"""


def burst(rate: float | None) -> int | None:
    """The most messages that are moved at once, to keep a rate (a second)."""
    return None if rate is None else max(1, int(rate / _BURSTS))


class Carrier:
    """The way of one act's messages, under one ticket. `of` is about how many there are, and `does`
    what is told of them.

    Between two portions the run can be paused and aborted.
    """

    def __init__(
        self, stage: Stage, step: str, does: str, *, of: int = 0, rate: float | None = None
    ) -> None:
        self._stage = stage
        self._step = step
        self._does = does
        self._of = of
        self._rate = rate
        self._known = self._most = self._missing = 0
        self._paced: tuple[float, int] | None = None
        self._told_at = stage.clock.monotonic()
        self._lives = self._told_at
        """When something was last seen to happen."""

    async def counted(self, ticket: str) -> int:
        """How many have gone under it."""
        return await self.patiently(lambda: self._stage.effects.store.counted(ticket))

    async def size(self, queue: str) -> int:
        """How many wait there."""
        return await self.patiently(lambda: self._stage.effects.store.count(queue))

    async def transfer(self, transfer: Transfer, anew: Callable[[int], None] | None = None) -> int:
        """Move them; how many have gone under the ticket. Raise StepFailed or Aborted.

        `anew` is told how many have gone so far whenever all are looked at from the beginning: also
        where the broker has forgotten some, which then move again.
        """
        await self.pace(await self.counted(transfer.ticket))

        async def first() -> None:
            before, self._known = (
                self._known,
                await self._stage.effects.store.counted(transfer.ticket),
            )
            if self._known < before:
                gone = before - self._known
                says = f"the broker has forgotten that {gone} of {before} were moved"
                self._stage.say(None, f"{says}: whatever it has now is looked at", self._step)
            if anew is not None:
                anew(self._known)

        async def then(portion: Transferred) -> None:
            self._known = max(self._known, portion.done)
            self._most = max(self._most, self._known)
            await self.pace(portion.done)

        is_patient = False
        while True:
            await self.patiently(lambda: self._stage.effects.transfer(transfer, first, then))
            there = await self.counted(transfer.ticket)
            if there < self._known:
                continue
            self._missing = self._most - there
            if self._missing <= 0 or is_patient:
                return there
            is_patient = True
            says = f"{self._missing} that were moved are not counted: all is looked at once more"
            self._stage.say(None, f"{says} in {as_duration(_COMES_BACK)}", self._step)
            await self._stage.brake.sleep(_COMES_BACK)

    async def settled(
        self, carry: Callable[[], Awaitable[int]], ticket: str, queue: str
    ) -> tuple[int, int]:
        """Carry, and look how many wait in a queue then; how many were carried, and how many wait.

        Again, where the broker has forgotten some of it by the time of that look.
        """
        while True:
            done = await carry()
            there = await self.size(queue)
            if await self.counted(ticket) >= done:
                return done, there

    @property
    def missing(self) -> str:
        """What the result of a transfer has to say of those that had gone, and did not go again
        after the broker had forgotten it; empty: there are none.
        """
        if self._missing <= 0:
            return ""
        return (
            f"; {self._missing} more had gone, which the broker has forgotten, and they were not"
            " found again: consumed meanwhile, or lost with its last writes"
        )

    async def put(self, backup: Backup, *, queue: str, ticket: str, address: str | None) -> int:
        """Put the messages of a backup into a queue; how many there are under the ticket."""
        while True:
            done = await self._put_rest(backup, queue=queue, ticket=ticket, address=address)
            there = await self.counted(ticket)
            if there >= done:
                return done
            says = f"the broker has forgotten {done - there} of {done}: they are put there again"
            self._stage.say(None, says, self._step)

    async def _put_rest(
        self, backup: Backup, *, queue: str, ticket: str, address: str | None
    ) -> int:
        """Those that are not counted yet; how many are in the end, unless some are forgotten."""
        effects = self._stage.effects
        store = effects.store
        done = await self.counted(ticket)
        await self.pace(done)
        portions = backup.portions(done, backwards=store.puts_first, most=burst(self._rate))
        for portion in portions:

            async def send(done: int = done, portion: backups.Portion = portion) -> bool:
                return await effects.put(
                    portion, queue=queue, ticket=ticket, done=done, address=address
                )

            was_put = await self.patiently(send)
            there = done + len(portion) if was_put else await self.counted(ticket)
            if there < done:
                return done
            done += len(portion)
            if there != done:
                raise StepFailed("somebody else restores the same backup at this moment")
            await self.pace(done)
        return done

    async def copy(self, queue: str, path: Path, header: Header) -> Backup:
        """Write a queue to a file, and read that through."""
        store = self._stage.effects.store

        async def write() -> None:
            with Writer(path, header) as writer:
                async with aclosing(store.read(queue)) as portions:
                    async for portion in portions:
                        writer.add(portion)
                        await self.pace(writer.count)
                writer.seal()

        try:
            await self.patiently(write)
        except OSError as error:
            raise StepFailed(f"{path} cannot be written: {error.strerror or error}") from error
        return await read_through(path, store)

    async def pace(self, done: int) -> None:
        """A portion is over: tell of it, let the operator have a word, and keep the rate."""
        stage = self._stage
        now = self._lives = stage.clock.monotonic()
        if now - self._told_at > BETWEEN_WORDS:
            self._told_at = now
            of = f" of about {self._of:,}" if self._of > done else ""
            stage.say(None, f"{done:,}{of} {self._does}", self._step)
        await stage.safe_point()
        if self._rate is not None:
            now = stage.clock.monotonic()
            since, before = self._paced or (now, done)
            due = max(since + (done - before) / self._rate, now - _CAUGHT_UP)
            self._paced = (due, done)
            await stage.brake.sleep(max(0.0, due - now))
            self._lives = stage.clock.monotonic()

    async def patiently(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do it, and again where the broker went away in the midst of it. Raise StepFailed."""
        while True:
            try:
                return await do()
            except BrokerUnreachable as error:
                if self._stage.clock.monotonic() - self._lives > PATIENCE:
                    says = f"{error.says} (tried again for {as_duration(PATIENCE)})"
                    raise StepFailed(says) from error
                self._stage.say(None, f"{error.says} It is tried again.", self._step)
                await self._stage.brake.sleep(BETWEEN_TRIES)


class Noted:
    """The messages that a step may have moved, in a file beside the run's journal: their ids, or
    all of them as they were, where they change on the way.

    Each is written before its message goes: what was moved can be found again.
    """

    def __init__(self, stage: Stage, step: str) -> None:
        self._path = stage.journal.path.with_suffix(f".{step}.moved")
        self._file: int | None = None

    def note(self, id_: str | None) -> None:
        if id_ is not None:
            self._add(id_)

    def keep(self, message: StoredMessage, goes: StoredMessage) -> None:
        """As it was; it is found by what `goes` in its place. One without an id is not."""
        if goes.id is not None:
            raw = base64.b64encode(message.raw).decode()
            self._add([goes.id, goes.retries, raw])

    def ids(self) -> frozenset[str]:
        """All that were noted; a line that a crash has cut is left out."""
        return frozenset(self._lines())

    def kept(self) -> dict[tuple[str, int | None], list[bytes]]:
        """Those that were kept, by id and retries: as they were, each once."""
        found: dict[tuple[str, int | None], dict[bytes, None]] = {}
        for id_, retries, raw in self._lines():
            found.setdefault((id_, retries), {})[base64.b64decode(raw)] = None
        return {key: list(raws) for key, raws in found.items()}

    def _add(self, value: object) -> None:
        if self._file is None:
            mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._file = os.open(self._path, mode, 0o600)
            if self._is_cut():
                os.write(self._file, b"\n")
        os.write(self._file, json.dumps(value).encode() + b"\n")

    def _lines(self) -> list[Any]:
        if not self._path.exists():
            return []
        return [
            value
            for line in self._path.read_bytes().split(b"\n")[:-1]
            if (value := _noted(line)) is not None
        ]

    def _is_cut(self) -> bool:
        """Whether a crash has cut its last line."""
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read() not in {b"", b"\n"}

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _noted(line: bytes) -> object:
    """None for a line that is cut."""
    try:
        return json.loads(line)
    except ValueError:
        return None


async def read_through(path: Path, store: MessageStore) -> Backup:
    """A backup that can be put back on this broker; raise StepFailed if it is not whole."""
    try:
        return await backups.read(path, kind=store.kind)
    except InvalidDocument as error:
        raise StepFailed(str(error)) from error
