"""Workers are switched to a release that lacks a task, while messages of it wait and more of them
come: its workers would discard them, and get none.

Each runs once on the release that knows it, or is parked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from base64 import b64decode
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.released import OLD, current, released_fleet

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tests.rig.host_fleet import HostFleet
    from tests.rig.operator import Event, Operator, Said

pytestmark = pytest.mark.rig

FIRST = 100_000
"""The number of the first task that the earlier release does not know."""
NOVEL_EVERY = 0.02
SWITCH = """
name: switch
summary: As a rollback, without beat and without a watch afterwards.
risk: medium
params:
  strategy: {type: text}
steps:
  - drain: "*"
    when: params.strategy == 'drain-first'
    keep_available: 0
    timeout: 1m
  - hold: task
    unknown_to: r1
    untold: refuse
    timeout: 30s
  - roll: "*"
    order: by_name
    batch: 1
    keep_available: 0
    steps:
      - drain: worker
        when: params.strategy == 'rolling'
        timeout: 1m
      - activate: r1
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.release == 'r1', worker.queues == before.worker.queues]
      hold: 1s
      timeout: 1m
  - release: task
    parked: keep
    timeout: 1m
"""


@pytest.mark.parametrize("strategy", ["drain-first", "rolling"])
def test_what_the_earlier_release_does_not_know_is_parked_and_comes_back(
    tmp_path: Path, strategy: str
) -> None:
    with released_fleet(tmp_path / "fleet", "web1") as fleet, contextlib.ExitStack() as sending:
        (fleet.folder / "runbooks").mkdir()
        (fleet.folder / "runbooks/switch.yaml").write_text(SWITCH)
        ann = fleet.operator(tmp_path, "ann")
        novel = Load(
            fleet.fleet, "common", "mail", first=FIRST, every=NOVEL_EVERY, tasks=("rig.novel",)
        )
        with Load(fleet.fleet, *fleet.consumers, every=0.3) as load:
            sending.enter_context(novel)
            wait_until(lambda: len(fleet.fleet.ends()) > 20, what="the fleet is at work")
            run = switched_in_spite_of_a_crash(ann, strategy, sending)
        assert run.code == 0, run.all
        assert current(fleet) == {"web1": OLD}
        _all_that_is_known_ran_once(load, fleet)
        kept = parked(fleet)
        _each_ran_once_or_is_parked(novel, kept, fleet)
        report = run.events[-1]["outcome"]["report"]
        assert "rig.novel" in str(report["left_parked"])
        assert "queue unpark celery-ops.parked.common." in str(report["left_parked"])
        _all_is_as_before(fleet)
        _they_come_back(ann, kept, fleet)
        fleet.dismiss()
        assert fleet.leaks() == []


def switched_in_spite_of_a_crash(
    ann: Operator, strategy: str, sending: contextlib.ExitStack
) -> Said:
    """The executor is killed when the first worker is switched. Nobody sends any more what is
    unknown when the last one is.
    """
    going = ann.start("runbook", "switch", "-p", f"strategy={strategy}", "--yes")
    first = ann.until(lambda one: _is_verified(one, ""), "the first worker is switched")
    os.kill(ann.executor(), signal.SIGKILL)
    died = going.wait()
    assert died.code == 4, died.all
    going = ann.start("runs", "resume", "--json")
    ann.until(lambda one: _is_verified(one, first["target"]), "the last worker is switched")
    sending.close()
    return going.wait()


def _is_verified(event: Event, other_than: str) -> bool:
    of_a_proof = event["event"] == "result" and event["step"].endswith("verify")
    return bool(of_a_proof and event["target"] != other_than)


def parked(fleet: HostFleet) -> dict[int, bytes]:
    """The messages that are parked, by the number of their task."""
    return waiting(fleet, fleet.redis.keys("celery-ops.parked.*"))


def waiting(fleet: HostFleet, keys: Collection[bytes | str]) -> dict[int, bytes]:
    """What waits there, byte by byte."""
    found: dict[int, bytes] = {}
    for key in keys:
        for raw in fleet.redis.lrange(key, 0, -1):
            assert isinstance(raw, bytes)
            message = json.loads(raw)
            assert message["headers"]["task"] == "rig.novel"
            found[json.loads(b64decode(message["body"]))[0][0]] = raw
    return found


def _all_that_is_known_ran_once(load: Load, fleet: HostFleet) -> None:
    load.settle(logs=fleet.logged)
    assert load.twice() == []


def _each_ran_once_or_is_parked(novel: Load, kept: dict[int, bytes], fleet: HostFleet) -> None:
    starts = {number: count for number, count in fleet.fleet.starts().items() if number >= FIRST}
    said = fleet.logged(["unregistered"])
    discarded = len(re.findall(r"Received unregistered task of type", said))
    print(f"{novel.sent} sent, {len(starts)} begun, {len(kept)} parked, {discarded} discarded")
    assert discarded == 0
    assert len(kept) > 50
    assert not starts.keys() & kept.keys()
    assert set(starts.values()) == {1}
    assert set(novel.numbers) == starts.keys() | kept.keys()


def _all_is_as_before(fleet: HostFleet) -> None:
    assert fleet.poller.consumers() == fleet.consumers
    assert fleet.nothing_is_taken()
    assert not fleet.redis.keys("*through*")


def _they_come_back(ann: Operator, kept: dict[int, bytes], fleet: HostFleet) -> None:
    """To their queues, not a byte of them changed."""
    (beat,) = fleet.beats
    fleet.hosts[beat.host].run("systemctl", "stop", beat.name)
    queues = list(fleet.consumers)
    wait_until(lambda: not any(map(fleet.redis.llen, queues)), what="nothing else waits")
    for one in fleet.members:
        fleet.hosts[one.host].run("systemctl", "stop", one.service.name)
    for queue in queues:
        assert ann.do("queue", "unpark", queue, "--yes").code == 0
    assert waiting(fleet, queues) == kept
