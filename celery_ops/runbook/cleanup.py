"""What a run owes is given back at its end: at once where that can be, and again and again where a
host or the broker cannot be reached meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.units import as_duration
from celery_ops.errors import (
    BrokerFull,
    BrokerUnreachable,
    CommandFailed,
    HostUnreachable,
    LeaseBroken,
    LeaseHeld,
    OpsError,
    UsageError,
)
from celery_ops.runbook.events import Result
from celery_ops.runbook.gathering import all_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from celery_ops.ports import Broker
    from celery_ops.runbook.orders import Target
    from celery_ops.runbook.queue_consumers import Pauses
    from celery_ops.runbook.stage import Stage

STEP = "undo"
PATIENCE = 120.0
"""Seconds for which who cannot be reached is tried again; then it is reported as owed."""
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 40.0
LOOK_TIMEOUT = 10.0


class Cleanup:
    """Gives back what a run still owes to anybody."""

    def __init__(
        self, stage: Stage, broker: Broker, pauses: Pauses, *, keeps: Collection[str] = ()
    ) -> None:
        """Those that it `keeps` stay as they are."""
        self._keeps = keeps
        self._stage = stage
        self._broker = broker
        self._pauses = pauses

    async def put_right(self, *, failed_only: bool = False) -> None:
        """All of it, as far as it can be done; the rest stays owed, and its failure is concluded.
        Who was stopped for good, and came through, is left so.

        `failed_only`: the run came through without some; the others are left as they are.
        Nothing once somebody else has the lease: then the report says what is owed. Raise Aborted
        at the second stage of an abort, LeaseBroken if somebody broke the lease.
        """
        clock = self._stage.clock
        gives_up_at = clock.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        whom = [
            one for one in self._stage.targets.values()
            if (one.failed or not failed_only) and one.name not in self._keeps
        ]  # fmt: skip
        queues = not failed_only
        while self._stage.effects.may_go_on and (away := await self._round(whom, queues=queues)):
            if clock.monotonic() + pause > gives_up_at:
                for name, why in away:
                    says = f"still owed after {as_duration(PATIENCE)} of trying: {why}"
                    self._failed(name, says)
                return
            for name, why in away:
                again = f"tried again in {as_duration(pause)}, and so on"
                self._stage.say(name, f"cannot be given back now: {why}; {again}", STEP)
            await self._stage.brake.sleep(pause, safe=False)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _round(self, whom: list[Target], *, queues: bool) -> list[tuple[str, str]]:
        """Try it once with those who are owed; those who could not be reached, and why."""
        away: list[tuple[str, str]] = []

        async def attempt(target: Target) -> None:
            why = await self._unreachable(target) or await self._give_back(target)
            if why:
                away.append((target.name, why))

        open_ = [one for one in whom if one.owed and not (one.given_up or one.settled)]
        await all_of([attempt(one) for one in open_])
        for queue in self._pauses.queues if queues else ():
            if queue not in self._pauses.given_up:
                why = await self._broker_away() or await self._resume(queue)
                away += [(queue, why)] if why else []
        return away

    async def _resume(self, queue: str) -> str:
        """Why it could not be given back now; empty: it was, or cannot be."""
        try:
            await self._pauses.put_right(STEP, queue)
        except LeaseBroken as error:
            self._failed(queue, error.says)
            raise
        except BrokerFull as error:
            self._failed(queue, error.says)
            self._pauses.given_up.add(queue)
            return ""
        except BrokerUnreachable as error:
            return error.says
        except OpsError as error:
            self._failed(queue, error.says)
            self._pauses.given_up.add(queue)
            return ""
        is_open = queue in self._pauses.queues and queue not in self._pauses.given_up
        return self._stage.effects.away if is_open else ""

    async def _give_back(self, target: Target) -> str:
        """Why it could not be reached; empty: it was given back, or cannot be."""
        try:
            await self._stage.verbs.put_right(STEP, target)
            if not target.owed:
                return ""
        except (LeaseBroken, LeaseHeld, BrokerFull) as error:
            self._failed(target.name, error.says)
            if isinstance(error, LeaseBroken):
                raise
            target.given_up = True
            return ""
        except (BrokerUnreachable, HostUnreachable) as error:
            return error.says
        except OpsError as error:
            self._failed(target.name, error.says)
        why = target.away or await self._unreachable(target)
        target.given_up = not why
        return why

    async def _unreachable(self, target: Target) -> str:
        """Why there is no use in trying now: the broker, or the host of a stopped service, is
        away.
        """
        away = await self._broker_away()
        if away:
            return away
        service = target.planned.service
        if not target.down or service is None:
            return ""
        hosts = self._stage.hosts
        try:
            look = hosts.supervisor(service.supervisor).status([service])
            await hosts.shell(service.host).run(look, timeout=LOOK_TIMEOUT)
        except HostUnreachable as error:
            target.unseen = error.says
            return error.says
        except (CommandFailed, UsageError):
            return ""
        return ""

    async def _broker_away(self) -> str:
        try:
            await self._broker.holder()
        except BrokerUnreachable as error:
            return error.says
        except OpsError:
            return ""  # it answers, whatever it says
        return ""

    def _failed(self, name: str, says: str) -> None:
        target = self._stage.targets.get(name)
        if target is not None:
            target.failed = target.failed or says
        self._stage.effects.conclude(STEP, name, Result.FAILED, says)
