"""Tasks are held by name, with real workers that are idle: none that is held begins, all others do,
and once they are released each runs once.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import COMMON, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""
PROGRAMS = (Program("a"), Program("b", pool="prefork"))
WORKERS = ("a", "b")
HELD, OTHER = "rig.work_late", "rig.work"
SWITCHED = {f"celery-ops.through.{COMMON}": 2, "celery-ops.through.a": 1, "celery-ops.through.b": 1}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


def consumed(fleet: Operations) -> dict[str, object]:
    return {name: fleet.consumed_by(fleet.programs[name].node_name) for name in WORKERS}


def send(fleet: Operations, count: int) -> tuple[range, range]:
    """So many of each kind, in turn; the numbers of those that are held, and of the others."""
    first = next(FIRSTS)
    held, others = range(first, first + count), range(first + 50_000, first + 50_000 + count)
    for one, other in zip(held, others, strict=True):
        fleet.fleet.send(one, queue=COMMON, task=HELD)
        fleet.fleet.send(other, queue=COMMON, task=OTHER)
    return held, others


def begun(fleet: Operations, numbers: Sequence[int]) -> int:
    starts = fleet.fleet.starts()
    return sum(number in starts for number in numbers)


def parked(fleet: Operations) -> int:
    return sum(fleet.redis.llen(key) for key in fleet.redis.keys("celery-ops.parked.*"))


def all_once(fleet: Operations, numbers: Sequence[int]) -> bool:
    starts, ends = fleet.fleet.starts(), fleet.fleet.ends()
    return all(starts.get(number) == 1 == ends.get(number) for number in numbers)


def test_none_that_is_held_begins_and_all_others_do(fleet: Operations, ann: Operator) -> None:
    """The run is killed as soon as it holds, and gone on with; a worker is restarted meanwhile."""
    before = consumed(fleet)
    held = ann.do("task", "hold", HELD, "--yes")
    assert held.code == 0, held.all
    assert fleet.poller.consumers() == SWITCHED
    os.kill(ann.executor(), signal.SIGKILL)
    again = ann.do("runs", "resume")
    assert again.code == 0, again.all
    ours, others = send(fleet, 200)
    retried = others.stop
    fleet.fleet.send_with([retried, 2, 0], task="rig.again", queue=COMMON)
    wait_until(lambda: all_once(fleet, others), what="the others")
    wait_until(lambda: fleet.fleet.ends().get(retried) == 1, what="what is tried again")
    assert fleet.fleet.starts()[retried] == 3
    fleet.stop("a")
    fleet.start("a")
    wait_until(lambda: fleet.poller.consumers() == SWITCHED, what="it is switched")
    late, also = send(fleet, 20)
    wait_until(lambda: all_once(fleet, also), what="the other ones that were sent late")
    assert begun(fleet, [*ours, *late]) == 0
    assert parked(fleet) == 220
    assert f"{HELD}: is held since" in (shown := ann.do("status").all)
    assert "220 messages parked" in shown
    refused = ann.do("queue", "pause", COMMON, "--yes")
    assert refused.code == 7, refused.all
    assert f"{HELD} is held by run" in refused.all
    released = ann.do("task", "release", HELD, "-p", "rate=200/s", "--yes")
    assert released.code == 0, released.all
    assert "220 messages that were held given back" in released.all
    wait_until(lambda: all_once(fleet, [*ours, *late]), what="those that were held")
    assert all_once(fleet, [*others, *also])
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()
    assert not fleet.redis.keys("*through*")


def test_a_killed_hold_is_released_from_another_machine_and_loses_nothing(
    fleet: Operations, operator: MakeOperator
) -> None:
    before = consumed(fleet)
    ann, bob = operator("ann"), operator("bob")
    held = ann.do("task", "hold", HELD, "--yes")
    assert held.code == 0, held.all
    ours, others = send(fleet, 100)
    wait_until(lambda: begun(fleet, others) > 20, what="some of the others")
    os.kill(ann.executor(), signal.SIGKILL)
    more, also = send(fleet, 50)
    fleet.redis.delete("celery-ops:lease:hold")  # as it expires by itself in 15 seconds
    wait_until(
        lambda: "that run is gone: workers get nothing of" in bob.do("status").all,
        what="it is said that nobody carries them on",
    )
    assert begun(fleet, [*ours, *more]) == 0
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 2, undone.all
    assert "task release" in undone.all
    released = bob.do("task", "release", "-p", "parked=keep", "--yes")
    assert released.code == 0, released.all
    assert " stay parked in celery-ops.parked.common." in released.all
    wait_until(lambda: all_once(fleet, [*others, *more, *also]), what="all that is not parked")
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()
    unparked = bob.do("queue", "unpark", COMMON, "--yes")
    assert unparked.code == 0, unparked.all
    wait_until(lambda: all_once(fleet, ours), what="those that were held")
    over = ann.do("runs", "resume")
    assert over.code == 0, over.all


def test_an_abort_gives_all_back_to_one_that_is_drained_too(
    fleet: Operations, ann: Operator
) -> None:
    before = consumed(fleet)
    running = ann.do("task", "hold", HELD, "--yes")
    assert running.code == 0, running.all
    hold = ann.journals()[0].stem
    gaps = [f"-pallow_gap={queue}" for queue in (COMMON, "a")]
    drained = ann.do("worker", "drain", "a@rig", "--yes", *gaps)
    assert drained.code == 0, drained.all
    ours, others = send(fleet, 10)
    wait_until(lambda: all_once(fleet, others), what="the others")
    assert begun(fleet, ours) == 0
    assert ann.do("runs", "abort", hold).code == 0
    wait_until(lambda: all_once(fleet, ours), what="those that were held")
    aborted = ann.do("runs", "follow", hold)
    assert aborted.code == 5, aborted.all
    assert ann.do("worker", "resume", "a@rig").code == 0
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()
