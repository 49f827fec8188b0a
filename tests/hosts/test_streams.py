"""Following what commands print: the contract on both shells, and what only a connection can do."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.hosts.local import LocalShell
from celery_ops.ports import Command
from tests.hosts.streaming import StreamContract, first, sh, whole
from tests.hosts.test_local import is_alive, until, written
from tests.hosts.test_ssh import pool
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from celery_ops.ports import Shell

pytestmark = pytest.mark.rig


class TestLocalStreams(StreamContract):
    """The contract of all shells."""

    @pytest.fixture
    def shell(self) -> Shell:
        return LocalShell()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Sshd]:
    with sshd() as server:
        yield server


class TestSshStreams(StreamContract):
    """The same over SSH."""

    @pytest_asyncio.fixture
    async def shell(self, shared_server: Sshd) -> AsyncIterator[Shell]:
        hosts = pool(shared_server.entry())
        yield hosts.shell("web1")
        await hosts.close()


@pytest.fixture
def server() -> Iterator[Sshd]:
    with sshd() as started:
        yield started


@pytest_asyncio.fixture
async def shell(server: Sshd) -> AsyncIterator[Shell]:
    hosts = pool(server.entry())
    yield hosts.shell("web1")
    await hosts.close()


async def test_a_lost_connection_is_told_to_the_reader(server: Sshd, shell: Shell) -> None:
    async with aclosing(shell.stream(sh("echo there; sleep 777"))) as lines:
        await first(lines)
        server.kill()
        with pytest.raises(HostUnreachable, match="connection"):
            await first(lines)


async def test_a_host_that_is_not_there_is_unreachable(server: Sshd, shell: Shell) -> None:
    server.kill()
    with pytest.raises(HostUnreachable):
        await first(shell.stream(sh("echo there")))


async def test_a_log_can_be_followed_again_on_a_new_connection(server: Sshd, shell: Shell) -> None:
    async with aclosing(shell.stream(sh("echo there; sleep 777"))) as lines:
        await first(lines)
        server.kill()
        with pytest.raises(HostUnreachable):
            await first(lines)
    server.start()
    async with aclosing(shell.stream(sh("echo again; sleep 777"))) as lines:
        assert await first(lines) == b"again\n"


async def test_silence_of_a_frozen_host_is_noticed(server: Sshd, shell: Shell) -> None:
    async with aclosing(shell.stream(sh("echo there; sleep 777"))) as lines:
        await first(lines)
        server.freeze()
        with pytest.raises(HostUnreachable):
            await first(lines)


async def test_leaving_the_log_of_a_frozen_host_is_quick_and_says_what_is_not_known(
    server: Sshd, shell: Shell
) -> None:
    lines = shell.stream(sh("echo there; sleep 777"))
    await first(lines)
    server.freeze()
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="may still run"):
        await lines.aclose()
    # The timeouts say it; that they are kept is measured with much room.
    assert time.monotonic() - began < 30


async def test_being_cancelled_on_a_frozen_host_is_no_error(server: Sshd, shell: Shell) -> None:
    async def follow() -> None:
        async with aclosing(shell.stream(sh("echo there; sleep 777"))) as lines:
            async for _ in lines:
                there.set()
                await asyncio.sleep(600)

    there = asyncio.Event()
    following = asyncio.ensure_future(follow())
    await there.wait()
    server.freeze()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_followed_logs_do_not_starve_commands_nor_each_other(shell: Shell) -> None:
    command = sh("echo there; sleep 777")
    async with aclosing(shell.stream(command)) as one, aclosing(shell.stream(command)) as two:
        await asyncio.gather(first(one), first(two))
        done = await asyncio.gather(*(shell.run(Command(("echo",)), timeout=20) for _ in range(20)))
        assert {one.code for one in done} == {0}
        with pytest.raises(CommandFailed, match="2 logs") as caught:
            await first(shell.stream(command))
        assert caught.value.fix
    async with aclosing(shell.stream(command)) as three:
        assert await first(three) == b"there\n"


async def test_closing_the_hosts_ends_what_is_followed(server: Sshd, tmp_path: Path) -> None:
    hosts = pool(server.entry())
    script = 'echo $$ >"$1"; while echo line; do sleep 0.1; done'
    lines = hosts.shell("web1").stream(sh(script, tmp_path / "pid"))
    await first(lines)
    [pid] = await written(tmp_path / "pid")
    await hosts.close()
    with pytest.raises(HostUnreachable):
        await whole(lines)
    await until(lambda: not is_alive(pid))
