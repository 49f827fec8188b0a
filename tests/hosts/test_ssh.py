"""Commands on a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest
import pytest_asyncio
from paramiko.common import cMSG_CHANNEL_DATA

from celery_ops.config.contexts import only_broker
from celery_ops.errors import CommandFailed, HostUnreachable
from celery_ops.hosts import HostPool
from celery_ops.hosts.local import MAX_OUTPUT
from celery_ops.hosts.ssh_channel import Connection
from celery_ops.ports import Command
from tests.hosts.test_local import is_alive, stubborn, until, written
from tests.rig import wait_until
from tests.rig.sshd import Sshd, sshd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery_ops.config.contexts import HostEntry
    from celery_ops.ports import Shell

pytestmark = pytest.mark.rig


def pool(*entries: HostEntry) -> HostPool:
    context = only_broker("redis://unused")
    return HostPool(replace(context, hosts=(*context.hosts, *entries)))


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Sshd]:
    """For tests that do it no harm."""
    with sshd() as server:
        yield server


@pytest_asyncio.fixture
async def shell(shared_server: Sshd) -> AsyncIterator[Shell]:
    hosts = pool(shared_server.entry())
    yield hosts.shell("web1")
    await hosts.close()


@pytest.fixture
def server() -> Iterator[Sshd]:
    """One of the test's own."""
    with sshd() as started:
        yield started


async def test_output_exit_code_and_time_are_told_apart(shell: Shell) -> None:
    done = await shell.run(Command(("sh", "-c", "echo out; echo err >&2; exit 3")), timeout=20)
    assert (done.code, done.out, done.err, done.truncated) == (3, b"out\n", b"err\n", False)
    assert 0 < done.seconds < 20


async def test_stdin_is_fed_and_ended_and_nothing_is_changed(shell: Shell) -> None:
    content = os.urandom(1_000_000)
    done = await shell.run(Command(("cat",), stdin=content), timeout=30)
    assert (done.out == content, done.code, done.truncated) == (True, 0, False)


async def test_a_command_that_does_not_read_its_stdin_does_not_hang(shell: Shell) -> None:
    done = await shell.run(Command(("true",), stdin=b"x" * 5_000_000), timeout=30)
    assert done.code == 0


async def test_output_is_whole_however_the_threads_take_turns(shell: Shell) -> None:
    before = sys.getswitchinterval()
    try:
        for interval in (1e-4, 1e-3):
            sys.setswitchinterval(interval)
            command = Command(("sh", "-c", "cat; echo out; echo err >&2"))
            done = await asyncio.gather(*(shell.run(command, timeout=60) for _ in range(30)))
            assert {(one.out, one.err, one.code) for one in done} == {(b"out\n", b"err\n", 0)}
    finally:
        sys.setswitchinterval(before)


HOSTILE = (
    "$(id)",
    "`id`",
    "a b",
    "'",
    '"',
    "\\",
    "\n",
    "*",
    "~",
    "!!",
    "",
    "; id",
    "é\udcff",
    "-n",
)


async def test_words_are_never_read_by_a_shell(shell: Shell) -> None:
    done = await shell.run(Command(("printf", "%s\\0", *HOSTILE)), timeout=20)
    words = done.out.decode("utf-8", "surrogateescape").split("\0")
    assert tuple(words[:-1]) == HOSTILE


async def test_the_environment_arrives_and_is_seen_by_nobody_else(shell: Shell) -> None:
    env = (("LC_ALL", "C"), ("TOKEN", "hush\n'\"$(id)"), ("EMPTY", ""))
    script = 'printf "%s|" "$TOKEN" "${EMPTY-unset}"; cat; cat /proc/$PPID/cmdline /proc/$$/cmdline'
    done = await shell.run(Command(("sh", "-c", script), env=env, stdin=b"rest"), timeout=20)
    assert done.out.startswith(b"hush\n'\"$(id)||rest")
    assert done.out.count(b"hush") == 1


@pytest.mark.parametrize(("argv", "code"), [(("no-such-program",), 127), (("/etc/passwd",), 126)])
async def test_what_cannot_be_executed_says_so(
    shell: Shell, argv: tuple[str, ...], code: int
) -> None:
    done = await shell.run(Command(argv), timeout=20)
    assert done.code == code
    assert argv[0].encode() in done.err


async def test_a_signal_that_ended_it_is_no_exit_code(shell: Shell) -> None:
    done = await shell.run(Command(("sh", "-c", "echo out; kill -9 $$")), timeout=20)
    assert (done.code, done.out) == (-1, b"out\n")


