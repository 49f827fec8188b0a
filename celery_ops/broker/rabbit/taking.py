"""Takes messages out of a queue of RabbitMQ, to be acknowledged or given back: work for a link.

Out of a classic queue with `basic.get`, many of them on the way at once, and without a consumer: it
takes as many as are asked for and not one more, others see no consumer where there is none, and a
queue that serves one consumer alone (`x-single-active-consumer`) serves us too. What comes back
goes to its old place, whoever ends how.

A quorum queue knows no old place. It serves what came back before all else, in the order in which
it came back; and where a channel ends, that is the order of each of its consumers, of whom any may
be first. Each `basic.get` is a consumer of its own there. So a consumer takes a whole window at
once, in one step of the queue's: who always takes windows of one size, and is killed at any moment,
leaves the order as it was.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from amqp import spec

from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from celery_ops.broker.rabbit.content import Content
    from celery_ops.broker.rabbit.link import Channel, Session

BYTES_AT_A_TIME = 512 * 1024
_FIRST_WINDOW = 16
_LARGEST_WINDOW = 250
_GET, _NACK = "Bsb", "Lbb"
_BYTES_A_WINDOW = 16 * 1024 * 1024
"""What a consumer has taken is on its way to us at once."""
_PAUSE = 0.02
_SERVED_WITHIN = 3.0
"""Seconds in which a queue with messages has to serve a new consumer."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is ours until it is acknowledged, or its channel closes."""

    tag: int
    redelivered: bool
    content: Content


class Taker(Protocol):
    """Takes messages of one queue on one channel, in the order in which they are served."""

    def take(self, most: int) -> list[Taken]:
        """The next ones; fewer than `most` if they are large, none if there is none."""
        ...

    def give_back(self) -> None:
        """Before its channel closes: all that was taken and not acknowledged."""
        ...


def taker(session: Session, channel: Channel, queue: str, kind: str | None) -> Taker:
    """For a queue of that kind; None: it cannot be told."""
    return Getting(channel, queue) if kind == "classic" else Consuming(session, channel, queue)


class Getting:
    """A `Taker` with `basic.get`."""

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

    def give_back(self) -> None:
        """The end of the channel does it."""

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


class Consuming:
    """A `Taker` with a consumer for each call, which is gone when the call returns."""

    def __init__(self, session: Session, channel: Channel, queue: str) -> None:
        self._session = session
        self._channel = channel
        self._queue = queue
        self._tags = (f"celery-ops {number}" for number in itertools.count())
        self._last: list[int] = []
        """The last message of each window that was taken."""
        self._taken = self._bytes = 0

    def take(self, most: int) -> list[Taken]:
        """Raise PreconditionFailed if there are some, and the queue serves others only."""
        if self._taken:
            most = max(1, min(most, _BYTES_A_WINDOW * self._taken // max(1, self._bytes)))
        arrived: list[Content] = []
        tag = next(self._tags)
        self._channel.basic_qos(0, most, a_global=False)
        self._channel.basic_consume(self._queue, tag, nowait=True, callback=arrived.append)
        self._await(arrived, most)
        self._channel.basic_cancel(tag)
        taken = [_as_taken(content) for content in arrived]
        self._taken += len(taken)
        self._bytes += sum(one.content.size for one in taken)
        self._last += [taken[-1].tag] if taken else []
        return taken

    def give_back(self) -> None:
        """A window after the other, so that they come back in their order."""
        for tag in self._last:
            self._channel.send_method(spec.Basic.Nack, _NACK, (tag, True, True))
        self._last.clear()

    def _await(self, arrived: list[Content], most: int) -> None:
        """Until so many have arrived, or there are no more."""
        until = time.monotonic() + _SERVED_WITHIN
        while len(arrived) < most:
            if self._session.wait(_PAUSE):
                continue
            if not int(self._channel.queue_declare(self._queue, passive=True).message_count):
                return
            if time.monotonic() > until:
                if arrived:
                    return
                raise PreconditionFailed(
                    f"{self._queue!r} serves somebody else only (x-single-active-consumer).",
                    fix="Pause it first (queue pause), so that nobody consumes it.",
                )


def _as_taken(content: Content) -> Taken:
    info = content.delivery_info
    return Taken(int(str(info["delivery_tag"])), bool(info["redelivered"]), content)
