"""A context's broker and nothing else, for commands that need no host and no survey."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from celery_ops.broker import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.config.contexts import Context
    from celery_ops.ports import Broker, Clock

CONTROL_EXCHANGE = "control_exchange"
EVENT_EXCHANGE = "event_exchange"
"""Celery's settings of these names, as options of the broker's adapter."""


@asynccontextmanager
async def connected(context: Context, clock: Clock) -> AsyncIterator[Broker]:
    """Connect, and close it afterwards. Raise BrokerUnreachable or UsageError."""
    broker = await connect(context.broker, broker_options(context), clock=clock)
    try:
        yield broker
    finally:
        await broker.close()


def broker_options(context: Context) -> dict[str, object]:
    """What the broker's adapter must know beside the URL. May contain secrets."""
    return {
        **context.broker_options,
        CONTROL_EXCHANGE: context.control_exchange,
        EVENT_EXCHANGE: context.event_exchange,
    }
