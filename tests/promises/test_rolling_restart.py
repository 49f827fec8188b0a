"""The main job on real parts: a fleet under load is restarted, and nothing is lost or goes without.

Somebody who knows nothing of celery_ops counts the consumers meanwhile.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from redis import Redis

from tests.demo.conftest import require_servers
from tests.rig import wait_until
from tests.rig.operator import Operator
from tests.rig.poller import Poller, Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Said

pytestmark = pytest.mark.rig

CONSUMERS = {"default": 4, "mail": 2, "reports": 2}
GUARD = {"default": 3, "mail": 1, "reports": 1}
"""What `keep_available: 75%` leaves of these."""


@dataclass(frozen=True)
class Restarted:
    """What was seen before, during and after."""

    before: Any
    run: Said
    sampler: Sampler
    after: Any
    ledger: Any


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    """`demo --headless` and a rolling restart of all of it, by the real command."""
    require_servers()
    operator = Operator(tmp_path_factory.mktemp("demo"), "ann")
    demo = operator.start("demo", "--headless")
    try:
        wait_until(lambda: "Ctrl-C stops it" in demo.said, what="a demo", timeout=60)
        (name,) = re.findall(r"^(demo-\w+) runs", demo.said, re.MULTILINE)
        yield _restart(operator, name)
        stopped = operator.do("-c", name, "demo", "stop")
        assert (stopped.code, demo.wait().code) == (0, 0), stopped.err + demo.said
    finally:
        operator.stop()


def _restart(operator: Operator, name: str) -> Restarted:
    with Redis.from_url(_broker(operator, name), protocol=2) as redis:
        poller = Poller(redis)
        wait_until(lambda: poller.consumers() == CONSUMERS, what="four workers", timeout=60)
        before = _whole_status(operator, name)
        with Sampler(poller) as sampler:
            restart = ("runbook", "rolling-restart", "--yes", "--json", "-p", "hold=1s")
            run = operator.do("-c", name, *restart)
        after = _whole_status(operator, name)
    ledger = operator.do("-c", name, "demo", "ledger", "--json", "--settle")
    assert ledger.code == 0, ledger.err
    return Restarted(before, run, sampler, after, ledger.json)


def _whole_status(operator: Operator, name: str) -> Any:
    """Once all have answered: on a slow machine a look may be over before."""
    seen: list[Any] = []

    def is_whole() -> bool:
        seen.append(operator.do("-c", name, "status", "--json").json)
        told = [worker["started_at"] for worker in seen[-1]["workers"]]
        return bool(seen[-1]["complete"] and all(told))

    wait_until(is_whole, what="a status of everybody", timeout=60)
    return seen[-1]


def _broker(operator: Operator, name: str) -> str:
    entry = json.loads((operator.runs.parent / "demos" / f"{name}.json").read_text())
    with open(entry["config"], encoding="utf-8") as file:
        return str(yaml.safe_load(file)["contexts"][name]["broker"])


def test_a_rolling_restart_under_load_ends_well(restarted: Restarted) -> None:
    assert restarted.run.code == 0, restarted.run.all


def test_status_shows_the_whole_fleet(restarted: Restarted) -> None:
    fleet = restarted.before
    assert fleet["complete"]
    assert {worker["name"]: (worker["pool"], worker["queues"]) for worker in fleet["workers"]} == {
        "prefork1@demo": ("prefork", ["default", "reports"]),
        "prefork2@demo": ("prefork", ["default", "reports"]),
        "threads1@demo": ("threads", ["default", "mail"]),
        "threads2@demo": ("threads", ["default", "mail"]),
    }
    assert {queue["name"]: queue["consumers"] for queue in fleet["queues"]} == CONSUMERS
    for worker in fleet["workers"]:
        assert worker["concurrency"] == 2
        assert worker["pid"] > 0
        assert worker["service"]["supervisord"] == worker["name"].partition("@")[0]


def test_every_worker_is_a_new_incarnation(restarted: Restarted) -> None:
    before = {worker["name"]: worker for worker in restarted.before["workers"]}
    after = {worker["name"]: worker for worker in restarted.after["workers"]}
    assert after.keys() == before.keys()
    for name, worker in after.items():
        assert worker["state"] == "online"
        assert worker["pid"] != before[name]["pid"]
        assert _moment(worker["started_at"]) > _moment(before[name]["started_at"])
        assert worker["queues"] == before[name]["queues"]
    assert restarted.after["taken"] == []
    assert restarted.after["holder"] is None


@pytest.mark.parametrize("queue", GUARD)
def test_no_queue_had_fewer_consumers_than_the_guard_allows(
    restarted: Restarted, queue: str
) -> None:
    samples = restarted.sampler.samples
    events = restarted.run.events
    seconds = (_moment(events[-1]["at"]) - _moment(events[0]["at"])).total_seconds()
    assert len(samples) > 3 * seconds, "five a second are meant, some may be late"
    assert samples[0] == samples[-1] == CONSUMERS
    assert restarted.sampler.least(queue) == GUARD[queue], "the restart itself was seen, too"


def test_no_task_was_lost_and_none_ran_twice(restarted: Restarted) -> None:
    assert restarted.ledger["lost"] == restarted.ledger["twice"] == 0
    assert restarted.ledger["done"] == restarted.ledger["sent"] > 100


def test_what_is_printed_is_the_journal(restarted: Restarted) -> None:
    events = restarted.run.events
    assert all(event.keys() >= {"v", "seq", "at", "event"} for event in events)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["event"] == "planned"
    assert events[-1]["event"] == "ended"
    assert sorted(events[-1]["outcome"]["report"]["done"]) == [
        "prefork1@demo", "prefork2@demo", "threads1@demo", "threads2@demo",
    ]  # fmt: skip
    moments = [_moment(event["at"]) for event in events]
    assert moments == sorted(moments)


def test_no_effect_is_without_its_intent(restarted: Restarted) -> None:
    intended = set()
    for event in restarted.run.events:
        about = (event.get("step"), event.get("target"))
        if event["event"] == "intent":
            assert event["expect"]
            assert event["undo"]
            intended.add(about)
        elif event["event"] == "result" and event["step"] in {"2.1", "2.2"}:
            assert about in intended
    assert len(intended) == 8, "a drain and a restart of four workers"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
