"""Services that somebody's own commands tell, start and stop."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.config.services import ServiceCommands
from celery_ops.errors import CommandFailed
from celery_ops.hosts.local import LocalShell
from celery_ops.hosts.own_commands import OwnCommands
from celery_ops.model import ServiceRef, ServiceState, ServiceStatus
from tests.hosts.contract import Program, Supervised, SupervisorContract
from tests.hosts.streaming import logged
from tests.rig.detached import controlled, end_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.rig

BEGUN = (Program.POLITE, Program.STUBBORN, Program.SLOW, Program.BROKEN)
ONE = ServiceRef("local", "commands", "one")


@pytest_asyncio.fixture
async def supervised(tmp_path: Path) -> AsyncIterator[Supervised]:
    commands = {
        ("local", one.value): controlled(tmp_path, one.value)
        for one in Program
        if one is not Program.UNKNOWN
    }
    adapter = OwnCommands(commands, folder=str(tmp_path))
    services = {one: ServiceRef("local", "commands", one.value) for one in Program}
    rig = Supervised(LocalShell(), adapter, services, lambda: None)
    try:
        for one in BEGUN:
            await rig.start(one)
        yield rig
    finally:
        end_all(tmp_path)


class TestOwnCommands(SupervisorContract):
    """The contract of all supervisors."""

    knows_its_services = True

    gives_up = "its start command ended with exit code 1: no such module"
    longest_shown = 1000  # the argv is the user\'s own, and shown whole


async def test_what_commands_do_not_tell_is_unknown(supervised: Supervised) -> None:
    polite = await supervised.until(Program.POLITE, ServiceState.RUNNING)
    assert (polite.stop_signal, polite.stop_grace, polite.signals_children) == (None, None, None)
    assert (polite.restarts_itself, polite.startable) == (None, None)


async def test_what_the_commands_call_unclean_is(supervised: Supervised) -> None:
    running = await supervised.until(Program.STUBBORN, ServiceState.RUNNING)
    await supervised.stop(Program.STUBBORN, running.identity)
    await supervised.until(Program.STUBBORN, ServiceState.STOPPING)
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    assert (await supervised.until(Program.STUBBORN, ServiceState.STOPPED)).clean_exit is False


def own(folder: Path, status: str, *, stop: str = "true") -> OwnCommands:
    commands = ServiceCommands(("sh", "-c", status), ("true",), ("sh", "-c", stop))
    return OwnCommands({("local", "one"): commands}, folder=str(folder))


async def read(adapter: OwnCommands) -> ServiceStatus:
    completed = await LocalShell().run(adapter.status([ONE]), timeout=10)
    return adapter.read_status([ONE], completed)[ONE]


@pytest.mark.parametrize("code", [1, 2, 4, 127])
async def test_another_exit_code_is_unknown_and_what_was_printed_is_told(
    tmp_path: Path, code: int
) -> None:
    adapter = own(tmp_path, f"echo 'cannot connect'; exit {code}")
    found = await read(adapter)
    assert (found.state, found.pid, found.clean_exit) == (ServiceState.UNKNOWN, None, None)
    assert f"ended with {code}" in found.says
    assert "cannot connect" in found.says
    stop = adapter.stop(ONE, expect="a life")
    with pytest.raises(CommandFailed, match="not known which incarnation runs"):
        adapter.read_effect(ONE, await LocalShell().run(stop, timeout=10))


async def test_what_a_status_command_prints_is_used(tmp_path: Path) -> None:
    told = "identity=abc\nsince=2026-11-20T10:00:00+00:00\nstate=stopping\nbusy: 3 tasks"
    found = await read(own(tmp_path, f"echo 'pid=$$\n{told}'"))
    assert (found.state, found.identity) == (ServiceState.STOPPING, "abc")
    assert found.started_at is not None
    assert found.started_at.isoformat() == "2026-11-20T10:00:00+00:00"
    assert "busy: 3 tasks" in found.says


async def test_a_life_without_a_name_is_known_by_its_pid_and_start(tmp_path: Path) -> None:
    found = await read(own(tmp_path, f"echo pid={os.getpid()}"))
    assert found.pid == os.getpid()
    assert found.identity is not None
    assert f":{os.getpid()}:" in found.identity
    assert found.started_at is not None


async def test_status_commands_that_hang_do_not_hide_the_others(tmp_path: Path) -> None:
    stuck = [ServiceRef("local", "commands", f"stuck{number}") for number in range(4)]
    hangs = ServiceCommands(("sleep", "60"), ("true",), ("true",))
    known = {(one.host, one.name): hangs for one in stuck}
    adapter = OwnCommands({**own(tmp_path, "echo pid=1").commands, **known}, folder=str(tmp_path))
    asked = [*stuck, ONE]
    completed = await LocalShell().run(adapter.status(asked), timeout=15)
    *found, fine = adapter.read_status(asked, completed).values()
    assert fine.state is ServiceState.RUNNING
    assert {one.state for one in found} == {ServiceState.UNKNOWN}
    assert all("did not end in time" in one.says for one in found)


async def test_a_service_that_tells_no_pid_has_no_identity(tmp_path: Path) -> None:
    stop = f"touch {tmp_path}/stopped; sleep 0.2"
    adapter = own(tmp_path, f"[ ! -e {tmp_path}/stopped ] || exit 3", stop=stop)
    found = await read(adapter)
    assert (found.state, found.pid, found.identity) == (ServiceState.RUNNING, None, None)
    command = adapter.stop(ONE, expect=None)
    adapter.read_effect(ONE, await LocalShell().run(command, timeout=10))
    while (await read(adapter)).state is not ServiceState.STOPPED:
        pass


async def test_its_log_command_is_followed(tmp_path: Path) -> None:
    adapter = own(tmp_path, "true")
    with pytest.raises(CommandFailed, match="no command for its log"):
        adapter.log(ONE, lines=5)
    commands = ServiceCommands(
        ("true",), ("true",), ("true",), ("sh", "-c", "echo a line; sleep 9")
    )
    told = OwnCommands({("local", "one"): commands})
    assert b"a line" in await logged(LocalShell(), told, ONE, b"a line", lines=5)
