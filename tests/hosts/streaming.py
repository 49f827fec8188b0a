"""What every Shell must do when a command's output is followed, on real processes.

A shell's own test module gives a fixture `shell`; every test here runs against it.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed, StreamFailed
from celery_ops.hosts.local import MAX_STREAM_ERR, MAX_WAITING
from celery_ops.ports import Command
from tests.hosts.test_local import is_alive, stubborn, until, written

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_ops.model import ServiceRef
    from celery_ops.ports import Shell, Supervisor

MOST_ON_THE_WAY = 20_000_000
"""Bytes that pipes, sockets and windows may hold, and some: a log is not read into memory."""


def sh(script: str, *arguments: object, stdin: bytes = b"") -> Command:
    return Command(("sh", "-c", script, "sh", *map(str, arguments)), stdin=stdin)


async def whole(stream: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(30), aclosing(stream):
        return b"".join([data async for data in stream])


async def first(stream: AsyncGenerator[bytes, None]) -> bytes:
    async with asyncio.timeout(20):
        return await anext(stream)


async def logged(
    shell: Shell, supervisor: Supervisor, service: ServiceRef, *words: bytes, lines: int = 50
) -> bytes:
    """What is read of a log until all these words were in it."""
    seen = b""
    command = supervisor.log(service, lines=lines)
    async with asyncio.timeout(20), aclosing(shell.stream(command)) as chunks:
        async for data in chunks:
            seen += data
            if all(word in seen for word in words):
                return seen
    raise AssertionError(f"the log ended: {seen!r}")


async def why_none(shell: Shell, supervisor: Supervisor, service: ServiceRef) -> CommandFailed:
    """Why there is no log to be followed."""
    with pytest.raises(StreamFailed) as caught:
        await whole(shell.stream(supervisor.log(service, lines=5)))
    return supervisor.read_log_end(service, caught.value)


class StreamContract:
    """Derive from it in a module that has a fixture `shell`."""

    async def test_output_comes_while_the_command_still_runs(self, shell: Shell) -> None:
        async with aclosing(shell.stream(sh("echo one; read -r _; sleep 1000"))) as lines:
            assert await first(lines) == b"one\n"

    async def test_a_command_that_ends_well_ends_the_stream(self, shell: Shell) -> None:
        command = sh("cat; echo note >&2; printf end", stdin=b"\x00\xff rest\n")
        assert await whole(shell.stream(command)) == b"\x00\xff rest\nend"

    async def test_nothing_of_much_is_lost(self, shell: Shell) -> None:
        assert len(await whole(shell.stream(sh("head -c 5000000 /dev/zero")))) == 5_000_000

    async def test_a_command_that_ends_badly_tells_its_last_words(self, shell: Shell) -> None:
        script = "echo out; yes | head -c 100000 >&2; echo 'no right' >&2; exit 3"
        with pytest.raises(StreamFailed, match="exit code 3: no right") as caught:
            await whole(shell.stream(sh(script)))
        assert (caught.value.code, len(caught.value.err)) == (3, MAX_STREAM_ERR)

    async def test_what_came_before_a_bad_end_is_read_first(self, shell: Shell) -> None:
        stream = shell.stream(sh("echo out; exit 3"))
        assert await first(stream) == b"out\n"
        with pytest.raises(StreamFailed):
            await first(stream)

    async def test_a_signal_that_ended_it_is_told(self, shell: Shell) -> None:
        with pytest.raises(StreamFailed, match="signal") as caught:
            await whole(shell.stream(sh("kill -9 $$")))
        assert caught.value.code < 0

    async def test_what_is_not_there_says_so(self, shell: Shell) -> None:
        with pytest.raises(StreamFailed, match="no-such-program") as caught:
            await whole(shell.stream(Command(("no-such-program",))))
        assert caught.value.code == 127

    async def test_an_empty_command_is_refused(self, shell: Shell) -> None:
        with pytest.raises(CommandFailed, match="empty command"):
            await whole(shell.stream(Command(())))

    async def test_closing_it_ends_the_process_group(self, shell: Shell, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        script = 'echo $$ >"$1"; sleep 777 & echo $! >>"$1"; echo there; wait'
        async with aclosing(shell.stream(sh(script, pids))) as lines:
            await first(lines)
        started = [int(pid) for pid in pids.read_text().split()]
        assert len(started) == 2
        await until(lambda: not any(is_alive(pid) for pid in started))

    async def test_who_ignores_the_polite_signal_is_killed(
        self, shell: Shell, tmp_path: Path
    ) -> None:
        pids = tmp_path / "pids"
        stream = shell.stream(stubborn(pids))
        reading = asyncio.ensure_future(first(stream))
        started = await written(pids)
        reading.cancel()
        await asyncio.wait([reading])
        await until(lambda: not any(is_alive(pid) for pid in started))

    async def test_a_cancelled_reader_ends_the_process_group(
        self, shell: Shell, tmp_path: Path
    ) -> None:
        pids = tmp_path / "pids"
        reading = asyncio.ensure_future(whole(shell.stream(sh('echo $$ >"$1"; sleep 777', pids))))
        [pid] = await written(pids)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: not is_alive(pid))

    async def test_a_slow_reader_slows_the_command_down(self, shell: Shell, tmp_path: Path) -> None:
        counter = tmp_path / "counter"
        source = (
            "import sys\n"
            "sent = 0\n"
            "while True:\n"
            "    sys.stdout.buffer.write(b'x' * 100_000)\n"
            "    sent += 100_000\n"
            "    open(sys.argv[1], 'w').write(str(sent))\n"
        )
        command = Command((sys.executable, "-S", "-c", source, str(counter)))
        async with aclosing(shell.stream(command)) as chunks:
            await first(chunks)
            before, now = -1, 0
            while now != before:
                await asyncio.sleep(0.3)
                before, now = now, int(counter.read_text() or "0")
            assert 0 < now < MOST_ON_THE_WAY
            longest = max([len(await first(chunks)) for _ in range(100)])
            assert longest < 2 * MAX_WAITING

    async def test_a_flood_leaves_the_event_loop_its_turn(self, shell: Shell) -> None:
        turns = 0

        async def turning() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        other = asyncio.ensure_future(turning())
        async with aclosing(shell.stream(sh("cat /dev/zero"))) as chunks:
            read = 0
            async for data in chunks:
                read += len(data)
                if read > 10_000_000:
                    break
        other.cancel()
        assert turns > 10
