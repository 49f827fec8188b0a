"""Whether a queue that is given back to a worker stays with it.

A worker of Celery before 5.7 drops such a queue, in silence, when it next reconnects to its broker
(celery issue #7733, mended by #10352; measured on 5.2.7 to 5.6.3). Its next life does not.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from celery_ops.ports import Broker, Clock

LASTS_SINCE = (5, 7)
PATIENCE = 3.0
"""Seconds: a worker tells its version every two, unless it was told not to."""
_VERSION = re.compile(r"(\d+)\.(\d+)")


class Lasting:
    """What is to be said to whoever gives queues back."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock

    async def warning(self, node: str) -> str:
        """How long a worker keeps what it was just given back, and how to make it last; empty where
        it lasts.
        """
        version = await self._version(node)
        found = _VERSION.match(version) if version else None
        if found and (int(found[1]), int(found[2])) >= LASTS_SINCE:
            return ""
        who = f"Celery {version}" if found else "if it is older than Celery 5.7, it"
        mend = f"celery-ops worker restart {node} makes it last"
        return f"; {who} forgets that when it next reconnects to the broker: {mend}"

    async def _version(self, node: str) -> str | None:
        """What it announces by itself; None if it is not heard."""
        hearing = asyncio.ensure_future(self._heard(node))
        waiting = asyncio.ensure_future(self._clock.sleep(PATIENCE))
        try:
            await asyncio.wait([hearing, waiting], return_when=asyncio.FIRST_COMPLETED)
            return hearing.result() if hearing.done() else None
        except BrokerUnreachable:
            return None
        finally:
            hearing.cancel()
            waiting.cancel()

    async def _heard(self, node: str) -> str | None:
        async for beat in self._broker.heartbeats():
            if beat.node == node and beat.version:
                return beat.version
        return None
