"""Holds the lease of a context for as long as a run goes on, and knows when it was lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, LeaseBroken, LeaseHeld, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from celery_ops.model import Holder
    from celery_ops.ports import Clock, Fence, Lease

RETRY_SECONDS = 1.0
MOST_TOLD = 200
"""Characters of what a run does now."""


class LeaseKeeper:
    """Renews in the background. Validity is counted on a clock that runs through suspend."""

    def __init__(
        self,
        lease: Lease,
        holder: Holder,
        clock: Clock,
        *,
        doing: Callable[[], str],
        broken_by: Callable[[], Awaitable[str]],
        takes_over: bool = False,
    ) -> None:
        """`doing` tells at which step the run is, and everybody who asks for the lease is told;
        `broken_by` who broke a lease that was lost. `takes_over`: the lease of this very run may
        still be there, of an executor that died.
        """
        self._lease = lease
        self._as = holder
        self._clock = clock
        self._doing = doing
        self._broken_by = broken_by
        self._takes_over = takes_over
        self._fence: Fence | None = None
        self._valid_until = 0.0
        self._lost = ""
        self.taken_by = ""
        """Who was seen to have taken it: from then on nothing is done under it, even if that one is
        done with it. What this run knows and owes may not be true any more.
        """
        self._broken: LeaseBroken | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def fence(self) -> Fence:
        """Proof for one effect. Raise LeaseLost if the lease is not ours for certain."""
        if self._broken is not None:
            raise self._broken
        if self._fence is None or self._lost:
            raise LeaseLost(self._lost or "the lease is not held")
        if self._clock.monotonic() >= self._valid_until:
            raise LeaseLost("the lease ran out before it could be renewed")
        return self._fence

    async def acquire(
        self,
        wait: float,
        waiting: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Take it, waiting up to `wait` seconds for its holder. Raise LeaseHeld.

        `waiting` is told who holds it, and each time that changes; what `sleep` raises ends it.
        """
        deadline = self._clock.monotonic() + wait
        told = ""
        while True:
            asked = self._clock.monotonic()
            try:
                self._fence = await self._lease.acquire(self._holder, takes_over=self._takes_over)
            except LeaseHeld as held:
                if self._clock.monotonic() >= deadline:
                    raise
                if held.says != told:
                    told = held.says
                    waiting(held.says)
                await sleep(RETRY_SECONDS)
            else:
                self._hold(asked)
                return

    async def regain(self, patience: float) -> None:
        """Hold a lost lease again if nobody else took it: it expired, or the broker was away.

        A broker that cannot be reached is waited for, `patience` seconds. LeaseHeld is raised at
        once if somebody else has it: what was planned may not be true any more; LeaseBroken if
        somebody broke it, now and ever after.
        """
        if self._task is not None:
            self._task.cancel()
        deadline = self._clock.monotonic() + patience
        while True:
            try:
                await self._take_again()
            except BrokerUnreachable:
                if self._clock.monotonic() >= deadline:
                    raise
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    async def _take_again(self) -> None:
        if self.taken_by:
            raise LeaseHeld(self.taken_by)
        asked = self._clock.monotonic()
        if self._fence is not None:
            try:
                await self._lease.renew(self._fence)
            except LeaseLost:
                self._fence = None
        if self._fence is None:
            by = await self._broken_by()
            if by:
                self._broken = LeaseBroken(f"The lease of this run was broken by {by}.")
                raise self._broken
            try:
                self._fence = await self._lease.acquire(self._holder)
            except LeaseHeld as held:
                self.taken_by = held.says
                raise
        self._hold(asked)

    @property
    def _holder(self) -> Holder:
        """What others are told."""
        return replace(self._as, step=self._doing()[:MOST_TOLD])

    def _hold(self, asked: float) -> None:
        self._lost = ""
        self._valid_until = asked + self._lease.ttl
        self._task = asyncio.create_task(self._renew())

    async def release(self) -> None:
        """Give it back if it is still ours. A broker that is away lets it expire by itself."""
        if self._task is not None:
            self._task.cancel()
        if self._fence is not None and not self._lost:
            try:
                await self._lease.release(self._fence)
            except BrokerUnreachable:
                return

    async def _renew(self) -> None:
        while self._fence is not None:
            await self._clock.sleep(self._lease.ttl / 3)
            asked = self._clock.monotonic()
            try:
                await self._lease.renew(self._fence, self._holder)
            except LeaseLost as lost:
                self._lost = lost.says
                return
            except BrokerUnreachable:
                continue
            self._valid_until = asked + self._lease.ttl
