"""What a batch has done beyond what it owes is taken back: each act there and so as it was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending
from celery_ops.runbook.loader import loads
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.undo import reversals
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runbook.operation import Ran

LEAVES_A_BALANCER = """
name: leaves
summary: Takes each worker out of a balancer, and fails.
risk: low
params:
  on_host: {type: text, default: lb1}
steps:
  - roll: "*"
    keep_available: 0
    settle: 0s
    on_fail: undo
    steps:
      - run: [lbctl, out, "${{ worker.name }}"]
        on: ON
        env: {POOL: "${{ params.on_host }} ${{ worker.name }} ${{ before.worker.processes }}"}
        undo: [lbctl, in, "${{ worker.name }}"]
    verify:
      that: [worker.processes == 99]
      hold: 0s
      timeout: 5s
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1", concurrency=2)
    return made


def ran_on(operation: Operation, host: str, program: str) -> list[tuple[str, dict[str, str]]]:
    """What was run of a program on a host, and with which values."""
    shell = operation.hosts.shell(host)
    return [(str(one), dict(one.env)) for one in shell.ran if one.argv[0] == program]


def listed(ran: Ran) -> list[str]:
    """What `runs undo` says it would take back."""
    plan = ran.events[0].plan
    assert plan is not None
    found = reversals(Recall.of(ran.events), loads(plan.source, plan.file), plan)
    return [str(one) for one in found]


@pytest.mark.parametrize(
    ("on", "host"),
    [("worker", "web1"), ("lb1", "lb1"), ("${{ params.on_host }}", "lb1")],
    ids=["worker", "named", "parameter"],
)
async def test_a_command_is_taken_back_on_its_host_and_with_its_values(
    operation: Operation, on: str, host: str
) -> None:
    operation.write_runbook("leaves", LEAVES_A_BALANCER.replace("on: ON", f"on: {on}"))
    ran = await operation.run("leaves")
    assert ran.ending is Ending.UNDONE, ran.told()
    env = {"POOL": "lb1 w1@web1 2"}
    assert ran_on(operation, host, "lbctl") == [
        ("lbctl out w1@web1", env),
        ("lbctl in w1@web1", env),
    ]


async def test_it_is_said_on_which_host_a_command_would_be_taken_back(
    operation: Operation,
) -> None:
    text = LEAVES_A_BALANCER.replace("on: ON", "on: lb1")
    operation.write_runbook("leaves", text.replace("on_fail: undo", "on_fail: stop"))
    ran = await operation.run("leaves")
    assert listed(ran) == ["step 1.1, w1@web1: lbctl in w1@web1 on lb1"]
