"""Queues that are given back to an older Celery do not last, and that is said with what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.runbook.events import Ending
from celery_ops.runbook.lasting import PATIENCE
from tests.runbook.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

W1 = {"workers": "w1@web1"}
FORGETS = "forgets that when it next reconnects to the broker: celery-ops worker restart w1@web1"


@pytest.fixture
async def drained(tmp_path: Path) -> Operation:
    operation = Operation(tmp_path)
    for number in (1, 2):
        operation.fleet.add_worker(f"w{number}@web1", queues=("default",))
    ran = await operation.run("drain-worker", **W1)
    assert ran.ending is Ending.DONE
    return operation


async def given_back(operation: Operation) -> str:
    """What is said of it."""
    ran = await operation.run("resume-worker", **W1)
    assert ran.ending is Ending.DONE, ran.told()
    ((_, _, says),) = ran.results("w1@web1")
    return says


@pytest.mark.parametrize("version", ["5.7.0", "5.10.1", "6.0.0rc1"])
async def test_with_a_newer_celery_it_lasts(drained: Operation, version: str) -> None:
    drained.fleet.workers[0].version = version
    assert await given_back(drained) == "consumes default"


@pytest.mark.parametrize("version", ["5.2.7", "5.6.3", "4.4.7"])
async def test_an_older_celery_forgets_it(drained: Operation, version: str) -> None:
    drained.fleet.workers[0].version = version
    said = await given_back(drained)
    assert said == f"consumes default; Celery {version} {FORGETS} makes it last"


async def test_of_who_does_not_tell_its_version_that_is_said(drained: Operation) -> None:
    drained.fleet.workers[0].faults.no_heartbeats = True
    began = drained.clock.elapsed
    said = await given_back(drained)
    assert f"if it is older than Celery 5.7, it {FORGETS}" in said
    assert drained.clock.elapsed - began < 3 * PATIENCE
