"""Carries on all that comes into some queues, for as long as a run wants it: what a predicate
chooses into queues of parked messages, everything else to where workers consume it meanwhile.

Nothing is passed over: each message goes one of two ways, in its order. So it costs the same
however many are parked, and what waits in one of these queues is only what came just now. A worker
that begins to consume one is not the first in line there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, LeaseBroken, LeaseHeld, LeaseLost
from celery_ops.model.holding import arrived, held_of, through
from celery_ops.ports import Division

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery_ops.model import StoredMessage
    from celery_ops.ports import Clock, FirstInLine
    from celery_ops.runbook.effects import Effects

SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.02
"""Seconds between two looks where nothing came: a message of another task waits so long at most."""
MOST_A_SECOND = 10_000
"""Messages that one run carries on: measured on two cores under a load of 10; five times as many
where nothing else runs there."""
MANY = 50
"""Messages that came at once: more of them wait, as it seems."""
_AWAY_PAUSE = 1.0


class Forwarding:
    """The way of messages while it goes on. `parked` and `passed` are how many went which way."""

    def __init__(
        self,
        effects: Effects,
        clock: Clock,
        choose: Callable[[StoredMessage], bool],
        *,
        run: str,
        say: Callable[[str], None],
    ) -> None:
        """`say` is told when the broker goes away, and when it is back."""
        self.parked = self.passed = 0
        self.behind: set[str] = set()
        """Queues of which more waits, as it seems, than came just now."""
        self._effects = effects
        self._clock = clock
        self._choose = choose
        self._run = run
        self._say = say
        self._line: FirstInLine | None = None
        self._divisions: dict[str, Division] = {}

    def add(self, queues: Iterable[str]) -> None:
        """From now on these, too."""
        for queue in queues:
            self._divisions[queue] = Division(
                queue, arrived(queue), held_of(queue, self._run), through(queue), self._choose
            )
            self.behind.add(queue)
            if self._line is not None:
                self._line.add(queue, arrived(queue))

    async def go(self) -> None:
        """Until cancelled. Raise what keeps it from going on for good: LeaseBroken, LeaseHeld."""
        try:
            async with self._effects.first_in_line() as self._line:
                for queue in self._divisions:
                    self._line.add(queue, arrived(queue))
                await self._go()
        finally:
            with suppress(BrokerUnreachable, LeaseLost, LeaseHeld, LeaseBroken):
                while await self._look() >= MANY:
                    pass

    async def _go(self) -> None:
        pause, away = SHORTEST_PAUSE, ""
        while True:
            try:
                moved = await self._look()
            except LeaseBroken:
                raise
            except (BrokerUnreachable, LeaseLost) as error:
                if not away:
                    self._say(f"{error.says} Nothing goes on until it is back.")
                away, pause = error.says, _AWAY_PAUSE
            else:
                if away:
                    self._say("the broker is back: messages go on")
                    away = ""
                pause = _pause(moved, pause)
            await self._clock.sleep(pause)

    async def _look(self) -> int:
        """One portion of each queue; how many messages that were."""
        moved = 0
        for queue, division in list(self._divisions.items()):
            went = await self._effects.divide(division)
            self.parked += went.chosen
            self.passed += went.rest
            both = went.chosen + went.rest
            if both < MANY:
                self.behind.discard(queue)
            moved += both
        return moved


def _pause(moved: int, before: float) -> float:
    """Seconds until the next look: none where more wait, longer and longer where nothing comes."""
    if moved >= MANY:
        return 0.0
    return SHORTEST_PAUSE if moved else min(max(2 * before, SHORTEST_PAUSE), LONGEST_PAUSE)
