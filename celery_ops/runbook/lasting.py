"""Whether a queue that is given back to a worker stays with it.

A worker of Celery before 5.7 drops such a queue, in silence, when it next reconnects to its broker
(celery issue #7733, mended by #10352; measured on 5.2.7 to 5.6.3). Its next life does not.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from celery_ops.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Collection

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
        return await self.warnings([node])

    async def warnings(self, nodes: Collection[str]) -> str:
        """The same of several workers."""
        versions = await self._versions(nodes)
        by_version: dict[str | None, list[str]] = {}
        for node in sorted(nodes):
            found = _VERSION.match(versions.get(node) or "")
            if found is None or (int(found[1]), int(found[2])) < LASTS_SINCE:
                by_version.setdefault(versions[node] if found else None, []).append(node)
        told = []
        for version, names in by_version.items():
            older = "if they are" if len(nodes) > 1 else "if it is"
            who = f"Celery {version}" if version else f"{older} older than Celery 5.7, it"
            whose = f" of {', '.join(names)}" if len(nodes) > 1 else ""
            mend = f"celery-ops worker restart {' '.join(names)} makes it last"
            told.append(
                f"; {who}{whose} forgets that when it next reconnects to the broker: {mend}"
            )
        return "".join(told)

    async def _versions(self, nodes: Collection[str]) -> dict[str, str]:
        """What they announce by themselves, as far as it is heard."""
        heard: dict[str, str] = {}
        hearing = asyncio.ensure_future(self._hear(frozenset(nodes), heard))
        waiting = asyncio.ensure_future(self._clock.sleep(PATIENCE))
        try:
            await asyncio.wait([hearing, waiting], return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                with suppress(BrokerUnreachable):
                    hearing.result()
            return heard
        finally:
            hearing.cancel()
            waiting.cancel()

    async def _hear(self, nodes: frozenset[str], heard: dict[str, str]) -> None:
        async for beat in self._broker.heartbeats():
            if beat.node in nodes and beat.version:
                heard[beat.node] = beat.version
            if heard.keys() == nodes:
                return
