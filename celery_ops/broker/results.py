"""Reads a result backend: what Celery stored of tasks.

Only Redis, and only what is JSON: a pickled result is not loaded, and counts as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.broker import address, messages
from celery_ops.broker.names import OF_SENTINELS
from celery_ops.broker.wire import Wire
from celery_ops.errors import BrokerUnreachable, ResultsUnreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from celery_ops.broker.address import RedisAddress
    from celery_ops.broker.wire import Answer, Word
    from celery_ops.config.secret import Secret
    from celery_ops.model import StoredResult, TaskNews

_KEY = "celery-task-meta-"
"""`celery.backends.base.KeyValueStoreBackend.task_keyprefix`."""
_SCANNED = 500
"""Keys of the database that the server looks at in one step."""
_AT_ONCE = 100
"""Results that are read in one step: arguments and tracebacks can be long."""


class RedisResults:
    """Implements `ports.Results`. Connects when it is first used."""

    def __init__(self, where: RedisAddress) -> None:
        self._address = where
        self._wire = Wire(where)

    @property
    def address(self) -> str:
        return str(self._address)

    async def news(self, task: str) -> TaskNews | None:
        raw = await self._read(task)
        return None if raw is None else messages.read_result(raw)

    async def stored(self, task: str) -> StoredResult | None:
        raw = await self._read(task)
        return None if raw is None else messages.read_stored_result(raw)

    async def stored_of(self, tasks: Sequence[str]) -> dict[str, StoredResult]:
        found: dict[str, StoredResult] = {}
        for start in range(0, len(tasks), _AT_ONCE):
            some = tasks[start : start + _AT_ONCE]
            raws = await self._ask("MGET", *(f"{_KEY}{task}" for task in some))
            found |= {
                task: messages.read_stored_result(raw)
                for task, raw in zip(some, raws, strict=True)
                if raw is not None
            }
        return found

    async def all_stored(self) -> AsyncGenerator[dict[str, StoredResult], None]:
        """By SCAN, which holds the server up for no longer than a portion takes."""
        cursor: bytes | int = b"0"
        while True:
            cursor, keys = await self._ask("SCAN", cursor, "MATCH", f"{_KEY}*", "COUNT", _SCANNED)
            ids = [key.decode(errors="surrogatepass").removeprefix(_KEY) for key in keys]
            yield await self.stored_of(ids)
            if int(cursor) == 0:
                return

    async def close(self) -> None:
        await self._wire.close()

    async def _read(self, task: str) -> bytes | None:
        stored: bytes | None = await self._ask("GET", f"{_KEY}{task}")
        return stored

    async def _ask(self, *command: Word) -> Answer:
        try:
            return await self._wire.read(*command)
        except BrokerUnreachable as error:
            says = f"The results at {self._address} cannot be read: {error.says}"
            raise ResultsUnreachable(says, fix=error.fix) from error


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