@pytest.mark.parametrize(
    "command",
    [
        Command(()),
        Command(("a\0b",)),
        Command(("-x",)),
        Command(("true",), env=(("A B", ""),)),
        Command(("true", "x" * 200_000)),
    ],
    ids=["empty", "null", "dash", "variable", "long"],
)
async def test_what_cannot_be_written_as_a_command_is_refused(
    shell: Shell, command: Command
) -> None:
    with pytest.raises(CommandFailed):
        await shell.run(command, timeout=20)


@pytest.mark.parametrize("stream", [1, 2])
async def test_endless_output_is_bounded(shell: Shell, stream: int) -> None:
    script = f"head -c {3 * MAX_OUTPUT} /dev/zero >&{stream}; echo end >&{3 - stream}"
    done = await shell.run(Command(("sh", "-c", script)), timeout=60)
    assert (len(done.out), len(done.err)) == ((MAX_OUTPUT, 4) if stream == 1 else (4, MAX_OUTPUT))
    assert (done.truncated, done.code) == (True, 0)


async def test_many_commands_run_at_once_on_one_connection(server: Sshd) -> None:
    hosts = pool(server.entry())
    shell = hosts.shell("web1")
    commands = [Command(("sh", "-c", f"sleep 0.1; echo {number}")) for number in range(20)]
    done = await asyncio.gather(*(shell.run(one, timeout=60) for one in commands))
    await hosts.close()
    assert [int(one.out) for one in done] == list(range(20))
    assert server.connections() == 1


@pytest.mark.parametrize("kind", ["session", "tunnel"])
def test_data_that_crosses_the_end_of_a_channel_costs_no_connection(
    kind: str, server: Sshd
) -> None:
    # sshd ends a connection at data for a channel whose CLOSE was answered. That answer waits for
    # whoever uses the channel, so that nothing that is about to be said can come after it.
    connection = logged_in(server)
    channel = one_that_ends(kind, connection)
    wait_until(lambda: channel.closed, what="the host's CLOSE")
    connection.global_request("keepalive@openssh.com")  # whatever answers CLOSE has done so by now
    late = paramiko.Message()
    late.add_byte(cMSG_CHANNEL_DATA)
    late.add_int(channel.remote_chanid)
    late.add_string(b"x")
    connection._send_user_message(late)  # type: ignore[attr-defined]  # it had passed all checks
    channel.close()
    connection.open_session_channel(20).close()
    connection.close()
    assert "nonexistent channel" not in server.log()


def one_that_ends(kind: str, connection: Connection) -> paramiko.Channel:
    if kind == "session":
        session = connection.open_session_channel(20)
        session.execute(b"true")
        return session
    with socket.create_server(("127.0.0.1", 0)) as far:
        tunnel = connection.open_tunnel(far.getsockname(), 20)
        far.accept()[0].close()

    def is_told() -> bool:
        with contextlib.suppress(OSError):
            tunnel.send(b"x")  # only this tells the jump host that nobody reads any more
        return tunnel.closed

    wait_until(is_told, what="the end of the tunnel")
    return tunnel


def logged_in(server: Sshd) -> Connection:
    connection = Connection(("127.0.0.1", server.port))
    connection.start_client(timeout=20)
    connection.auth_publickey(getpass.getuser(), paramiko.Ed25519Key.from_path(server.key))
    return connection


async def test_stdin_that_nobody_reads_costs_no_connection(server: Sshd) -> None:
    hosts = pool(server.entry())
    shell, unread = hosts.shell("web1"), Command(("true",), stdin=b"x" * 300_000)
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        for _ in range(10):
            done = await asyncio.gather(*(shell.run(unread, timeout=30) for _ in range(8)))
            assert {one.code for one in done} == {0}
    finally:
        sys.setswitchinterval(before)
        await hosts.close()
    assert server.connections() == 1


async def test_a_command_that_gets_no_turn_is_not_started(server: Sshd, tmp_path: Path) -> None:
    hosts = pool(server.entry())
    shell = hosts.shell("web1")
    await shell.run(Command(("true",)), timeout=20)
    busy = [
        asyncio.ensure_future(shell.run(Command(("sleep", "60")), timeout=90)) for _ in range(6)
    ]
    await asyncio.sleep(0)
    late = Command(("touch", str(tmp_path / "late")))
    async with asyncio.timeout(20):
        with pytest.raises(
            HostUnreachable, match=r"was not started .* had all 6 sessions"
        ) as caught:
            await shell.run(late, timeout=0.2)
    assert "try again" in str(caught.value.fix)
    busy[0].cancel()
    await shell.run(late, timeout=20)
    for one in busy:
        one.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    await hosts.close()


