"""A context made live: its broker connected, its hosts within reach, its fleet asked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_ops.broker import connect
from celery_ops.broker.emergency import NoBroker
from celery_ops.broker.results import results_at
from celery_ops.cli import emergency, terminal
from celery_ops.cli.passphrases import Passphrases
from celery_ops.doctor import examine
from celery_ops.fleet.clock import SystemClock
from celery_ops.fleet.survey import Surveyor
from celery_ops.hosts import HostPool
from celery_ops.model import Host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from celery_ops.broker.results import RedisResults
    from celery_ops.config.contexts import Context
    from celery_ops.ports import Broker, Clock


CONTROL_EXCHANGE = "control_exchange"
EVENT_EXCHANGE = "event_exchange"
"""Celery's settings of these names, as options of the broker's adapter."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What every command that looks at a fleet works with."""

    context: Context
    broker: Broker
    hosts: HostPool
    surveyor: Surveyor
    clock: Clock
    passphrases: Passphrases
    results: RedisResults | None
    """None: no result backend is configured, or none that is read."""


@asynccontextmanager
async def opened(
    context: Context,
    *,
    passphrases: Passphrases | None = None,
    without_broker: bool = False,
    clock: Clock | None = None,
) -> AsyncIterator[Deployment]:
    """Connect, and close everything afterwards. Raise BrokerUnreachable or UsageError.

    `without_broker`: the broker is not used, in an emergency.

    Without `passphrases`, whoever sits at the terminal is asked for those that the hosts need,
    right away: people think longer than a look at a fleet takes.
    """
    asks = passphrases is None and terminal.can_ask()
    if passphrases is None:
        passphrases = Passphrases(terminal.ask_passphrase if asks else None)
    clock = clock or SystemClock()
    broker = await connect(context.broker, broker_options(context), clock=clock)
    if without_broker:
        broker = NoBroker(broker, emergency.lock(broker), clock)
    results = results_at(context.results, context.broker_options)
    hosts = HostPool(context, ask_passphrase=passphrases)
    surveyor = Surveyor(
        broker,
        hosts,
        context=context.name,
        services=context.services,
        clock=clock,
        scope=context.scope or ("*",),
        protected=context.protected,
        machines=tuple(Host(host.name, host.address) for host in context.hosts),
        diagnose=examine,
    )
    try:
        if asks:
            await hosts.unlock()
        yield Deployment(context, broker, hosts, surveyor, clock, passphrases, results)
    finally:
        await surveyor.close()
        await hosts.close()
        if results is not None:
            await results.close()
        await broker.close()


def broker_options(context: Context) -> dict[str, object]:
    """What the broker's adapter must know beside the URL. May contain secrets."""
    return {
        **context.broker_options,
        CONTROL_EXCHANGE: context.control_exchange,
        EVENT_EXCHANGE: context.event_exchange,
    }
