"""What a release does not know is parked beside the steps of a run: however that run ends, workers
consume their own queues again, nothing stays on the way, and what is parked is named.

The workers know the parked task all the same, so one that gets a message as it starts runs it.
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
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

FIRSTS = itertools.count(0, 100_000)
"""The number of the first task of each test."""
PROGRAMS = (Program("a"), Program("b", pool="prefork"))
SWITCHED = {f"celery-ops.through.{name}": count for name, count in
            ((COMMON, 2), ("a", 1), ("b", 1))}  # fmt: skip
KNOWN, UNKNOWN = "rig.work", "rig.work_late"
TASKS = f"{KNOWN}\\nrig.again\\n"
RELEASE = f"""
    release:
      commands:
        current: [printf, r2]
        releases: [printf, 'r1\\nr2\\n']
        activate: ['true']
        tasks: [printf, '{TASKS}']
"""
RUNBOOK = """
name: switch
summary: Restarts workers while what r1 does not know is parked.
risk: medium
params:
  go: {type: text, help: "on, wait, fail, or wait at the end: late"}
steps:
  - hold: task
    unknown_to: r1
    timeout: 30s
  - roll: "a@rig"
    keep_available: 0
    steps:
      - drain: worker
        timeout: 1m
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.queues == before.worker.queues]
      hold: 1s
      timeout: 1m
  - wait: for a word
    until: params.go != 'wait'
    timeout: 5m
  - check: params.go != 'fail'
  - release: task
    parked: keep
    timeout: 1m
  - wait: for another word
    until: params.go != 'late'
    timeout: 5m
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        made.config.write_text(made.config.read_text() + RELEASE)
        (made.folder / "runbooks").mkdir()
        (made.folder / "runbooks/switch.yaml").write_text(RUNBOOK)
        yield made


class Sent:
    """Tasks of both kinds, and what becomes of them."""

    def __init__(self, fleet: Operations) -> None:
        self._fleet = fleet
        self._first = next(FIRSTS)
        self.known: list[int] = []
        self.unknown: list[int] = []

    def more(self, count: int = 20) -> None:
        for _ in range(count):
            self.known.append(self._first + len(self.known))
            self._fleet.fleet.send(self.known[-1], queue=COMMON, task=KNOWN)
            self.one_unknown()

    def one_unknown(self) -> None:
        self.unknown.append(self._first + 50_000 + len(self.unknown))
        self._fleet.fleet.send(self.unknown[-1], queue=COMMON, task=UNKNOWN)

    @property
    def begun(self) -> int:
        """How many have begun of those that are not known."""
        starts = self._fleet.fleet.starts()
        return sum(number in starts for number in self.unknown)

    def all_that_is_known_ran_once(self) -> None:
        wait_until(lambda: self._ran_once(self.known), what="all that is known has run")

    def all_else_is_parked(self) -> None:
        """Of those that are not known each has begun, or is parked."""
        left = parked(self._fleet)
        wait_until(lambda: self.begun + left == len(self.unknown), what="the others have begun")

    def all_ran_once(self) -> None:
        wait_until(lambda: self._ran_once(self.known + self.unknown), what="all have run")

    def _ran_once(self, numbers: list[int]) -> bool:
        starts, ends = self._fleet.fleet.starts(), self._fleet.fleet.ends()
        return all(starts.get(number) == 1 == ends.get(number) for number in numbers)


def parked(fleet: Operations) -> int:
    return sum(fleet.redis.llen(key) for key in fleet.redis.keys("celery-ops.parked.*"))


def consumed(fleet: Operations) -> dict[str, object]:
    return {one.name: fleet.consumed_by(one.node_name) for one in PROGRAMS}


def switch(go: str) -> tuple[str, ...]:
    return ("runbook", "switch", "-p", f"go={go}", "--yes", "--json")


def it_waits(ann: Operator, step: str = "3") -> None:
    ann.until(lambda one: one["event"] == "progress" and one["step"] == step, "it waits for a word")


def all_is_well_again(fleet: Operations, ann: Operator, sent: Sent, run: Said) -> None:
    """After a run that did not come to its release step."""
    assert run.code == 4, run.all
    (owed,) = run.events[-1]["outcome"]["report"]["owed"]
    assert f"{UNKNOWN}: {parked(fleet)}; sent by gen{os.getpid()}@" in owed["says"]
    assert owed["mend"] in ann.do("runs", "show").all.replace(" -c rig ", " ")
    sent.more(5)  # nobody parks them any more
    sent.all_that_is_known_ran_once()
    assert fleet.nothing_is_taken()
    assert not fleet.redis.keys("*through*")
    sent.all_else_is_parked()
    assert ann.do("queue", "unpark", COMMON, "--yes").code == 0
    sent.all_ran_once()


