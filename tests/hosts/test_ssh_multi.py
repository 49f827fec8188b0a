"""Nodes without a supervisor on another machine: the same contract, through SSH."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.hosts.multi import Multi
from celery_ops.model import ServiceRef
from tests.hosts.contract import Program, Supervised, SupervisorContract
from tests.hosts.test_multi import BEGUN
from tests.rig.detached import end_all, node
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest_asyncio.fixture
async def supervised(server: Sshd, tmp_path: Path) -> AsyncIterator[Supervised]:
    context = only_broker("redis://unused")
    pool = HostPool(replace(context, hosts=(*context.hosts, server.entry("web1"))))
    nodes = {("web1", one.value): node(tmp_path, one.value) for one in (*BEGUN, Program.IDLE)}
    nodes["web1", Program.STRANGE.value] = node(tmp_path, Program.STRANGE.value)
    services = {one: ServiceRef("web1", "multi", one.value) for one in Program}
    adapter = Multi(nodes, folder=str(tmp_path))
    rig = Supervised(pool.shell("web1"), adapter, services, lambda: None)
    try:
        for one in BEGUN:
            await rig.start(one)
        yield rig
    finally:
        end_all(tmp_path)
        await pool.close()


class TestMultiOverSsh(SupervisorContract):
    """The contract of all supervisors: what was started outlives the connection's commands."""

    knows_its_services = True

    gives_up = "exit code 1: The module nope was not found."
    longest_shown = 1000  # the argv is the user's own, and shown whole
