"""A real prefork pool is scaled, counted by the kernel; a real control command is answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

RUNBOOK = """
name: resize
summary: Make a pool larger or smaller.
risk: low
params:
  to: {type: integer}
steps:
  - scale: "*@rig"
    to: ${{ params.to }}
    timeout: 20s
"""


LIMIT = """
name: limit
summary: Limit a task's rate.
risk: low
params:
  task: {type: text, default: rig.work}
steps:
  - control: rate_limit
    on: "*@rig"
    args: {task_name: "${{ params.task }}", rate_limit: 100/m}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), Program("pre", pool="prefork")) as made:
        write_runbook(made.folder, "resize", RUNBOOK)
        write_runbook(made.folder, "limit", LIMIT)
        yield made


def children(fleet: Operations) -> int:
    pid = fleet.pid("pre")
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_a_pool_grows_and_shrinks_and_keeps_its_tasks(fleet: Operations, ann: Operator) -> None:
    assert children(fleet) == 1
    said = ann.do("runbook", "resize", "--yes", "-p", "to=3")
    assert said.code == 0, said.all
    assert children(fleet) == 3
    for number in range(3):
        fleet.fleet.send(number, task="rig.hold", queue="pre")
    wait_until(lambda: len(fleet.fleet.starts()) == 3, what="all three are busy")
    running = ann.start("runbook", "resize", "--yes", "-p", "to=1")
    ann.until(lambda event: "All processes busy" in str(event.get("outcome")), "that it cannot yet")
    fleet.fleet.release(0, 1, 2)
    said = running.wait()
    assert said.code == 0, said.all
    assert "All processes busy" in said.all
    wait_until(lambda: children(fleet) == 1, what="the pool is as small as it was")
    wait_until(lambda: len(fleet.fleet.ends()) == 3, what="every task has ended")
    said = ann.do("runbook", "resize", "--yes", "-p", "to=0")
    assert said.code != 0
    assert children(fleet) == 1


@pytest.mark.usefixtures("fleet")
def test_a_real_worker_is_sent_a_control_command_and_its_reply_is_told(ann: Operator) -> None:
    said = ann.do("runbook", "limit", "--yes")
    assert said.code == 0, said.all
    assert 'it replied: {"ok": "new rate limit set successfully"}' in said.all
    said = ann.do("runbook", "limit", "--yes", "-p", "task=no.such")
    assert said.code == 1, said.all
    assert "it replied: unknown task" in said.all
