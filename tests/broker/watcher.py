"""A process that watches until it is killed: `python -m tests.broker.watcher URL EXPIRY`."""

from __future__ import annotations

import asyncio
import sys

from celery_ops.broker import address
from celery_ops.broker.redis import RedisBroker
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from celery_ops.ports import Question


async def watch(url: str, expiry: float) -> None:
    broker = RedisBroker(
        address.parse(Secret(url), {}), {}, clock=SystemClock(), reply_expiry=expiry
    )
    while True:
        await broker.ask([Question.STATS, Question.ACTIVE], to=None, timeout=30.0)
        await broker.queues(["celery"])


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], float(sys.argv[2])))
