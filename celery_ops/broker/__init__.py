"""Adapters for message brokers: the only package that talks to them.

`connect` picks the adapter by the URL's scheme. Neither celery nor kombu is imported for Redis and
RabbitMQ: they cost more time than `status` has.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from celery_ops.broker import address
from celery_ops.broker.redis import RedisBroker
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.config.secret import Secret
    from celery_ops.ports import Broker, Clock

_REDIS = {"redis", "rediss", "redis+socket", "redis+unix", "unix", "sentinel"}
_RABBIT = {"amqp", "amqps", "pyamqp", "librabbitmq"}
_CLUSTER = {"redis+cluster", "rediss+cluster", "redis-cluster"}


async def connect(
    url: Secret,
    options: Mapping[str, object],
    *,
    clock: Clock,
    management: Secret | None = None,
) -> Broker:
    """The broker at a URL; raise UsageError if the URL or an option makes no sense.

    `options` are Celery's `broker_transport_options`, and its settings `control_exchange` and
    `event_exchange`, and `ssl` for `broker_use_ssl`; `management` is the URL of RabbitMQ's
    management API. Nothing is sent yet: the first call
    connects, so that an app can start before its broker does.
    """
    text = url.reveal()
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise UsageError(
            "The broker's URL has no scheme.", fix="Write it in full: redis://host:6379/0"
        )
    if ";" in text and scheme != "sentinel":
        raise UsageError(
            "Several brokers in one URL (separated by ;) are not supported yet.",
            fix="Name the one that is in use now; write a ; in a password as %3B.",
        )
    if scheme in _REDIS:
        return RedisBroker(address.parse(url, options), options, clock=clock)
    if scheme in _RABBIT:
        # Not at the top: py-amqp is nothing that those who use Redis should wait for.
        rabbit = import_module("celery_ops.broker.rabbit.adapter")
        found: Broker = rabbit.connect(url, options, clock=clock, management=management)
        return found
    if scheme in _CLUSTER:
        raise UsageError(
            "Celery itself has no transport for Redis Cluster, so there can be no fleet on it: keys"
            " that kombu changes together would hash to different slots.",
            fix="If workers run, their broker is another one: see celery inspect stats.",
        )
    kombu = import_module("celery_ops.broker.by_kombu.adapter")
    watched: Broker = kombu.connect(url, options, clock=clock)
    return watched
