"""Tells a solo pool again to leave its queues, as long as that is waited for.

It reads what it is sent when its task has ended. RabbitMQ drops what nobody reads from a worker's
mailbox after a while, and Redis may have cut the connection meanwhile.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from celery_ops.runbook import actions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.ports import Clock
    from celery_ops.runbook.effects import Effects
    from celery_ops.runbook.plan import PlannedWorker

TELL_AGAIN_SECONDS = 240.0
"""Celery's `control_queue_ttl`, after which RabbitMQ drops a message, is 300 by default."""


@asynccontextmanager
async def reminded(effects: Effects, clock: Clock, worker: PlannedWorker) -> AsyncIterator[None]:
    """While this lasts it is told again and again, if its pool is a solo one: what was cancelled
    once can be cancelled again without harm. Raise what kept it from being told.
    """
    if worker.pool != "solo":
        yield
        return
    sending = asyncio.Lock()
    telling = asyncio.create_task(_tell(effects, clock, worker, sending))
    try:
        yield
    finally:
        async with sending:  # nothing may be under way any more when its next life begins
            telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


async def _tell(
    effects: Effects, clock: Clock, worker: PlannedWorker, sending: asyncio.Lock
) -> None:
    while True:
        await clock.sleep(TELL_AGAIN_SECONDS)
        async with sending:
            await effects.control(actions.cancel(worker))
