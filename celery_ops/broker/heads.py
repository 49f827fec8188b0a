"""What is served next in each queue, and how much memory the queues take: looked at, never read.

Redis looks itself and sends a digest of each message, so that large ones are not sent. A call looks
at a bounded number of lists; the next one goes on where it stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery_ops.broker import scripts
from celery_ops.broker.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire

_LISTS_A_CALL = 1_000
_LISTS_AT_A_TIME = 100
_BYTES_AT_A_TIME = 4 * 1024 * 1024
"""Redis copies a message to look at it, and serves nobody else meanwhile."""
_BYTES_TELL_A_MESSAGE = 256
"""At its end: there kombu writes the delivery tag."""


class Look(NamedTuple):
    """One list: the memory it takes, about, and a digest of the message that is served next."""

    bytes: int | None
    head: str


class QueueHeads:
    """Looks at lists, and remembers what it saw of those that it does not look at this time."""

    def __init__(self, wire: Wire, names: Names) -> None:
        self._wire = wire
        self._names = names
        self._looks: dict[str, Look] = {}
        self._next = 0
        self.notes: tuple[str, ...] = ()

    async def look(self, ready: Mapping[str, Mapping[int, int]]) -> None:
        """Look at lists that hold messages; `ready` is how many, by queue and step."""
        self.notes = ()
        keys = [
            self._names.key(queue, step)
            for queue, steps in ready.items()
            for step, length in steps.items()
            if length
        ]
        there = set(keys)
        for gone in self._looks.keys() - there:
            del self._looks[gone]
        if self._next >= len(keys):
            self._next = 0
        end = min(len(keys), self._next + _LISTS_A_CALL)
        try:
            while self._next < end:
                self._next += await self._look_at(keys[self._next : self._next + _LISTS_AT_A_TIME])
        except Refused as refused:
            self._looks.clear()
            self.notes = (f"How long messages wait, and how large they are: {refused.says}",)

    def of(self, queue: str, steps: Mapping[int, int]) -> tuple[int | None, tuple[str, ...] | None]:
        """(bytes, heads) of a queue; None where not all of its lists were looked at yet."""
        looks = [self._looks.get(self._names.key(queue, step)) for step in steps if steps[step]]
        seen = [look for look in looks if look is not None]
        if len(seen) < len(looks):
            return None, None
        sizes = [look.bytes for look in seen if look.bytes is not None]
        size = sum(sizes) if len(sizes) == len(seen) else None
        return size, tuple(look.head for look in seen)

    async def _look_at(self, keys: list[str]) -> int:
        """How many of them there was time for; at least one."""
        found = await self._wire.read(
            "EVAL", scripts.LOOK, len(keys), *keys, _BYTES_AT_A_TIME, _BYTES_TELL_A_MESSAGE
        )
        for key, look in zip(keys, found, strict=False):
            if look:
                size = int(look[0])
                self._looks[key] = Look(None if size < 0 else size, look[1].decode())
            else:
                self._looks.pop(key, None)
        return max(1, len(found))
