"""`scale`: a pool has as many processes as were asked for, and never none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import BrokerUnreachable
from celery_ops.ports import Control
from celery_ops.runbook.events import Ending, Result, RunState
from celery_ops.runbook.journal import has_ended, read
from tests.runbook.operation import Operation
from tests.runbook.test_resume import killed
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.model import Targets
    from celery_ops.ports import Fence, Order, Reply

RUNBOOK = """
name: scale
summary: Make pools larger or smaller.
risk: low
steps:
  - scale: "*"
    {how}
    timeout: 30s
"""
ROLL = """
name: scale
summary: Make pools larger, and undo it.
risk: low
steps:
  - roll: "*"
    settle: 0s
    on_fail: undo
    steps:
      - scale: worker
        to: 5
    verify:
      that: [worker.processes == 6]
      hold: 0s
      timeout: 5s
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1", concurrency=3)
    return made


def write(operation: Operation, how: str) -> None:
    operation.write_runbook("scale", RUNBOOK.format(how=how))


async def test_a_pool_grows_to_what_was_asked_for(operation: Operation) -> None:
    write(operation, "to: 5")
    plan = await operation.plan("scale")
    ((action,),) = [step.actions for step in plan.steps]
    assert (action.does, action.undo) == (
        "scale its pool from 3 to 5 processes",
        "scale it back to 3",
    )
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.worker("w1@web1").processes == 5
    assert ran.results("w1@web1") == [("1", Result.DONE, "its pool has 5 processes")]
    sent = len(operation.broker.orders)
    ran = await operation.run("scale")
    assert (ran.ending, len(operation.broker.orders)) == (Ending.DONE, sent)


async def test_it_shrinks_by_one_idle_process_after_the_other(operation: Operation) -> None:
    write(operation, "by: -2")
    ran = await operation.run("scale")
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.fleet.worker("w1@web1").processes == 1
    assert [one.order.arguments for one in operation.broker.orders] == [{"n": 1}, {"n": 1}]


async def test_busy_processes_are_waited_for_and_none_is_ended(operation: Operation) -> None:
    for _ in range(3):
        operation.fleet.send("default", 12.0)
    write(operation, "to: 2")
    ran = await operation.run("scale")
    assert ran.ending is Ending.DONE, ran.told()
    assert "All processes busy" in ran.told()
    assert operation.fleet.worker("w1@web1").processes == 2
    assert not operation.fleet.lost


async def test_a_shrink_that_comes_to_nothing_fails_and_leaves_the_rest(
    operation: Operation,
) -> None:
    for _ in range(3):
        operation.fleet.send("default", 7200.0)
    write(operation, "to: 2")
    ran = await operation.run("scale")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert "All processes busy" in ran.end.says
    assert operation.fleet.worker("w1@web1").processes == 3


async def test_what_cannot_be_scaled_is_refused_when_it_is_planned(operation: Operation) -> None:
    operation.fleet.add_worker("auto@web1").autoscale = (2, 8)
    operation.fleet.add_worker("green@web1", pool="gevent")
    write(operation, "by: -7")
    refusals = (await operation.plan("scale")).refusals
    assert [refusal.split(" ")[0] for refusal in refusals] == [
        "auto@web1",
        "green@web1",
        "w1@web1",
    ]
    assert "scales itself between 2 and 8 processes" in refusals[0]
    assert "does not tell how many processes" in refusals[1]
    assert "would be left with no process at all" in refusals[2]


async def test_of_a_worker_that_scales_itself_the_most_is_changed(tmp_path: Path) -> None:
    operation = Operation(tmp_path)
    auto = operation.fleet.add_worker("auto@web1")
    auto.autoscale = (2, 8)
    plan = await operation.plan("scale-up", processes="2")
    (does,) = [one.does for step in plan.steps for one in step.actions]
    assert does == "let it scale itself to at most 10 processes instead of 8"
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
    assert auto.autoscale == (2, 10)
    write(operation, "to: 4")
    path = operation.write_down(await operation.plan("scale"))
    assert (await operation.take_up(path)).ending is Ending.DONE
    assert auto.autoscale == (2, 4)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert auto.autoscale == (2, 10)


async def test_it_is_taken_back_to_the_size_it_had(operation: Operation) -> None:
    operation.write_runbook("scale", ROLL)
    ran = await operation.run("scale")
    assert ran.ending is Ending.UNDONE, ran.told()
    assert operation.fleet.worker("w1@web1").processes == 3


