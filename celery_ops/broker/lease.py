"""The lease of a context in Redis: one key that expires by itself."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from celery_ops.broker import records, scripts
from celery_ops.errors import LeaseHeld, LeaseLost, RecordUnreadable
from celery_ops.ports import Fence

if TYPE_CHECKING:
    from celery_ops.broker.names import Names
    from celery_ops.broker.wire import Wire
    from celery_ops.model import Holder

DEFAULT_TTL = 15.0
_UNREADABLE = "Somebody else holds the lease of this context, in a form that cannot be read here."


class RedisLease:
    """Implements `ports.Lease`."""

    def __init__(self, wire: Wire, names: Names, *, ttl: float = DEFAULT_TTL) -> None:
        self._wire = wire
        self._key = names.lease
        self._ttl = ttl

    @property
    def ttl(self) -> float:
        return self._ttl

    async def acquire(self, holder: Holder, *, takes_over: bool = False) -> Fence:
        token = secrets.token_hex(16)
        lease = records.encode_lease(holder, token)
        ours = (holder.run, holder.operator) if takes_over else ("", "")
        # One that only the master knew could be had a second time after a fail-over.
        if await self._wire.write_surely(
            "EVAL", scripts.ACQUIRE, 1, self._key, lease, self._milliseconds, *ours
        ):
            return Fence(token)
        try:
            other = await self.holder()
        except RecordUnreadable as error:
            raise LeaseHeld(_UNREADABLE, fix=error.says) from error
        if other is None:
            raise LeaseHeld("Somebody else held the lease of this context just now; try again.")
        raise LeaseHeld(
            f"{other}.",
            fix="Wait for it with --wait, or follow it with: celery-ops runs follow.",
        )

    async def renew(self, fence: Fence, holder: Holder | None = None) -> None:
        reads = "" if holder is None else records.encode_lease(holder, fence.token)
        if not await self._wire.write(
            "EVAL", scripts.RENEW, 1, self._key, fence.token, self._milliseconds, reads
        ):
            raise LeaseLost("The lease of this context is no longer ours.")

    async def release(self, fence: Fence) -> None:
        await self._wire.write("EVAL", scripts.RELEASE, 1, self._key, fence.token)

    async def holder(self) -> Holder | None:
        """Who holds it now; raise RecordUnreadable."""
        lease = await self._wire.read("GET", self._key)
        return None if lease is None else records.decode_lease(lease)

    @property
    def _milliseconds(self) -> int:
        return round(self._ttl * 1000)