async def test_a_command_out_of_time_is_ended_with_its_children(
    shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    run = asyncio.ensure_future(shell.run(stubborn(path), timeout=2))
    pids = await written(path)
    with pytest.raises(CommandFailed, match="did not end within 2s and was ended"):
        await run
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_cancelled_command_is_ended_with_its_children(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    run = asyncio.ensure_future(shell.run(stubborn(path), timeout=60))
    pids = await written(path)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_daemon_that_keeps_the_pipe_open_does_not_hold_us(
    shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    command = Command(("sh", "-c", f"echo started; sleep 600 & echo $! > {path}"))
    done = await shell.run(command, timeout=30)
    [daemon] = await written(path)
    assert (done.code, done.out, done.truncated) == (0, b"started\n", True)
    assert is_alive(daemon)
    os.kill(daemon, 9)


async def test_what_the_login_shell_prints_is_no_output(server: Sshd) -> None:
    (server.home / ".bashrc").write_text(f"echo Welcome; echo >&2; touch {server.home}/was-read\n")
    hosts = pool(server.entry())
    done = await hosts.shell("web1").run(Command(("echo", "out")), timeout=20)
    await hosts.close()
    assert (server.home / "was-read").exists()
    assert (done.out, done.err) == (b"out\n", b"")


async def test_a_host_that_runs_something_else_is_unreachable() -> None:
    with sshd("ForceCommand echo 'no entry\x1b[2J'; exit 1") as server:
        hosts = pool(server.entry())
        with pytest.raises(HostUnreachable, match=r"runs no commands: no entry\[2J\."):
            await hosts.shell("web1").run(Command(("true",)), timeout=20)
        await hosts.close()


async def test_few_sessions_are_waited_for() -> None:
    with sshd("MaxSessions 1") as server:
        hosts = pool(server.entry())
        runs = [hosts.shell("web1").run(Command(("sleep", "0.2")), timeout=30) for _ in range(4)]
        assert [done.code for done in await asyncio.gather(*runs)] == [0] * 4
        await hosts.close()
        assert server.connections() == 1


async def test_a_server_that_was_restarted_is_connected_to_again(server: Sshd) -> None:
    hosts = pool(server.entry())
    shell = hosts.shell("web1")
    await shell.run(Command(("true",)), timeout=20)
    server.kill()
    server.start()
    done = await shell.run(Command(("echo", "again")), timeout=20)
    await hosts.close()
    assert done.out == b"again\n"


async def test_a_command_whose_connection_broke_is_not_repeated(
    server: Sshd, tmp_path: Path
) -> None:
    hosts = pool(server.entry())
    path = tmp_path / "runs"
    script = f"echo $$ >> {path}; exec sleep 600"
    run = asyncio.ensure_future(hosts.shell("web1").run(Command(("sh", "-c", script)), timeout=60))
    [pid] = await written(path)
    server.kill()
    server.start()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(HostUnreachable, match="lost: it is not known how it ended"):
                await run
        assert await written(path) == [pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        await hosts.close()


async def test_a_frozen_host_is_noticed_while_a_command_runs(server: Sshd, tmp_path: Path) -> None:
    hosts = pool(server.entry())
    path = tmp_path / "pids"
    run = asyncio.ensure_future(hosts.shell("web1").run(stubborn(path), timeout=600))
    pids = await written(path)
    server.freeze()
    try:
        async with asyncio.timeout(40):
            with pytest.raises(HostUnreachable, match="not known how it ended"):
                await run
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        await hosts.close()
        assert time.monotonic() - began < 5


async def test_a_frozen_host_does_not_hold_a_command_nor_the_end(server: Sshd) -> None:
    hosts = pool(server.entry(connect_timeout=2.0))
    shell = hosts.shell("web1")
    await shell.run(Command(("true",)), timeout=20)
    server.freeze()
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="did not shake hands within 2s"):
        await shell.run(Command(("true",)), timeout=20)
    run = asyncio.ensure_future(shell.run(Command(("true",)), timeout=20))
    await asyncio.sleep(0)
    await hosts.close()
    with pytest.raises((HostUnreachable, asyncio.CancelledError)):
        await run
    assert time.monotonic() - began < 20


async def test_a_host_that_is_not_there_is_unreachable(server: Sshd) -> None:
    hosts = pool(server.entry())
    server.kill()
    runs = [hosts.shell("web1").run(Command(("true",)), timeout=20) for _ in range(20)]
    failed = await asyncio.gather(*runs, return_exceptions=True)
    assert {str(one) for one in failed} == {f"{failed[0]}"}
    assert "Connection refused" in str(failed[0])
    await hosts.close()


def own_command_line() -> tuple[str, ...]:
    told = Path("/proc/self/cmdline").read_bytes().removesuffix(b"\0")
    return tuple(told.decode().split("\0"))


async def test_command_lines_are_read_on_a_remote_host_too(shared_server: Sshd) -> None:
    hosts = pool(shared_server.entry())
    found = await hosts.arguments("web1", {os.getpid(), 1})
    assert found[os.getpid()] == own_command_line()
    await hosts.close()
