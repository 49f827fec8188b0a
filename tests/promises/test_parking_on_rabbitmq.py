"""On RabbitMQ what a release does not know is put aside while nobody consumes, before workers are
switched; what waits when the last one is, once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.test_parking_beside import KNOWN, RELEASE, UNKNOWN
from tests.rig import wait_until
from tests.rig.operations import COMMON, Program
from tests.rig.rabbit_operations import RabbitOperations, rabbit_operations
from tests.rig.runbooks import write_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

COUNT = 30
RUNBOOK = """
name: switch
summary: Restarts workers when what r1 does not know is put aside.
risk: medium
steps:
  - hold: task
    unknown_to: r1
    timeout: 30s
  - roll: "*"
    keep_available: 0
    steps:
      - restart: worker
        timeout: 1m
    verify:
      that: [worker.online]
      hold: 1s
      timeout: 1m
  - release: task
    parked: keep
    timeout: 1m
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RabbitOperations]:
    with rabbit_operations(tmp_path / "fleet", Program("a")) as made:
        made.config.write_text(made.config.read_text() + RELEASE)
        write_runbook(made.folder, "switch", RUNBOOK)
        yield made


def test_what_waits_while_nobody_consumes_is_put_aside_and_comes_back(
    fleet: RabbitOperations, ann: Operator
) -> None:
    gaps = [f"-pallow_gap={queue}" for queue in (COMMON, "a")]
    drained = ann.do("worker", "drain", "a@rig", "--yes", *gaps)
    assert drained.code == 0, drained.all
    known, unknown = range(COUNT), range(1000, 1000 + COUNT)
    for one, other in zip(known, unknown, strict=True):
        fleet.fleet.send(one, queue=COMMON, task=KNOWN)
        fleet.fleet.send(other, queue=COMMON, task=UNKNOWN)
    wait_until(lambda: fleet.ready(COMMON) == 2 * COUNT, what="all wait")
    plan = ann.do("runbook", "switch", "--plan")
    assert "what comes meanwhile, its workers discard" in plan.all
    run = ann.do("runbook", "switch", "--yes", "--json")
    assert run.code == 0, run.all
    (left,) = run.events[-1]["outcome"]["report"]["left_parked"]
    assert f"{COUNT} messages ({UNKNOWN}: {COUNT}; sent by gen" in left["says"]
    wait_until(lambda: fleet.fleet.ends().keys() == set(known), what="all that is known has run")
    assert fleet.nothing_is_taken()
    back = ann.do("queue", "unpark", COMMON, "--yes")
    assert back.code == 0, back.all
    wait_until(lambda: len(fleet.fleet.ends()) == 2 * COUNT, what="all have run")
    assert set(fleet.fleet.starts().values()) == {1}
