"""Reads a result backend: what Celery stored of one task.

Only Redis, and only what is JSON: a pickled result is not loaded, and counts as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import address, messages
from celery_ops.broker.names import OF_SENTINELS
from celery_ops.broker.wire import Wire
from celery_ops.errors import BrokerUnreachable, ResultsUnreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.broker.address import RedisAddress
    from celery_ops.config.secret import Secret
    from celery_ops.model import TaskNews

_KEY = "celery-task-meta-"
"""`celery.backends.base.KeyValueStoreBackend.task_keyprefix`."""


class RedisResults:
    """Implements `ports.Results`. Connects when it is first used."""

    def __init__(self, where: RedisAddress) -> None:
        self._address = where
        self._wire = Wire(where)

    @property
    def address(self) -> str:
        return str(self._address)

    async def news(self, task: str) -> TaskNews | None:
        try:
            stored = await self._wire.read("GET", f"{_KEY}{task}")
        except BrokerUnreachable as error:
            says = f"The results at {self._address} cannot be read: {error.says}"
            raise ResultsUnreachable(says, fix=error.fix) from error
        return None if stored is None else messages.read_result(stored)

    async def close(self) -> None:
        await self._wire.close()


def results_at(url: Secret | None, options: Mapping[str, object]) -> RedisResults | None:
    """The result backend at a URL; None for one that is not read here: none, or none of Redis.

    What `options` of the broker's say of its sentinels holds for those of the results too.
    """
    if url is None:
        return None
    of_sentinels = {key: options[key] for key in OF_SENTINELS if key in options}
    try:
        return RedisResults(address.parse(url, of_sentinels))
    except UsageError:
        return None
