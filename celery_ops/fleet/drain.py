"""The proof that a worker is drained.

`cancel_consumer` answers ok before it is done, a BRPOP in flight still takes a message for up to a
second, and a reply that does not come proves nothing. So a worker is drained only after rounds in
which it said, each time anew, that it consumes nothing, holds nothing active or reserved, and has
not started a task. Tasks that wait for their ETA are not waited for: a warm stop gives them back at
once.

Pure: used by the screen and by runs alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_ops.model import Incarnation

QUIET_FOR = 1.5
"""Seconds the quiet rounds must span: a BRPOP in flight when the consumers went away still takes a
message for up to 1.3 of them, and each quiet round is one without consumers."""
QUIET_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class DrainReading:
    """What one round told of one worker; None is what it was asked and did not answer.

    `asked` and `ended` are seconds on the monotonic clock around the round. `active` and `reserved`
    are numbers of tasks, `consuming` names of queues, `processed` counts all tasks of this life.
    """

    asked: float
    ended: float
    incarnation: Incarnation | None
    consuming: tuple[str, ...] | None
    active: int | None
    reserved: int | None
    processed: int | None

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why the worker cannot be quiet in this round, in words."""
        if self.processed is None or self.incarnation is None:
            return (*self.without_stats, "stats unknown")
        return self.without_stats

    @property
    def without_stats(self) -> tuple[str, ...]:
        """The obstacles of a round that did not ask for stats."""
        found = []
        if self.consuming is None:
            found.append("what it consumes is unknown")
        elif self.consuming:
            found.append(f"consumes {_listed(self.consuming)}")
        if self.active is None:
            found.append("active unknown")
        elif self.active:
            found.append(f"{self.active} active")
        if self.reserved is None:
            found.append("reserved unknown: a prefetched task has arguments that are not JSON?")
        elif self.reserved:
            found.append(f"{self.reserved} reserved")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class DrainProof:
    """How far the proof has come. The quiet rounds are an unbroken series of one incarnation."""

    incarnation: Incarnation | None = None
    processed: int | None = None
    quiet_from: float | None = None
    quiet_until: float = 0.0
    rounds: int = 0
    obstacles: tuple[str, ...] = ("not looked at yet",)

    def after(self, reading: DrainReading) -> DrainProof:
        """The proof as it stands after another round."""
        begun = self if self._is_about(reading.incarnation) else DrainProof()
        obstacles = reading.obstacles
        if obstacles:
            return DrainProof(reading.incarnation, obstacles=obstacles)
        if begun.quiet_from is None or begun.processed != reading.processed:
            return DrainProof(
                reading.incarnation, reading.processed, reading.ended, reading.asked, 1, ()
            )
        return replace(begun, quiet_until=reading.asked, rounds=begun.rounds + 1, obstacles=())

    @property
    def quiet_for(self) -> float:
        """Seconds that the quiet rounds certainly span."""
        return 0.0 if self.quiet_from is None else max(0.0, self.quiet_until - self.quiet_from)

    @property
    def proved(self) -> bool:
        return self.rounds >= QUIET_ROUNDS and self.quiet_for >= QUIET_FOR

    @property
    def missing(self) -> str:
        """What the proof still lacks, in words that stay while nothing new is seen; empty when it
        is complete.
        """
        if self.obstacles:
            return ", ".join(self.obstacles)
        if self.proved:
            return ""
        return f"holds nothing visible, and has to stay so for {QUIET_FOR:g} s"

    def _is_about(self, incarnation: Incarnation | None) -> bool:
        if self.incarnation is None or incarnation is None:
            return False
        return self.incarnation.same_life_as(incarnation)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
