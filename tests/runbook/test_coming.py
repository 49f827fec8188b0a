"""Verbs that this version reads and plans only: nothing is ever begun with one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending, EventKind
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
name: coming
summary: What is to come.
risk: low
params:
  queue: {type: text, default: mail}
  n: {type: integer, default: 100}
steps:
  - drain: w1@web1
    timeout: 1m
"""
ROLL = """
  - roll: "*"
    keep_available: 0
    steps:
      - activate: v2
    verify: {that: worker.online, timeout: 1m}
"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.fleet.add_worker("w1@web1", queues=("default", "mail"))
    made.fleet.add_worker("w2@web1", queues=("mail",))
    for _ in range(20):
        made.fleet.send("mail", 600.0)
    return made


async def test_it_is_planned_and_refused_before_anything_is_changed(operation: Operation) -> None:
    operation.write_runbook("coming", f"{HEAD}  - activate: v2\n    on: web1\n")
    plan = await operation.plan("coming", allow_gap="default")
    assert plan.steps[1].says == "activate v2 on web1"
    assert plan.refusals == (
        "step 2: `activate` is planned, but this version cannot carry it out yet",
    )
    ran = await operation.execute(plan)
    assert ran.ending is Ending.REFUSED, ran.told()
    assert not any(event.event is EventKind.INTENT for event in ran.events)
    assert operation.broker.orders == []


async def test_a_release_in_a_roll_is_planned_for_each_of_its_workers(
    operation: Operation,
) -> None:
    operation.write_runbook("coming", HEAD + ROLL)
    plan = await operation.plan("coming", allow_gap="default")
    assert [(one.target, one.does) for one in plan.steps[1].actions] == [
        ("w1@web1", "make v2 the current release of its host"),
        ("w2@web1", "make v2 the current release of its host"),
    ]
    assert plan.refusals == (
        "step 2.1: `activate` is planned, but this version cannot carry it out yet",
    )
