"""A process with a lease: `python -m tests.broker.holder URL TTL`. It renews it, and says when it
is lost.
"""

from __future__ import annotations

import asyncio
import sys

from celery_ops.broker.rabbit.adapter import RabbitBroker
from celery_ops.broker.rabbit.address import parse
from celery_ops.config.secret import Secret
from celery_ops.errors import LeaseLost
from celery_ops.fleet.clock import SystemClock
from tests.broker.contract import ANN, TAKEN


async def hold(url: str, ttl: float) -> None:
    address = parse(Secret(url), {})
    broker = RabbitBroker(address, {}, clock=SystemClock(), lease_ttl=ttl)
    fence = await broker.lease.acquire(ANN)
    print("held", flush=True)
    try:
        while True:
            await broker.lease.renew(fence)
            await asyncio.sleep(0.1)
    except LeaseLost:
        pass
    try:
        await broker.take(TAKEN, fence=fence)
    except LeaseLost:
        print("lost", flush=True)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], float(sys.argv[2])))
