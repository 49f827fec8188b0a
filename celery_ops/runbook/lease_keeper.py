"""Holds the lease of a context for as long as a run goes on, and says so at once when it is lost.

Lost to nobody (it expired, the broker was away or has forgotten it) it is taken again as soon as
that can be; meanwhile the run can do nothing. Lost to somebody, the run is halted where it stands.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable, LeaseBroken, LeaseHeld, LeaseLost
from celery_ops.runbook.events import EventKind, Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from celery_ops.model import Holder
    from celery_ops.ports import Clock, Fence, Lease
    from celery_ops.runbook.journal import Journal

RETRY_SECONDS = 1.0
MOST_TOLD = 200
"""Characters of what a run does now."""
RAN_OUT = "The lease ran out before it could be renewed."


class LeaseKeeper:
    """Renews in the background. Validity is counted on a clock that runs through suspend.

    Loss and return are told in the journal when they are found, not when an effect needs the lease.
    """

    def __init__(
        self,
        lease: Lease,
        holder: Holder,
        clock: Clock,
        journal: Journal,
        *,
        broken_by: Callable[[], Awaitable[str]],
        halt: Callable[[BaseException], None],
        takes_over: bool = False,
    ) -> None:
        """Everybody who asks for the lease is told at which step the journal is; `broken_by` tells
        who broke a lease that was lost. `halt` ends whatever waits: somebody else has the lease.
        `takes_over`: the lease of this very run may still be there, of an executor that died.
        """
        self._lease = lease
        self._as = holder
        self._clock = clock
        self._journal = journal
        self._broken_by = broken_by
        self._halt = halt
        self._takes_over = takes_over
        self._taking = asyncio.Lock()
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
            raise LeaseLost(self._lost or "The lease is not held.")
        if self._clock.monotonic() >= self._valid_until:
            raise LeaseLost(RAN_OUT)
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
                self._valid_until = asked + self._lease.ttl
                self._task = asyncio.create_task(self._keep())
                self._task.add_done_callback(self._kept)
                return

    async def regain(self, lost: LeaseLost, patience: float) -> None:
        """Hold a lease again that an effect has found `lost`, if nobody else took it.

        A broker that cannot be reached is waited for, `patience` seconds. LeaseHeld is raised at
        once if somebody else has it: what was planned may not be true any more; LeaseBroken if
        somebody broke it, now and ever after.
        """
        self._lose(lost.says)
        await self._renew(patience)

    async def release(self) -> None:
        """Give it back if it is still ours; it can be acquired again. A broker that is away lets it
        expire by itself.
        """
        if self._task is not None:
            self._task.cancel()
        if self._fence is not None and not self._lost:
            try:
                await self._lease.release(self._fence)
            except BrokerUnreachable:
                return
        self._fence = None

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._lease.ttl / 3)
            await self._renew(patience=math.inf)

    def _kept(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._halt(error)

    async def _renew(self, patience: float) -> None:
        deadline = self._clock.monotonic() + patience
        while True:
            try:
                async with self._taking:
                    await self._hold()
            except BrokerUnreachable:
                now = self._clock.monotonic()
                if now >= self._valid_until:
                    self._lose(RAN_OUT)
                if now >= deadline:
                    raise
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    async def _hold(self) -> None:
        """Renew it or, where it is nobody's any more, take it again."""
        if self._broken is not None:
            raise self._broken
        if self.taken_by:
            raise LeaseHeld(self.taken_by)
        asked = self._clock.monotonic()
        if self._fence is not None:
            try:
                await self._lease.renew(self._fence, self._holder)
            except LeaseLost as lost:
                self._lose(lost.says)
                self._fence = None
        if self._fence is None:
            asked = self._clock.monotonic()
            self._fence = await self._take_again()
        self._valid_until = asked + self._lease.ttl
        if self._lost:
            self._lost = ""
            self._journal.append(EventKind.LEASED, outcome=Outcome(Result.DONE, "taken again"))

    async def _take_again(self) -> Fence:
        by = await self._broken_by()
        if by:
            self._broken = LeaseBroken(f"The lease of this run was broken by {by}.")
            self._tell_loss(Result.FAILED, self._broken.says)
            raise self._broken
        try:
            # Of this run it can only be ours: one whose reply was lost on the way.
            return await self._lease.acquire(self._holder, takes_over=True)
        except LeaseHeld as held:
            self.taken_by = f"Somebody else has the lease now: {held.says}"
            self._tell_loss(Result.FAILED, self.taken_by)
            raise LeaseHeld(self.taken_by) from held

    def _lose(self, says: str) -> None:
        if not self._lost:
            self._lost = says
            self._tell_loss(Result.UNKNOWN, says)

    def _tell_loss(self, result: Result, says: str) -> None:
        self._journal.append(EventKind.LEASE_LOST, outcome=Outcome(result, says))

    @property
    def _holder(self) -> Holder:
        """What others are told."""
        return replace(self._as, step=self._journal.doing[:MOST_TOLD])
