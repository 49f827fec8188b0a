"""Gives messages that nobody holds back to their queues, as kombu itself would.

The effect is that of `kombu.transport.redis.Channel._do_restore_message`: out of `unacked` and its
index, to the end of the list that is served next. Two things are done otherwise. What is to be
moved is compared and moved in one script: a sweep or an acknowledgement in between leaves nothing
to move, and kombu's own transaction, which watches the hash, begins anew and finds nothing. And
where several queues are bound to a message's key nothing is moved: kombu would give each of them a
copy, though each had got its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import messages, scripts
from celery_ops.broker.routes import routed
from celery_ops.broker.sizes import moment
from celery_ops.errors import LeaseLost
from celery_ops.ports import GivenBack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Answer, Wire, Word
    from celery_ops.model import HeldMessage
    from celery_ops.ports import Fence

_BYTES_A_SCRIPT = 1024 * 1024
"""A script keeps the server from everything else, so it is given so much at most."""
_READ_AT_A_TIME = 100
_OUTCOMES = {1: GivenBack.DONE, 0: GivenBack.GONE, -1: GivenBack.UNROUTABLE}

_Bindings = dict[str, tuple[tuple[str, str], ...]]


class Restorer:
    """Restores messages on one Redis."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names

    async def restore(
        self, wanted: Sequence[HeldMessage], *, fence: Fence
    ) -> tuple[GivenBack, ...]:
        """As the port says."""
        outcomes: list[GivenBack] = []
        for start in range(0, max(1, len(wanted)), _READ_AT_A_TIME):
            some = wanted[start : start + _READ_AT_A_TIME]
            moves = await self._read(some)
            outcomes += await self._move(moves, fence)
        return tuple(outcomes)

    async def _read(self, wanted: Sequence[HeldMessage]) -> list[tuple[Word, ...] | GivenBack]:
        """What the script has to compare and move for each, or why there is nothing to move."""
        if not wanted:
            return []
        tags = [message.tag for message in wanted]
        values, *scores = await self._wire.read_many(
            [("HMGET", self._names.unacked, *tags)]
            + [("ZSCORE", self._names.unacked_index, tag) for tag in tags]
        )
        for answer in (values, *scores):
            if isinstance(answer, Exception):
                raise self._wire.refused(answer)
        bindings = await self._bindings(values)
        return [
            self._prepared(message, raw, score, bindings)
            for message, raw, score in zip(wanted, values, scores, strict=True)
        ]

    def _prepared(
        self, message: HeldMessage, raw: bytes | None, score: Answer, bindings: _Bindings
    ) -> tuple[Word, ...] | GivenBack:
        if raw is None or score is None or moment(float(score)) != message.since:
            return GivenBack.GONE
        held, back = messages.read_held(raw), messages.given_back(raw)
        queues = set() if held is None else routed(held.exchange, held.routing_key, bindings)
        if back is None or len(queues) != 1:
            return GivenBack.UNROUTABLE
        text, priority = back
        key = self._names.key(queues.pop(), priority)
        return (message.tag, repr(float(score)), raw, key, text)

    async def _bindings(self, values: Sequence[bytes | None]) -> _Bindings:
        """The tables of the exchanges that these messages came by, as they are now."""
        held = [messages.read_held(raw) for raw in values if raw is not None]
        exchanges = sorted({one.exchange for one in held if one is not None and one.exchange})
        tables = await self._wire.read_many(
            [("SMEMBERS", self._names.binding(exchange)) for exchange in exchanges], at_once=False
        )
        found: _Bindings = {}
        for exchange, members in zip(exchanges, tables, strict=True):
            if not isinstance(members, Exception):
                entries = (self._names.bound(one.decode(errors="replace")) for one in members)
                found[exchange] = tuple(entry for entry in entries if entry is not None)
        return found

    async def _move(
        self, moves: Sequence[tuple[Word, ...] | GivenBack], fence: Fence
    ) -> list[GivenBack]:
        outcomes: list[GivenBack] = []
        waiting = list(moves)
        while True:
            batch: list[tuple[Word, ...] | GivenBack] = []
            size = 0
            while waiting and size <= _BYTES_A_SCRIPT:
                one = waiting.pop(0)
                batch.append(one)
                size += 0 if isinstance(one, GivenBack) else len(str(one[2]))
            done = iter(await self._run(batch, fence))
            outcomes += [one if isinstance(one, GivenBack) else next(done) for one in batch]
            if not waiting:
                return outcomes

    async def _run(
        self, batch: Sequence[tuple[Word, ...] | GivenBack], fence: Fence
    ) -> list[GivenBack]:
        words = [word for one in batch if not isinstance(one, GivenBack) for word in one]
        keys = (self._names.lease, self._names.unacked, self._names.unacked_index)
        done = await self._wire.write(
            "EVAL", scripts.RESTORE, len(keys), *keys, fence.token, *words
        )
        if done is None:
            raise LeaseLost("The lease of this context is no longer ours; nothing was given back.")
        return [_OUTCOMES[int(outcome)] for outcome in done]
