"""supervisord on another machine: the same contract, through SSH."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.config.contexts import only_broker
from celery_ops.hosts import HostPool
from celery_ops.model import ServiceRef
from tests.hosts.contract import DaemonContract, Program, Supervised
from tests.hosts.test_supervisord import PROGRAMS
from tests.rig.sshd import Sshd, sshd
from tests.rig.supervisord import supervisord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.rig


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest_asyncio.fixture
async def supervised(server: Sshd) -> AsyncIterator[Supervised]:
    context = only_broker("redis://unused")
    context = replace(context, hosts=(*context.hosts, server.entry("web1")))
    with supervisord(PROGRAMS) as rig:
        pool = HostPool(context)
        services = {
            program: ServiceRef("web1", "supervisord", program.value, server=rig.server)
            for program in Program
        }
        yield Supervised(pool.shell("web1"), pool.supervisor("supervisord"), services, rig.kill)
        await pool.close()


class TestSupervisordOverSsh(DaemonContract):
    """The contract of all supervisors."""
