"""A rollback of a fleet that is already broken: what cannot answer, cannot be reached or never ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from celery_ops.model import ServiceState
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.inbox import Message, Word
from tests.runbook.operation import Operation, Ran
from tests.standin.releases import StandinReleases

if TYPE_CHECKING:
    from pathlib import Path

    from tests.standin.fleet import SimulatedService

BEAT = "supervisord beat on web1"
STRATEGIES = ("drain-first", "rolling")
HOSTS = ("web1", "web2", "web3")
GIVEN = {"release": "v1", "watch": "20s", "batch": "2", "drain_timeout": "30s"}


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    """Six workers on three hosts, beat on the first; the bad release v2 is in use."""
    made = Operation(tmp_path)
    for host in HOSTS:
        for number in (1, 2):
            made.fleet.add_worker(f"w{number}@{host}", host=host, unit=f"w{number}")
    made.hosts.layout = StandinReleases(made.fleet, HOSTS, "v1", "v2")
    made.beat = made.fleet.add_beat()
    return made


def layout(operation: Operation) -> StandinReleases:
    assert operation.hosts.layout is not None
    return operation.hosts.layout


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_plain(operation: Operation, strategy: str) -> None:
    operation.fleet.send("default", 1.0)
    async def load():
        while True:
            operation.fleet.send("default", 0.2)
            await operation.clock.sleep(1)
    ran = await operation.run_while("rollback", load, strategy=strategy, **GIVEN)
    assert ran.ending is Ending.DONE, ran.told()
