"""Queues are paused, given back and drained under load, with real workers: no task is lost and none
runs twice, and what is said to be empty is.
"""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.load import Load
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""
PROGRAMS = (Program("a"), Program("b", pool="prefork"), Program("beat", beat=True))
WORKERS = ("a", "b")
AROUND = """
name: around
summary: Something without the consumers of a queue.
risk: low
steps:
  - pause: common
  - wait: for a runbook's end
    until: fleet.workers == 9
    timeout: 25s
  - resume: queue
    queue: common
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        write_runbook(made.folder, "around", AROUND)
        yield made


def consumed(fleet: Operations) -> dict[str, object]:
    return {name: fleet.consumed_by(fleet.programs[name].node_name) for name in WORKERS}


def test_a_queue_is_paused_and_resumed_under_load(fleet: Operations, ann: Operator) -> None:
    before = consumed(fleet)
    with Load(fleet.fleet, COMMON, "a", "b", first=next(FIRSTS)) as load:
        wait_until(lambda: load.sent > 20, what="some load")
        paused = ann.do("queue", "pause", COMMON, "--yes")
        assert paused.code == 0, paused.all
        assert not fleet.poller.consumers()[COMMON]
        waiting, sent = fleet.redis.llen(COMMON), load.sent
        wait_until(lambda: load.sent > sent + 40, what="more load")
        assert fleet.redis.llen(COMMON) > waiting
        assert fleet.poller.consumers() == {"a": 1, "b": 1}
        resumed = ann.do("queue", "resume", COMMON)
        assert resumed.code == 0, resumed.all
        assert consumed(fleet) == before
        sent = load.sent
        wait_until(lambda: load.sent > sent + 20, what="load again")
    load.settle()
    assert load.twice() == []
    assert fleet.nothing_is_taken()


def test_a_worker_that_is_restarted_meanwhile_is_paused_again(
    fleet: Operations, ann: Operator
) -> None:
    before = consumed(fleet)
    running = ann.start("runbook", "around", "--yes")
    ann.until(lambda one: one["event"] == "progress" and one.get("step") == "2", "a pause")
    fleet.stop("a")
    fleet.start("a")
    joined = ann.until(
        lambda one: "had begun to consume it" in str(one.get("outcome")), "it is paused again"
    )
    assert joined["outcome"]["result"] == "done"
    assert COMMON not in fleet.poller.consumers()
    running.interrupt()
    said = running.wait()
    assert said.code == 5, said.all
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()


def test_what_is_drained_is_empty_with_retries_and_etas(fleet: Operations, ann: Operator) -> None:
    first = next(FIRSTS)
    numbers = range(first, first + 30)
    for number in numbers[:20]:
        fleet.fleet.send(number, 0.4, queue=COMMON, task="rig.work_late")
    for number in numbers[20:25]:
        fleet.fleet.send(number, 0.1, queue=COMMON, countdown=9)
    for number in numbers[25:]:
        args = [number, 2, 8]  # well above the five seconds that it is watched at least
        fleet.fleet.send_with(args, task="rig.again", queue=COMMON)
    drained = ann.do("queue", "drain", COMMON, "-p", "stop_beat=yes", "-p", "timeout=2m")
    ends, starts = fleet.fleet.ends(), fleet.fleet.starts()
    assert drained.code == 0, drained.all
    assert [ends.get(number) for number in numbers] == [1] * 30
    assert [starts.get(number) for number in numbers] == [1] * 25 + [3] * 5
    assert fleet.redis.llen(COMMON) == 0
    assert fleet.numbers_of_unacked() == set()
    assert re.search(r"held by workers \(\d+ until their ETA, the last in \d+s\)", drained.all)
    assert "the longest countdown of a retry" in drained.all
    assert fleet.pid("beat") > 0
    assert fleet.nothing_is_taken()


def test_a_drain_ends_when_it_is_true_and_no_sooner_while_tasks_are_sent(
    fleet: Operations, ann: Operator
) -> None:
    with Load(fleet.fleet, COMMON, first=next(FIRSTS)) as load:
        wait_until(lambda: load.sent > 10, what="some load")
        running = ann.start("queue", "drain", COMMON)
        ann.until(lambda one: one["event"] == "progress" and one.get("step") == "3", "a wait")
        sent = load.sent
        wait_until(lambda: load.sent > sent + 60, what="more load")
        assert running.process.poll() is None
    over = time.monotonic()
    said = running.wait()
    assert said.code == 0, said.all
    assert time.monotonic() - over > 4
    ends = fleet.fleet.ends()
    assert all(ends.get(number) == 1 for number in load.numbers)
    assert load.twice() == []


def test_a_queue_that_nobody_consumes_is_neither_paused_nor_drained(ann: Operator) -> None:
    for verb in ("pause", "drain"):
        refused = ann.do("queue", verb, "nothing", "--yes")
        assert refused.code == 7, refused.all
        assert "nobody consumes nothing" in refused.all
