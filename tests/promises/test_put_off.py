"""`on_timeout: defer` on real workers: the busy one works on, and is restarted after the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

NAMES = ("busy", "second", "third")
RUNBOOK = """
name: patient
summary: Restart all, the busy ones last.
risk: low
steps:
  - roll: "*@rig"
    order: by_name
    canary: 0
    batch: 1
    keep_available: 1
    settle: 0s
    on_fail: stop
    steps:
      - drain: worker
        timeout: 6s
        on_timeout: defer
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online, worker.started_at > step.started_at]
      hold: 1s
      timeout: 1m
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *map(Program, NAMES)) as made:
        write_runbook(made.folder, "patient", RUNBOOK)
        yield made


def test_a_busy_worker_works_on_and_is_restarted_last(fleet: Operations, ann: Operator) -> None:
    before = {name: fleet.pid(name) for name in NAMES}
    fleet.fleet.send(1, 20.0, queue="busy")
    wait_until(lambda: 1 in fleet.fleet.starts(), what="the long task runs")
    said = ann.do("runbook", "patient", "--yes", "--json", "-p", f"allow_gap={','.join(NAMES)}")
    assert said.code == 0, said.all
    events = said.events
    stopped = [one["target"] for one in events if one.get("verb") == "stop"]
    assert stopped == ["second@rig", "third@rig", "busy@rig"]
    results = [one["outcome"]["result"] for one in events if one["event"] == "result"]
    assert results.count("deferred") >= 1
    assert all(fleet.pid(name) not in {0, before[name]} for name in NAMES)
    assert fleet.fleet.ends() == {1: 1}
    assert fleet.nothing_is_taken()
