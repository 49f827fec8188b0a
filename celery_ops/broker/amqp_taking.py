"""Takes messages out of a queue of RabbitMQ, to be acknowledged or given back: work for a link.

With `basic.get`, many of them on the way at once, and without a consumer: it takes as many as are
asked for and not one more, others see no consumer where there is none, and a queue that serves one
consumer alone (`x-single-active-consumer`) serves us too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amqp import spec

if TYPE_CHECKING:
    from celery_ops.broker.amqp_content import Content
    from celery_ops.broker.amqp_link import Channel

BYTES_AT_A_TIME = 512 * 1024
_FIRST_WINDOW = 16
_LARGEST_WINDOW = 250
_GET = "Bsb"


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is ours until it is acknowledged, or its channel closes."""

    tag: int
    redelivered: bool
    content: Content


class Taker:
    """Takes messages of one queue on one channel, in the order in which they are served."""

    def __init__(self, channel: Channel, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._taken = 0
        self._bytes = 0

    def take(self, most: int, *, most_bytes: int = BYTES_AT_A_TIME) -> list[Taken]:
        """The next ones; fewer than `most` if they are large, none if there is none."""
        taken: list[Taken] = []
        size = 0
        while len(taken) < most and size < most_bytes:
            window = min(most - len(taken), self._window(most_bytes - size))
            some = self._some(window)
            taken += some
            size += sum(one.content.size for one in some)
            if len(some) < window:
                break
        self._taken += len(taken)
        self._bytes += size
        return taken

    def _window(self, most_bytes: int) -> int:
        """How many are asked for at once, by the size of those before."""
        if not self._taken:
            return _FIRST_WINDOW
        mean = max(1, self._bytes // self._taken)
        return max(1, min(_LARGEST_WINDOW, most_bytes // mean))

    def _some(self, count: int) -> list[Taken]:
        channel = self._channel
        for _ in range(count):
            channel.send_method(spec.Basic.Get, _GET, (0, self._queue, False))
        answers = [
            channel.wait([spec.Basic.GetOk, spec.Basic.GetEmpty], returns_tuple=True)
            for _ in range(count)
        ]
        # An answer that there is none has one part only.
        return [Taken(answer[0], answer[1], answer[5]) for answer in answers if len(answer) > 1]