def test_a_run_that_comes_to_its_end_names_what_stays_parked(
    fleet: Operations, ann: Operator
) -> None:
    before = consumed(fleet)
    sent = Sent(fleet)
    plan = ann.do(*switch("on")[:4], "--plan")
    assert "workers have tasks that r1 lacks" in plan.all
    going = ann.start(*switch("on"))
    ann.until(lambda one: one["event"] == "batch", "the roll begins")
    sent.more()
    wait_until(lambda: parked(fleet) == 20, what="they are parked")
    ann.until(lambda one: one.get("verb") == "start", "a worker starts")
    sent.more()
    run = going.wait()
    assert run.code == 0, run.all
    (left,) = run.events[-1]["outcome"]["report"]["left_parked"]
    assert left["mend"].startswith(f"celery-ops queue unpark celery-ops.parked.{COMMON}.")
    assert f"{UNKNOWN}: {parked(fleet)}; sent by gen{os.getpid()}@" in left["says"]
    assert "sent some until now" in run.events[-1]["outcome"]["says"]
    sent.all_that_is_known_ran_once()
    sent.all_else_is_parked()
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()
    assert not fleet.redis.keys("*through*")
    assert ann.do("queue", "unpark", COMMON, "--yes").code == 0
    sent.all_ran_once()


@pytest.mark.parametrize("how", ["fails", "is aborted"])
def test_a_run_that_ends_before_gives_all_back(fleet: Operations, ann: Operator, how: str) -> None:
    before = consumed(fleet)
    sent = Sent(fleet)
    going = ann.start(*switch("fail" if how == "fails" else "wait"))
    ann.until(lambda one: one["event"] == "batch", "the roll begins")
    sent.more()
    if how == "is aborted":
        it_waits(ann)
        going.interrupt()
    run = going.wait()
    all_is_well_again(fleet, ann, sent, run)
    assert consumed(fleet) == before


def test_one_that_was_killed_is_switched_as_it_comes_back(fleet: Operations, ann: Operator) -> None:
    """It is bound all the while, so it is not seen to come."""
    before = consumed(fleet)
    sent = Sent(fleet)
    going = ann.start(*switch("wait"))
    it_waits(ann)
    spawned = fleet.spawned("b")
    os.kill(fleet.pid("b"), signal.SIGKILL)

    def is_back() -> bool:
        # None of the others: what Redis still gives to a worker that dies is lost with it, before
        # anybody of ours has a part in it.
        sent.one_unknown()
        return fleet.spawned("b") > spawned and fleet.poller.consumers() == SWITCHED

    wait_until(is_back, what="it is switched")
    sent.more(20)
    going.interrupt()
    run = going.wait()
    print(f"{len(sent.unknown)} sent, {parked(fleet)} parked, {sent.begun} begun")
    assert parked(fleet) > sent.begun
    all_is_well_again(fleet, ann, sent, run)
    assert consumed(fleet) == before


def test_a_run_that_is_killed_while_its_end_is_put_off_goes_on_parking(
    fleet: Operations, ann: Operator
) -> None:
    before = consumed(fleet)
    sent = Sent(fleet)
    going = ann.start(*switch("late"))
    ann.until(lambda one: one["event"] == "batch", "the roll begins")
    sent.more()
    it_waits(ann, "6")
    assert fleet.poller.consumers() == SWITCHED
    os.kill(ann.executor(), signal.SIGKILL)
    assert going.wait().code == 4
    sent.more(5)
    going = ann.start("runs", "resume", "--json")
    wait_until(lambda: parked(fleet) == 25, what="they are parked again")
    assert fleet.poller.consumers() == SWITCHED
    going.interrupt()
    all_is_well_again(fleet, ann, sent, going.wait())
    assert consumed(fleet) == before


def test_what_a_killed_run_has_left_is_undone(fleet: Operations, ann: Operator) -> None:
    before = consumed(fleet)
    sent = Sent(fleet)
    going = ann.start(*switch("wait"))
    it_waits(ann)
    sent.more()
    wait_until(lambda: parked(fleet) == 20, what="they are parked")
    os.kill(ann.executor(), signal.SIGKILL)
    died = going.wait()
    assert died.code == 4, died.all
    sent.more(5)
    undone = ann.do("runs", "undo", "--yes", "--json")
    all_is_well_again(fleet, ann, sent, undone)
    assert consumed(fleet) == before


def test_what_a_killed_run_has_left_is_released_from_another_machine(
    fleet: Operations, operator: MakeOperator
) -> None:
    before = consumed(fleet)
    ann, bob = operator("ann"), operator("bob")
    sent = Sent(fleet)
    going = ann.start(*switch("wait"))
    it_waits(ann)
    sent.more()
    wait_until(lambda: parked(fleet) == 20, what="they are parked")
    os.kill(ann.executor(), signal.SIGKILL)
    going.wait()
    fleet.redis.delete("celery-ops:lease:hold", "celery-ops:lease")  # as they expire by themselves
    assert "task release 'what r1 does not register' -p parked=keep" in bob.do("status").all
    released = bob.do("task", "release", "-p", "parked=keep", "--yes")
    assert released.code == 0, released.all
    sent.all_that_is_known_ran_once()
    assert consumed(fleet) == before
    assert fleet.nothing_is_taken()
    assert parked(fleet) == 20
    assert bob.do("queue", "unpark", COMMON, "--yes").code == 0
    sent.all_ran_once()
