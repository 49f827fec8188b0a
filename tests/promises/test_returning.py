"""Dead letters are returned by the real command on a real Redis, and run by a real worker."""

from __future__ import annotations

import base64
import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.promises.test_moving import message, survive
from tests.rig import wait_until
from tests.rig.operator import Operators
from tests.rig.workers import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator
    from tests.rig.redis import RedisServer

pytestmark = pytest.mark.rig

A_DEATH = 1_500
ADDRESSES = (b'"exchange": "", "routing_key": "mail"', b'"exchange": "shop", "routing_key": "o.1"',
             b'"exchange": "", "routing_key": "gone"')  # fmt: skip
MAPPING = [f"--{name}=kwargs.{name}" for name in ("task", "id", "args", "kwargs")]


@pytest.fixture
def ann(tmp_path: Path, redis_server: RedisServer) -> Iterator[Operator]:
    operators = Operators([])
    yield operators.hire(tmp_path, "ann", "-b", redis_server.url())
    operators.dismiss()


@pytest.fixture
def redis(redis_server: RedisServer) -> Any:
    """Of a fleet whose queues are bound, as workers bind them when they start."""
    client: Any = redis_server.client()
    client.sadd("_kombu.binding.mail", "mail\x06\x16\x06\x16mail")
    client.sadd("_kombu.binding.shop", "o.*\x06\x16\x06\x16other")
    return client


@pytest.fixture
def deaths(request: pytest.FixtureRequest) -> int:
    return 25 if request.config.getoption("--every-death") else 2


def waiting(redis: Any, queue: str) -> list[bytes]:
    found: list[bytes] = redis.lrange(queue, 0, -1)
    return found[::-1]


def wrapper(original: dict[str, Any]) -> bytes:
    said: Any = json.loads(message(1, 0))
    body = json.dumps([[], original, {}]).encode()
    said["body"] = base64.b64encode(body).decode()
    said["headers"] |= {"task": "dead_letter.store", "id": str(uuid.uuid4())}
    return json.dumps(said).encode()


def test_what_was_moved_goes_back_to_the_byte_however_often_the_executor_is_killed(
    redis: Any, ann: Operator, deaths: int
) -> None:
    count = A_DEATH * deaths
    mail = b'"exchange": "", "routing_key": "mail"'
    plain = [message(number, 0) for number in range(1, 2 * count) if number % 7][:count]
    sent = [raw.replace(mail, ADDRESSES[at % 3]) for at, raw in enumerate(plain)]
    for start in range(0, count, 1_000):
        redis.lpush("dead", *sent[start : start + 1_000])
    killed = survive(redis, ann, ["queue", "return", "dead", "--yes"], count // 3 * 2, deaths)
    assert killed >= deaths // 2
    assert waiting(redis, "mail") == sent[::3]
    own = b'"exchange": "", "routing_key": "other"'
    assert waiting(redis, "other") == [raw.replace(ADDRESSES[1], own) for raw in sent[1::3]]
    assert waiting(redis, "dead") == sent[2::3]
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    assert sorted(waiting(redis, "dead")) == sorted(sent)


def test_each_original_takes_its_wrappers_place_once_however_often_the_executor_is_killed(
    redis: Any, ann: Operator, deaths: int
) -> None:
    count = A_DEATH * deaths
    names = ("mail", "other")
    redis.sadd("_kombu.binding.other", "other\x06\x16\x06\x16other")
    sent = [
        wrapper({"task": "shop.t", "id": f"id-{n}", "args": [n], "kwargs": {}, "q": names[n % 2]})
        for n in range(count)
    ]
    odd = [b"no message", wrapper({"task": 3, "id": "x", "args": [], "kwargs": {}, "q": "mail"})]
    redis.lpush("dead", *odd, *sent)
    command = ["queue", "unwrap", "dead", *MAPPING, "--origin", "kwargs.q", "--yes"]
    killed = survive(redis, ann, command, count, deaths)
    assert killed >= deaths // 2
    for at, queue in enumerate(names):
        found = [json.loads(raw)["headers"] for raw in waiting(redis, queue)]
        assert [one["id"] for one in found] == [f"id-{n}" for n in range(at, count, 2)]
    assert waiting(redis, "dead") == odd
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    assert sorted(waiting(redis, "dead")) == sorted([*odd, *sent])


def test_a_real_worker_runs_each_that_is_returned_once(
    redis_server: RedisServer, redis: Any, ann: Operator, tmp_path: Path
) -> None:
    """Those that were moved as they are, those in wrappers, and wrappers within the bounds only."""
    fleet = Fleet(tmp_path / "fleet", redis_server.url(), redis_server.url(1))
    try:
        for number in range(20):
            fleet.send(number, queue="mail")
            redis.lmove("mail", "dead", "RIGHT", "LEFT")
        for number in range(20, 40):
            args: object = [number] if number % 2 else json.dumps([number, 0.0])
            said = {"task": "rig.work", "id": f"id-{number}", "args": args,
                    "kwargs": {"more": {"é": None}}}  # fmt: skip
            fleet.send_with([], task="dead_letter.store", kwargs=said, queue="wrapped",
                            compression="gzip" if number % 4 else None)  # fmt: skip
        fleet.send_with([], task="dead_letter.store", kwargs={"task": "rig.work"}, queue="wrapped")
        fleet.send_with([], task="dead_letter.store", queue="wrapped", serializer="pickle")
        returned = ann.do("queue", "return", "dead", "--yes")
        assert returned.code == 0, returned.all
        unwrap = ("queue", "unwrap", "wrapped", *MAPPING, "--to", "mail")
        planned = ann.do(*unwrap, "--plan").out
        assert "1 message of wrapped will stay there: there is no kwargs.args" in planned
        assert "will stay there: its body is not opened: pickle" in planned
        assert "the arguments of 10 are texts of JSON" in planned
        unwrapped = ann.do(*unwrap, "--yes")
        assert unwrapped.code == 0, unwrapped.all
        fleet.start("m@rig", queues=["mail"], concurrency=2)
        wait_until(lambda: len(fleet.ends()) == 40, what="all have ended", timeout=120)
    finally:
        fleet.stop()
    assert Counter(fleet.starts().values()) == Counter(fleet.ends().values()) == {1: 40}
    assert redis.llen("mail") == redis.llen("dead") == 0
    assert redis.llen("wrapped") == 2
