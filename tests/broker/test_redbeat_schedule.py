"""RedBeat's entries in a real Redis, as RedBeat writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_ops.broker.redis import RedisBroker
    from tests.rig.redis import RedisServer

SCHEDULE = "redbeat::schedule"
EVERY = {"__type__": "interval", "every": 90.0, "relative": False}
NIGHTLY = {
    "__type__": "crontab",
    "minute": 0,
    "hour": "3",
    "day_of_week": "*",
    "day_of_month": "*",
    "month_of_year": "*",
}


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    return redis_server.client()


def keep(redis: Any, name: str, schedule: object, due: float, *, enabled: bool = True) -> None:
    text = {"name": name, "task": f"app.{name}", "schedule": schedule, "enabled": enabled}
    redis.hset(f"redbeat:{name}", "definition", json.dumps(text))
    redis.zadd(SCHEDULE, {f"redbeat:{name}": due})


async def test_each_entry_that_is_on_is_told_with_its_next_time(
    redis: Any, broker: RedisBroker
) -> None:
    assert await broker.redbeat() is None
    keep(redis, "nightly", NIGHTLY, 2_000.0)
    keep(redis, "often", EVERY, 1_000.0)
    keep(redis, "off", EVERY, 500.0, enabled=False)
    keep(redis, "over", EVERY, -1.0)
    found = await broker.redbeat()
    assert found is not None
    told = [(one.name, one.task, one.when, one.due_at) for one in found]
    assert told == [
        ("often", "app.often", "every 1m30s", datetime.fromtimestamp(1_000, UTC)),
        ("nightly", "app.nightly", "crontab 0 3 * * *", datetime.fromtimestamp(2_000, UTC)),
    ]


async def test_what_somebody_else_wrote_there_is_survived(redis: Any, broker: RedisBroker) -> None:
    redis.set(SCHEDULE, "no sorted set")
    assert await broker.redbeat() is None
    redis.delete(SCHEDULE)
    for number, text in enumerate((b"\xff", "[]", "{}", '{"schedule": 7}', "[" * 100_000)):
        redis.hset(f"redbeat:{number}", "definition", text)
        redis.zadd(SCHEDULE, {f"redbeat:{number}": 10.0**number * 1e10})
    redis.zadd(SCHEDULE, {"redbeat:gone": 1.0})
    keep(redis, "rule", {"__type__": "rrule", "freq": 3}, 5.0)
    found = await broker.redbeat()
    assert found is not None
    assert [one.when for one in found if one.name == "rule"] == ["by a rule of its own"]
