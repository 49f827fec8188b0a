"""The guard, for any fleet, batch size, failure and abort: no queue goes under it by our action."""

from __future__ import annotations

import asyncio
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_ops.ports import CancelConsumer
from celery_ops.runbook.inbox import Message, Word
from tests.runbook.operation import Operation
from tests.standin.broker import StandinBroker
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.model import Targets
    from celery_ops.ports import Fence, Order, Reply

RUNBOOK = """
name: roll
summary: A restart with everything that can be set about the guard.
risk: low
params:
  workers: {type: workers, default: "*"}
  batch: {type: count}
  keep_available: {type: count}
  max_failed: {type: integer}
  drains: {type: boolean}
steps:
  - roll: ${{ params.workers }}
    canary: 0
    batch: ${{ params.batch }}
    keep_available: ${{ params.keep_available }}
    max_failed: ${{ params.max_failed }}
    settle: 0s
    on_fail: stop
    steps:
      - drain: worker
        timeout: 8s
        on_timeout: fail
      - restart: worker
        timeout: 8s
    verify:
      that: [worker.online]
      hold: 0s
      timeout: 8s
"""
FAULTS = ("", "", "", "dies_at_start", "ignores_cancel", "does_not_come_back", "killed_at_stop")
QUEUES = ("a", "b", "c")


@dataclass(frozen=True)
class World:
    """A fleet (each worker's queues and fault), how it is rolled, and what comes between."""

    workers: tuple[tuple[tuple[str, ...], str], ...]
    batch: str
    keep: str
    max_failed: int
    abort_at: float | None
    killed_at: tuple[int, float] | None
    gap: str


WORKER = st.tuples(
    st.sampled_from([("a",), ("a", "b"), ("a", "b", "c"), ("b",), ("b", "c")]),
    st.sampled_from(FAULTS),
)
WORLDS = st.builds(
    World,
    # Not `lists`: most of those would be too short to take anything from.
    workers=st.integers(1, 6).flatmap(lambda number: st.tuples(*[WORKER] * number)),
    batch=st.sampled_from(["100%", "1", "2", "3", "25%", "50%"]),
    keep=st.sampled_from(["75%", "0", "1", "2", "25%", "50%", "100%"]),
    max_failed=st.integers(0, 3),
    abort_at=st.none() | st.floats(0.1, 30),
    killed_at=st.none() | st.tuples(st.integers(0, 5), st.floats(0.1, 30)),
    gap=st.sampled_from(["", "", "", "a"]),
)


ONE_DIED_A_MOMENT_AGO = World(
    workers=((("b",), ""), (("a", "b"), ""), (("b",), "dies_at_start")),
    batch="1",
    keep="1",
    max_failed=1,
    abort_at=None,
    killed_at=(1, 4.567904940018102),
    gap="a",
)
"""Its heartbeat is not missed yet when another is to be taken, and it is being started again."""


class WatchedBroker(StandinBroker):
    """Notes, for every consumer that is cancelled, how many are left of its queue right then."""

    def __init__(self, fleet: StandinFleet) -> None:
        super().__init__(fleet)
        self.left: list[tuple[str, int]] = []

    async def order(
        self, order: Order, *, to: Targets, fence: Fence, timeout: float
    ) -> tuple[Reply, ...]:
        before = self._consumers(order)
        replies = await super().order(order, to=to, fence=fence, timeout=timeout)
        if isinstance(order, CancelConsumer) and before & set(to.names):
            self.left.append((order.queue, len(before - set(to.names))))
        return replies

    def _consumers(self, order: Order) -> set[str]:
        """Who consumes what an order is about, and can be counted on."""
        self.fleet.settle()
        return {
            one.name
            for one in self.fleet.workers
            if isinstance(order, CancelConsumer) and order.queue in one.consuming
        }


async def rolled(world: World, directory: Path) -> tuple[WatchedBroker, Mapping[str, int]]:
    """Roll it; what was left of each queue at each taking, and how many there were."""
    fleet = StandinFleet(VirtualClock())
    operation = Operation(directory, fleet, broker := WatchedBroker(fleet))
    for number, (queues, fault) in enumerate(world.workers):
        worker = fleet.add_worker(f"w{number}@web1", queues=queues)
        if fault:
            setattr(worker.faults, fault, True)
    for number in range(12):
        fleet.send(QUEUES[number % 3], 1.0)
    operation.write_runbook("roll", RUNBOOK)
    gap = {"allow_gap": world.gap} if world.gap in fleet.queues else {}
    plan = await operation.plan(
        "roll", batch=world.batch, keep_available=world.keep, drains="true",
        max_failed=str(world.max_failed), **gap,
    )  # fmt: skip
    if not plan.refusals:
        beside = [
            asyncio.ensure_future(one)
            for one in (_aborts(operation, world), _kills(operation, world))
        ]
        await operation.execute(plan)
        for task in beside:
            task.cancel()
    return broker, plan.healthy


async def _aborts(operation: Operation, world: World) -> None:
    if world.abort_at is not None:
        await operation.clock.sleep(world.abort_at)
        if operation.executor is not None:
            operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))


async def _kills(operation: Operation, world: World) -> None:
    if world.killed_at is not None:
        number, at = world.killed_at
        await operation.clock.sleep(at)
        workers = operation.fleet.workers
        operation.fleet.kill(workers[number % len(workers)])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=WORLDS)
@example(world=ONE_DIED_A_MOMENT_AGO)
def test_no_queue_goes_under_its_guard_by_our_action(world: World) -> None:
    with tempfile.TemporaryDirectory() as directory:
        broker, healthy = asyncio.run(rolled(world, Path(directory)))
    for queue, left in broker.left:
        least = at_least(healthy.get(queue, 0), world.keep)
        assert queue == world.gap or left >= least, (queue, broker.left, healthy)


def at_least(healthy: int, keep: str) -> int:
    """What must be left, in the words of the contract: at most max(1, n - keep) are taken of n, and
    never the last one; `0` allows everything.
    """
    if keep == "0":
        return 0
    kept = math.ceil(int(keep[:-1]) * healthy / 100) if keep.endswith("%") else int(keep)
    return max(1, healthy - max(1, healthy - kept)) if healthy > 1 else healthy