async def test_a_shrink_that_came_a_part_of_the_way_is_taken_back(operation: Operation) -> None:
    for _ in range(2):
        operation.fleet.send("default", 7200.0)
    operation.write_runbook("scale", ROLL.replace("to: 5", "to: 1\n        timeout: 10s"))
    ran = await operation.run("scale")
    assert ran.ending is Ending.UNDONE, ran.told()
    assert "All processes busy" in ran.end.says
    assert operation.broker.orders[-1].order == Control("pool_grow", {"n": 1})
    assert operation.fleet.worker("w1@web1").processes == 3


class LosesAnOrder(StandinBroker):
    """Its connection is lost at the first order, once that `was_sent` or before."""

    was_sent = True
    lost = 0

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        if self.lost:
            return await super().order(order, to=to, fence=fence, timeout=timeout)
        self.lost += 1
        if self.was_sent:
            await super().order(order, to=to, fence=fence, timeout=timeout)
        raise BrokerUnreachable("the connection was lost")


@pytest.mark.parametrize("was_sent", [True, False], ids=["sent", "not sent"])
@pytest.mark.parametrize(("how", "goal"), [("to: 5", 5), ("by: -1", 2)], ids=["grown", "shrunk"])
async def test_an_order_of_which_nobody_knows_whether_it_was_sent_is_looked_for(
    tmp_path: Path, was_sent: bool, how: str, goal: int
) -> None:
    fleet = StandinFleet(VirtualClock())
    fleet.add_worker("w1@web1", concurrency=3)
    broker = LosesAnOrder(fleet)
    broker.was_sent = was_sent
    operation = Operation(tmp_path, fleet, broker)
    write(operation, how)
    ran = await operation.run("scale")
    assert ran.ending is Ending.DONE, ran.told()
    assert "unknown whether it was sent: the connection was lost" in ran.told()
    assert fleet.worker("w1@web1").processes == goal
    assert len(broker.orders) == 1


# --- runs undo ------------------------------------------------------------------------------------


async def scaled(operation: Operation, how: str) -> Path:
    """The journal of a run that came through."""
    write(operation, how)
    path = operation.write_down(await operation.plan("scale"))
    ran = await operation.take_up(path)
    assert ran.ending is Ending.DONE, ran.told()
    return path


@pytest.mark.parametrize("how", ["to: 5", "by: -2"], ids=["grown", "shrunk"])
async def test_an_undo_gives_the_pool_the_size_it_had_before_the_run(
    operation: Operation, how: str
) -> None:
    path = await scaled(operation, how)
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert (undone.end.state, undone.end.says) == (RunState.UNDONE, "taken back: w1@web1")
    assert operation.fleet.worker("w1@web1").processes == 3
    sent = len(operation.broker.orders)
    again = await operation.take_up(path, undo=True)
    assert again.ending is Ending.DONE, again.told()
    assert len(operation.broker.orders) == sent, "an undo is not undone"


async def test_an_undo_goes_back_to_the_size_before_whatever_others_did_since(
    operation: Operation,
) -> None:
    path = await scaled(operation, "to: 5")
    operation.fleet.worker("w1@web1").processes = 8
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.DONE, undone.told()
    assert operation.fleet.worker("w1@web1").processes == 3


async def test_a_worker_that_scales_itself_since_is_left_alone_and_said_so(
    operation: Operation,
) -> None:
    path = await scaled(operation, "to: 5")
    operation.fleet.worker("w1@web1").autoscale = (2, 8)
    sent, began = len(operation.broker.orders), operation.clock.monotonic()
    undone = await operation.take_up(path, undo=True)
    assert undone.ending is Ending.NEEDS_HUMAN, undone.told()
    assert undone.end.state is RunState.UNDO_FAILED
    assert "not undone: step 1, w1@web1: scale it back to 3" in undone.end.says
    assert "scales itself between 2 and 8 processes" in undone.end.says
    assert len(operation.broker.orders) == sent
    assert operation.clock.monotonic() - began < 10
    assert operation.fleet.worker("w1@web1").processes == 5


@pytest.mark.parametrize("when", ["after", "before"])
async def test_a_run_that_died_anywhere_is_undone_to_the_size_before(
    tmp_path: Path, when: str
) -> None:
    line = 2
    while True:
        operation = Operation(tmp_path / f"dies-{line}")
        operation.fleet.add_worker("w1@web1", concurrency=3)
        write(operation, "by: -2")
        path = operation.write_down(await operation.plan("scale"))
        if not await killed(operation, path, line, when) or has_ended(list(read(path))):
            break
        undone = await operation.take_up(path, undo=True)
        assert undone.ending is Ending.DONE, f"{when} line {line}: {undone.told()}"
        assert operation.fleet.worker("w1@web1").processes in {3, None}, undone.told()
        line += 1
    assert line > 5
