"""Moves the messages that wait in a queue on Redis, each in one step with the lease and its count.

Producers and consumers go on meanwhile: they push on the left of a list and take from its right
end. So a walk over a list begins on the right, and finds its place again before each portion by the
last message that it passed. What was read is compared again in the script that moves it.

A fail-over can lose the last portions: the messages are back where they came from then, and the
count, which was lost with them, tells. Nothing is known of their places any more, so the walk ends
with that as its error, and begins anew when it is asked for again.

Where much was passed over, each portion costs more: Redis looks at all that lies between the
portion and the nearer end of the list, whatever the portion's size. What else keeps the server for
long makes portions smaller.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.broker import envelopes, moving_scripts
from celery_ops.broker.first_in_line import FirstInLine
from celery_ops.errors import BrokerUnreachable, LeaseLost, PreconditionFailed
from celery_ops.model import parked
from celery_ops.ports import SENT_KEPT, Divided, Transferred

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Answer, Wire, Word
    from celery_ops.model import StoredMessage
    from celery_ops.ports import Division, Fence, Transfer

PORTION = 500
"""Messages in one script: it keeps the server from everything else."""
_LEAST = 200
_SLOW, _QUICK = 0.008, 0.003
"""Seconds: a portion of messages that are picked is halved above the one, doubled below the other.
"""
_PICKED = 150
"""Messages that are taken out of the midst of a list at once: some 20 us each."""
_A_MESSAGE_PASSED = 0.05e-6
"""Seconds, of any portion."""
_BYTES_A_SCRIPT = 512 * 1024
_FIRST_PORTION = 50
_DIVIDED = 100
"""Messages of a priority step that are divided in one script."""
_ARRIVED = 500
"""Messages that are where they are divided, at most."""
_CHOSEN, _REST = 3, 4
"""Their keys in that script."""
_SLACK = 64
"""So many may be consumed between two portions without a second look for the place."""


class MessageMover:
    """Implements what `ports.MessageStore` has beyond reading, on one Redis."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names
        self._portions: dict[str, int] = {}
        """How many of a list that is divided are read at once, by the size of those before."""
        self._line: FirstInLine | None = None
        """Who stands before workers; told what waits as it is divided."""

    async def transfer(
        self, transfer: Transfer, *, fence: Fence
    ) -> AsyncGenerator[Transferred, None]:
        """As the port says; of each step at most as many as there were at the beginning."""
        seen = 0
        done = await self.counted(transfer.ticket)
        lengths = await self._lengths(transfer.queue)
        for step, length in zip(self._names.steps, lengths, strict=True):
            way = _Way(self._wire, self._names, transfer, step, fence, done)
            before = seen
            async for one in way.pass_on(length) if way.is_blind else way.walk(length):
                done, seen = one.done, before + one.seen
                yield Transferred(done, seen)
        _check_known(done, await self.counted(transfer.ticket))

    def first_in_line(self) -> FirstInLine:
        self._line = FirstInLine(self._wire, self._names)
        return self._line

    async def divide(self, division: Division, *, fence: Fence) -> Divided:
        """As the port says; of each priority step one portion."""
        chosen = rest = 0
        for step, raws in (await self._arrived(division, fence)).items():
            words: list[Word] = []
            for raw in raws:
                is_chosen = division.choose(envelopes.stored(raw, step))
                words += [_CHOSEN if is_chosen else _REST, raw]
            places = [self._names.key(queue, step) for queue in
                      (division.arrived, division.chosen, division.rest)]  # fmt: skip
            went = await self._run(moving_scripts.DIVIDE, places, fence, *words)
            if went[0] == -1:
                raise _no_queue(f"{division.arrived}, {division.chosen} or {division.rest}")
            chosen, rest = chosen + int(went[0]), rest + int(went[1])
        return Divided(chosen, rest)

    async def _arrived(self, division: Division, fence: Fence) -> dict[int, list[bytes]]:
        """What is there to be divided, by priority steps; the one that is served next first."""
        steps, keys = self._names.steps, self._names.keys(division.arrived)
        sizes = [self._portions.get(key, _FIRST_PORTION) for key in keys]
        answers = await self._wire.read_many(
            [("LRANGE", key, -size, -1) for key, size in zip(keys, sizes, strict=True)]
            + [("LLEN", key) for key in self._names.keys(division.queue)],
            at_once=False,
        )
        there, left = answers[: len(keys)], answers[len(keys) :]
        found: dict[int, list[bytes]] = {}
        for step, key, size, arrived, waits in zip(steps, keys, sizes, there, left, strict=True):
            raws = _of_a_list(arrived, division.arrived, self._wire)
            waiting = int(_of_a_list(waits, division.queue, self._wire))
            comes = self._names.key(division.queue, step)
            if self._line is not None:
                self._line.found(comes, waiting)
            if waiting and len(raws) < size:
                raws = await self._run(moving_scripts.GATHER, (comes, key), fence, _ARRIVED, size)
                if raws == -1:
                    raise _no_queue(f"{division.queue} or {division.arrived}")
            if raws:
                found[step] = raws[::-1]
                self._portions[key] = _next_portion(raws, _DIVIDED)
        return found

    async def put(
        self,
        messages: Sequence[StoredMessage],
        *,
        queue: str,
        ticket: str,
        done: int,
        fence: Fence,
        address: str | None,
    ) -> bool:
        """As the port says."""
        keys = self._names.keys(queue)
        words: list[Word] = []
        for message in messages:
            raw = message.raw
            if address is not None:
                new = addressed(raw, address)
                if new is None:
                    raise PreconditionFailed(
                        f"a message ({message.id or 'without an id'}) is no envelope of Celery's:"
                        f" it cannot be addressed to {address}"
                    )
                raw = new
            words += [1 + keys.index(self._names.key(queue, message.priority)), raw]
        answer = await self._run(
            moving_scripts.PUT, (self._names.tickets, *keys), fence, ticket, done, *words
        )
        if answer == -1:
            raise _no_queue(queue)
        return bool(answer)

    async def send_once(
        self, messages: Mapping[str, StoredMessage], *, queue: str, fence: Fence
    ) -> frozenset[str]:
        """As the port says."""
        keys = self._names.keys(queue)
        now = time.time()
        words: list[Word] = [now, now - SENT_KEPT]
        for name, message in messages.items():
            number = 1 + keys.index(self._names.key(queue, message.priority))
            words += [number, name, message.raw]
        answer = await self._run(moving_scripts.SEND_ONCE, (self._names.sent, *keys), fence, *words)
        if answer == -1:
            raise _no_queue(queue)
        return frozenset(name.decode(errors="surrogatepass") for name in answer)

    async def sent(self, names: Collection[str]) -> frozenset[str]:
        """As the port says."""
        asked = list(names)
        found: list[str] = []
        for start in range(0, len(asked), PORTION):
            some = asked[start : start + PORTION]
            answers = await self._wire.read_many(
                [("ZSCORE", self._names.sent, name) for name in some], at_once=False
            )
            for name, answer in zip(some, answers, strict=True):
                if isinstance(answer, Exception):
                    raise self._wire.refused(answer)
                found += [] if answer is None else [name]
        return frozenset(found)

    async def counted(self, ticket: str) -> int:
        return int(await self._wire.read("HGET", self._names.tickets, ticket) or 0)

    async def forget(self, ticket: str, *, fence: Fence) -> None:
        await self._run(moving_scripts.FORGET, (self._names.tickets,), fence, ticket)

    async def drop(self, queue: str, *, count: int, fence: Fence) -> int:
        """As the port says."""
        if parked(queue) is None:
            raise ValueError(f"{queue!r} is no queue of parked messages")
        answer = await self._run(moving_scripts.DROP, self._names.keys(queue), fence, count)
        if answer == -1:
            raise _no_queue(queue)
        return int(answer)

    async def _lengths(self, queue: str) -> list[int]:
        """Of each priority step, at one moment."""
        answers = await self._wire.read_many([("LLEN", key) for key in self._names.keys(queue)])
        return [int(_of_a_list(answer, queue, self._wire)) for answer in answers]

    async def _run(self, script: str, keys: Sequence[str], fence: Fence, *words: Word) -> Answer:
        return await _run(self._wire, self._names, script, keys, fence, *words)


