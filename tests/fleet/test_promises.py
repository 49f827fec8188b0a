"""Whatever happens to a fleet, the screen does not lie about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_ops.model import Targets, WorkerState
from celery_ops.ports import CancelConsumer, Question
from tests.fleet.conftest import Lab
from tests.standin.fleet import Faults, Phase

if TYPE_CHECKING:
    from celery_ops.model import FleetSnapshot
    from celery_ops.ports import Fence
    from tests.standin.fleet import SimulatedWorker

NAMES = ("a@web1", "b@web1", "c@web2")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "send-slow", "cancel", "kill", "stop", "start", "hang", "heal", "mute", "wait"]
        ),
        st.sampled_from(NAMES),
    ),
    max_size=25,
)


async def happen(lab: Lab, event: str, worker: SimulatedWorker, fence: Fence) -> None:
    match event:
        case "send":
            lab.fleet.send("default", 0.4)
        case "send-slow":
            lab.fleet.send("default", 7.0)
        case "cancel":
            order, to = CancelConsumer("default"), Targets((worker.name,))
            await lab.broker.lease.renew(fence)
            await lab.broker.order(order, to=to, fence=fence, timeout=0.2)
        case "kill" if worker.phase is not Phase.DOWN:
            lab.fleet.kill(worker)
        case "stop" if worker.service is not None:
            lab.fleet.stop_service(worker.service)
        case "start" if worker.service is not None:
            lab.fleet.start_service(worker.service)
        case "hang":
            worker.faults = Faults(hangs=True)
        case "heal":
            worker.faults = Faults()
        case "mute":
            worker.faults = Faults(silent_to=frozenset({Question.RESERVED}))
        case "wait":
            await lab.clock.sleep(5.0)


def check(lab: Lab, snapshot: FleetSnapshot) -> None:
    """What is claimed must be so in the simulated world at this very moment."""
    for seen in snapshot.workers:
        worker = lab.fleet.worker(seen.name)
        if seen.state is WorkerState.DRAINED:
            assert worker.phase is Phase.UP
            assert not worker.consuming
            assert not worker.active
            assert not worker.reserved
        if snapshot.complete and seen.answers:
            assert worker.is_listening
            assert seen.queues == tuple(worker.consuming)
    for queue in snapshot.queues:
        if queue.consumers == 0 and snapshot.complete:
            assert lab.fleet.consumers(queue.name) == 0


async def live_through(events: list[tuple[str, str]]) -> None:
    lab = Lab()
    for name in NAMES:
        lab.fleet.add_worker(name, host=name.partition("@")[2])
    fence = await lab.fence()
    for event, name in events:
        await happen(lab, event, lab.fleet.worker(name), fence)
        for _ in range(4):
            await lab.clock.sleep(0.6)
            await lab.broker.lease.renew(fence)
            check(lab, await lab.surveyor.refresh(timeout=0.3))
    await lab.surveyor.close()


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_nothing_is_claimed_that_is_not_so(events: list[tuple[str, str]]) -> None:
    asyncio.run(live_through(events))
