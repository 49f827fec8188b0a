"""A process that watches until it is killed: `python -m tests.broker.watcher URL EXPIRY`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from celery_ops.broker import address
from celery_ops.broker.rabbit import address as amqp_address
from celery_ops.broker.rabbit.adapter import RabbitBroker
from celery_ops.broker.redis import RedisBroker
from celery_ops.config.secret import Secret
from celery_ops.fleet.clock import SystemClock
from celery_ops.ports import Question

if TYPE_CHECKING:
    from celery_ops.ports import Broker


async def watch(url: str, expiry: float) -> None:
    broker = _broker(url, expiry)
    while True:
        await broker.ask([Question.STATS, Question.ACTIVE], to=None, timeout=30.0)
        await broker.queues(["celery"])


def _broker(url: str, expiry: float) -> Broker:
    clock = SystemClock()
    if url.startswith("amqp"):
        return RabbitBroker(amqp_address.parse(Secret(url), {}), {}, clock=clock)
    return RedisBroker(address.parse(Secret(url), {}), {}, clock=clock, reply_expiry=expiry)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], float(sys.argv[2])))
