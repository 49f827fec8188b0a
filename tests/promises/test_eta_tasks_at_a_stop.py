"""A drained worker still begins the ETA tasks it holds, and a stop that signals the pool's children
would end them: the worker is stopped when none of them runs, however long ago it was drained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.host_fleet import HostFleet, host_fleet
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Event

pytestmark = pytest.mark.rig

SECOND = "w2@web1"
BUSY = 1000
LATER = range(4)
COUNTDOWN = 8
TOGETHER = """
name: together
summary: Restarts all workers at once.
risk: medium
steps:
  - roll: "*"
    canary: 0
    batch: 2
    keep_available: 0
    steps:
      - drain: worker
        timeout: 1m
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online]
      timeout: 1m
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[HostFleet]:
    """Two workers of one host; only the first consumes `mail`."""
    with host_fleet(tmp_path / "fleet", "web1", unit={"KillMode": "control-group"}) as made:
        write_runbook(made.folder, "together", TOGETHER)
        yield made


def held_by_the_second(fleet: HostFleet) -> set[int]:
    """The numbers of the tasks that it holds until their ETA."""
    answers = fleet.poller.ask("scheduled")
    held = [one.value for one in answers if one.node == SECOND]
    return {task["request"]["args"][0] for tasks in held for task in tasks}


def test_a_task_that_begins_after_its_workers_drain_ends_before_the_stop(
    fleet: HostFleet, tmp_path: Path
) -> None:
    ann, tasks = fleet.operator(tmp_path, "ann"), fleet.fleet
    tasks.send(BUSY, task="rig.hold", queue="mail")
    wait_until(lambda: BUSY in tasks.starts(), what="the first worker is at work")
    for number in LATER:
        tasks.send(number, task="rig.hold", queue="common", countdown=COUNTDOWN)
    wait_until(lambda: bool(held_by_the_second(fleet)), what="ETA tasks at the second worker")
    held = held_by_the_second(fleet)
    run = ann.start("runbook", "together", "--yes", "--json")
    drained = ann.until(lambda event: _is_result(event, "1.1"), "the second worker is drained")
    assert "ETA task" in drained["outcome"]["says"], "they are still to begin"
    wait_until(lambda: bool(held & tasks.starts().keys()), what="one of them begins")
    tasks.release(BUSY, *(set(LATER) - held))
    ann.until(_waits_for_it, "the second worker is not stopped while it runs something")
    tasks.release(*held)
    said = run.wait()
    assert said.code == 0, said.all
    everything = {BUSY, *LATER}
    wait_until(lambda: tasks.ends().keys() >= everything, what="all tasks end")
    assert tasks.starts() == tasks.ends() == dict.fromkeys(everything, 1)
    fleet.dismiss()
    assert fleet.leaks() == []


def _is_result(event: Event, step: str) -> bool:
    return event["event"] == "result" and (event["step"], event["target"]) == (step, SECOND)


def _waits_for_it(event: Event) -> bool:
    is_progress = event["event"] == "progress" and event["step"] == "1.2"
    return is_progress and event["target"] == SECOND and "active" in event["outcome"]["says"]
