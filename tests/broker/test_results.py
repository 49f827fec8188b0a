"""A result backend on a real Redis: all of it is read in portions, and never by KEYS."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from celery_ops.broker.results import RedisResults, results_at
from celery_ops.config.secret import Secret
from celery_ops.errors import ResultsUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.rig.redis import RedisServer

COUNT = 2_500


@pytest.fixture
async def results(redis_server: RedisServer) -> AsyncIterator[RedisResults]:
    made = results_at(Secret(redis_server.url(1)), {})
    assert made is not None
    yield made
    await made.close()


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    client: Any = redis_server.client(1)
    client.mset(
        {
            f"celery-task-meta-id-{number}": json.dumps({"status": "FAILURE", "retries": number})
            for number in range(COUNT)
        }
    )
    client.mset({f"other-{number}": "x" for number in range(COUNT)})
    client.lpush("celery-task-meta-list", "x")
    client.set("celery-task-meta-pickled", b"\x80\x04.")
    return client


async def test_all_that_is_stored_is_read_in_portions(redis: Any, results: RedisResults) -> None:
    redis.config_resetstat()
    found: dict[str, int | None] = {}
    portions = 0
    async with aclosing(results.all_stored()) as all_stored:
        async for portion in all_stored:
            portions += 1
            found |= {id_: stored.retries for id_, stored in portion.items()}
    assert found.pop("pickled", 0) is None
    assert found == {f"id-{number}": number for number in range(COUNT)}
    assert portions > 2
    assert "cmdstat_keys" not in redis.info("commandstats")


async def test_several_are_read_by_their_ids(redis: Any, results: RedisResults) -> None:
    del redis
    found = await results.stored_of(["id-7", "nothing", "list", *(f"id-{n}" for n in range(300))])
    assert len(found) == 300
    assert found["id-7"].retries == 7
    assert await results.stored_of([]) == {}


async def test_one_that_is_away_is_told(own_redis: RedisServer) -> None:
    made = results_at(Secret(own_redis.url(1)), {})
    assert made is not None
    own_redis.stop()
    with pytest.raises(ResultsUnreachable, match="cannot be read"):
        await made.stored_of(["id-1"])
    await made.close()