@dataclass(slots=True)
class _Window:
    """Messages of a list as they were read, the one that is served next first; `passed` lie between
    the first of them and the end that is served next.
    """

    passed: int
    raws: list[bytes]


class _Way:
    """The way of a transfer's messages through the list of one priority step."""

    def __init__(
        self, wire: Wire, names: Names, transfer: Transfer, step: int, fence: Fence, done: int
    ) -> None:
        """`done`: how many have gone under the ticket before."""
        self._wire = wire
        self._names = names
        self._transfer = transfer
        self._step = step
        self._fence = fence
        self._done = done
        self._from = names.key(transfer.queue, step)
        self._to = names.key(transfer.to, step)
        self._most = min(PORTION, transfer.portion or PORTION)
        self._size = self._most
        self._judged: dict[bytes, bytes | None] = {}
        # A value that no producer can have pushed: whoever sees it sees the inside of a script.
        self._nothing = f"celery-ops: moved {secrets.token_hex(16)}"

    @property
    def is_blind(self) -> bool:
        """Nothing of the messages has to be known or changed: the server moves what is next."""
        transfer = self._transfer
        return transfer.choose is None and transfer.address is None and transfer.become is None

    async def pass_on(self, length: int) -> AsyncGenerator[Transferred, None]:
        """Move up to so many, as they come."""
        seen = 0
        while seen < length:
            now = min(self._most, length - seen)
            is_first = int(self._transfer.first)
            done, moved = await self._move(moving_scripts.PASS_ON, now, _BYTES_A_SCRIPT, is_first)
            seen += moved
            yield Transferred(done, seen)
            if not moved:
                return

    async def walk(self, length: int) -> AsyncGenerator[Transferred, None]:
        """Look at up to so many, and move those that are chosen."""
        limit = self._transfer.limit
        done, seen = self._done, 0
        passed: int = 0
        anchor: bytes | None = None
        portion = min(_FIRST_PORTION, self._most)
        while seen < length and (limit is None or done < limit):
            window = await self._find(passed, anchor, min(portion, length - seen))
            if not window.raws:
                return
            choice = self._choose(window, None if limit is None else limit - done)
            moved = 0
            if choice.moves:
                done, moved = await self._pick(window, choice)
            if moved < len(choice.moves):
                # Some were consumed meanwhile, or lie elsewhere: another look at the place tells.
                passed, seen = window.passed, seen + moved
            else:
                passed = window.passed + len(choice.kept)
                anchor = choice.kept[-1] if choice.kept else anchor
                seen += choice.looked
                self._judged.clear()
            yield Transferred(done, seen)
            self._size = min(self._size, self._most)
            portion = _next_portion(window.raws, self._size)

    def _choose(self, window: _Window, left: int | None) -> _Choice:
        choice = _Choice([], [], 0)
        for raw in window.raws:
            if left is not None and len(choice.moves) >= left:
                break
            choice.looked += 1
            if raw not in self._judged:  # once each: whoever chooses may count
                self._judged[raw] = self._replacement(raw)
            new = self._judged[raw]
            if new is None:
                choice.kept.append(raw)
            else:
                choice.moves.append((raw, new))
        return choice

    def _replacement(self, raw: bytes) -> bytes | None:
        """What goes in its place, empty for itself; None: it stays."""
        transfer, message = self._transfer, envelopes.stored(raw, self._step)
        if transfer.choose is not None and not transfer.choose(message):
            return None
        new = raw if transfer.become is None else transfer.become(message).raw
        if transfer.address is not None:
            return addressed(new, transfer.address)
        return b"" if new == raw else new

    async def _find(self, passed: int, anchor: bytes | None, count: int) -> _Window:
        """The next ones after the last that was passed, wherever that lies by now.

        It moves towards the end as others are consumed, and away from it as messages are given
        back there. Where it is gone, all that was passed before it is gone too.
        """
        if anchor is None:
            return _Window(0, await self._read(0, count))
        start = max(0, passed - _SLACK)
        raws = await self._read(start, passed + count - start)
        place = _nearest(raws, anchor, passed - 1 - start)
        if place is not None:
            return _Window(start + place + 1, raws[place + 1 :])
        if start > 0 and (found := await self._place(anchor)) is not None:
            return _Window(found, await self._read(found, count))
        return _Window(0, raws[:count] if start == 0 else await self._read(0, count))

    async def _read(self, passed: int, count: int) -> list[bytes]:
        """So many after those that are passed over; the one that is served next first."""
        (answer,) = await self._wire.read_many(
            [("LRANGE", self._from, -(passed + count), -(passed + 1))], at_once=False
        )
        raws: list[bytes] = _of_a_list(answer, self._transfer.queue, self._wire)
        return raws[::-1]

    async def _place(self, raw: bytes) -> int | None:
        """How many messages of the whole list are served before the one after it."""
        length, place = await self._wire.read_many(
            [("LLEN", self._from), ("LPOS", self._from, raw, "RANK", -1)]
        )
        # Before Redis 6.0.6 there was no LPOS: then the walk begins anew, at a cost and no harm.
        known = isinstance(length, int) and isinstance(place, int)
        return length - place if known else None

    async def _pick(self, window: _Window, choice: _Choice) -> tuple[int, int]:
        """Move them wherever they lie by now, near the place where they were read."""
        near = min(window.passed, _SLACK)
        looked = len(window.raws) + near
        words = [word for move in choice.moves for word in move]
        clock = asyncio.get_running_loop()
        began = clock.time()
        picked = await self._move(
            moving_scripts.PICK, window.passed - near, looked, self._nothing, *words
        )
        took = clock.time() - began - window.passed * _A_MESSAGE_PASSED
        within = len(choice.moves) if window.passed else 0
        if took > _SLOW or within > _PICKED:
            self._size = max(_LEAST, self._size // 2)
        elif took < _QUICK and 2 * within < _PICKED:
            self._size = 2 * self._size
        return picked

    async def _move(self, script: str, *words: Word) -> tuple[int, int]:
        """The count under the ticket, and how many were moved now."""
        transfer = self._transfer
        limit = -1 if transfer.limit is None else transfer.limit
        keys = (self._names.tickets, self._from, self._to)
        under = (transfer.ticket, limit, self._done)
        done, moved = await _run(self._wire, self._names, script, keys, self._fence, *under, *words)
        if done == -1:
            raise _no_queue(f"{transfer.queue} or {transfer.to}")
        _check_known(self._done, int(done))
        self._done = int(done)
        return self._done, int(moved)


@dataclass(slots=True)
class _Choice:
    """Of the messages of a window: those that stay, and those that go with what goes in their
    place; `looked` at were so many.
    """

    kept: list[bytes]
    moves: list[tuple[bytes, bytes]]
    looked: int


async def _run(
    wire: Wire, names: Names, script: str, keys: Sequence[str], fence: Fence, *words: Word
) -> Answer:
    """Raise LeaseLost if the fence is not valid; then nothing was done."""
    # Surely: a move that a fail-over loses is done again, and what was moved may have run already.
    answer = await wire.write_surely(
        "EVAL", script, 1 + len(keys), names.lease, *keys, fence.token, *words
    )
    if answer is None:
        raise LeaseLost("The lease of this context is no longer ours; nothing was moved.")
    return answer


def _check_known(before: int, now: int) -> None:
    """Raise BrokerUnreachable if fewer are counted under a ticket than were before."""
    if now < before:
        raise BrokerUnreachable(
            f"The broker has forgotten that {before - now} of {before} messages were moved: they"
            " are where they were before, as after a fail-over that lost the last writes."
        )


def _of_a_list(answer: Answer, queue: str, wire: Wire) -> Answer:
    if isinstance(answer, Exception):
        if "WRONGTYPE" in str(answer):
            raise _no_queue(queue)
        raise wire.refused(answer)
    return answer


def _no_queue(name: str) -> PreconditionFailed:
    return PreconditionFailed(f"{name!r} is not a queue: its key is no list.")


def _nearest(raws: Sequence[bytes], wanted: bytes | None, expected: int) -> int | None:
    """Where it is, the nearest to where it was; None: nowhere."""
    places = [place for place, raw in enumerate(raws) if raw == wanted]
    return min(places, key=lambda place: abs(place - expected), default=None)


def _next_portion(raws: Sequence[bytes], most: int) -> int:
    """As many as should fit, by the size of those read before."""
    mean = max(1, sum(map(len, raws)) // len(raws))
    return max(1, min(most, _BYTES_A_SCRIPT // mean))


# --- addresses ----------------------------------------------------------------------------------


def addressed(raw: bytes, queue: str) -> bytes | None:
    """The message with that queue as its own (`properties.delivery_info`), every other byte as it
    was; None if it is no envelope of kombu's.

    Where kombu gives a message back it sends it to what stands there (FACTS 5).
    """
    try:
        text = raw.decode()
        envelope = json.loads(text)
        info = envelope["properties"]["delivery_info"]
        new = {**info, "exchange": "", "routing_key": queue}
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    if info == new:
        return raw
    envelope["properties"]["delivery_info"] = new
    places = list(_values_of(text, info))
    for start, end in places:
        changed = text[:start] + json.dumps(new) + text[end:]
        if len(places) == 1 or json.loads(changed) == envelope:
            return changed.encode()
    return json.dumps(envelope).encode()  # its key is written in another way than anybody does


_KEY = '"delivery_info"'
_read_value: Callable[[str, int], tuple[object, int]] = json.JSONDecoder().raw_decode


def _values_of(text: str, value: object) -> Iterator[tuple[int, int]]:
    """Where that value stands behind the key in the text: from, to."""
    at = text.find(_KEY)
    while at >= 0:
        start = at + len(_KEY)
        while text[start : start + 1] in (" ", ":", "\t", "\n", "\r"):
            start += 1
        try:
            found, end = _read_value(text, start)
        except ValueError:
            found, end = None, start
        if found == value and text[at - 1 : at] != "\\":
            yield start, end
        at = text.find(_KEY, at + 1)
