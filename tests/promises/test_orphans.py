"""What a killed worker held is found, and goes back only when nobody holds it; counted."""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (Program("threads"), Program("prefork", pool="prefork"), Program("other"))
NUMBERS = itertools.count(1)
ETA = 25.0
SETTLED = 6.5
"""Seconds until a delivery is old enough to be judged."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


def held(fleet: Operations, numbers: set[int]) -> bool:
    return fleet.numbers_of_unacked() >= numbers


def numbers(count: int) -> list[int]:
    return [next(NUMBERS) for _ in range(count)]


def kill(fleet: Operations, name: str) -> None:
    """kill -9, and wait until its supervisor has started it again."""
    pid = fleet.pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: fleet.pid(name) not in {0, pid}, what="another process")
    wait_until(lambda: fleet.consumes_all(name), what=f"{name} consumes again")


def orphans(operator: Operator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = operator.status()["orphans"]
    return found


@pytest.mark.parametrize("name", ["threads", "prefork"])
def test_what_a_killed_worker_held_runs_once_more_and_the_rest_for_the_first_time(
    fleet: Operations, ann: Operator, name: str
) -> None:
    """Of seven held: three wait for their ETA, three were prefetched, one acknowledges late and was
    running: that one runs again from its beginning, as it is meant to.
    """
    later, (late, *waiting) = numbers(3), numbers(4)
    for number in later:
        fleet.fleet.send(number, queue=name, countdown=ETA)
    wait_until(lambda: held(fleet, set(later)), what="tasks that wait for their time")
    fleet.fleet.send(late, 3.0, task="rig.work_late", queue=name)
    for number, priority in zip(waiting, (0, 3, 9), strict=True):
        fleet.fleet.send(number, queue=name, priority=priority)
    wait_until(lambda: late in fleet.fleet.starts(), what="a task that runs")
    everything = {*later, late, *waiting}
    wait_until(lambda: held(fleet, everything), what="seven messages are held")
    kill(fleet, name)
    assert fleet.numbers_of_unacked() == everything

    wait_until(lambda: len(orphans(ann)) == 7, what="seven orphans")
    (problem,) = (one for one in ann.status()["problems"] if one["rule"] == "orphaned-messages")
    assert (problem["level"], problem["subject"]) == ("error", name)
    assert "7 messages" in problem["says"]
    assert problem["fix"] == f"celery-ops runbook restore-orphans -p queue={name}"
    planned = ann.do("runbook", "restore-orphans", "--plan")
    assert planned.code == 0, planned.all
    print(planned.out)
    print(ann.do("status").out)
    done = ann.do("runbook", "restore-orphans", "--yes")
    print(done.all)
    assert done.code == 0, done.all
    wait_until(
        lambda: everything <= fleet.fleet.ends().keys(), what="all tasks end", timeout=ETA + 30
    )
    ends, starts = fleet.fleet.ends(), fleet.fleet.starts()
    assert {number: ends[number] for number in everything} == dict.fromkeys(everything, 1)
    assert starts[late] == 2
    assert {starts[number] for number in (*later, *waiting)} == {1}
    wait_until(lambda: not fleet.numbers_of_unacked(), what="nothing is held")
    again = ann.do("runbook", "restore-orphans", "--yes")
    assert again.code == 7
    assert "nothing to do" in again.err
    assert orphans(ann) == []
