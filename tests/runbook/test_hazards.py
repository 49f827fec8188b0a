"""What stands in the way of a restart, and what is told before it, by what a supervisor says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.model import Hazard
from celery_ops.runbook.events import Ending
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.parts import SimulatedService

TOGETHER = Hazard("several nodes are stopped at once", "Give each its own unit.", forbids=True)
NEIGHBOUR = Hazard("its stop removes the pidfiles of w2", "Give each its own folder.")


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    return Operation(tmp_path)


def first_of_four(operation: Operation) -> SimulatedService:
    """The service of the first of four workers on one queue."""
    workers = [operation.fleet.add_worker(f"w{n}@web1", queues=("mail",)) for n in range(1, 5)]
    service = workers[0].service
    assert service is not None
    return service


async def test_a_service_that_must_not_be_stopped_alone_is_refused_with_the_way_out(
    operation: Operation,
) -> None:
    first_of_four(operation).hazards = (TOGETHER, NEIGHBOUR)
    for runbook in ("rolling-restart", "stop-worker"):
        plan = await operation.plan(runbook, workers="w1@web1")
        assert f"w1@web1: {TOGETHER.says}: {TOGETHER.fix}" in " ".join(plan.refusals)


async def test_what_a_stop_does_to_others_is_told_and_does_not_forbid_it(
    operation: Operation,
) -> None:
    first_of_four(operation).hazards = (NEIGHBOUR,)
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert f"w1@web1: {NEIGHBOUR.says}" in plan.hazards
    assert not plan.refusals


async def test_a_stop_that_is_not_tied_to_an_incarnation_is_told(operation: Operation) -> None:
    first_of_four(operation).tells_identity = False
    plan = await operation.plan("rolling-restart", workers="w1@web1")
    assert any("not tied to the incarnation" in hazard for hazard in plan.hazards)
    ran = await operation.execute(plan)
    assert ran.ending is Ending.DONE, ran.told()
