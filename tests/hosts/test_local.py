"""The shell of this machine: real processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.hosts.local import MAX_OUTPUT, LocalShell
from celery_ops.ports import Command

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = sys.executable


def python(source: str) -> Command:
    return Command((PYTHON, "-S", "-c", source))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marked(path: Path) -> list[str]:
    """The processes that were started by `stubborn(path)`, and what they started."""
    mark = f"OPS_TEST={path}".encode()
    return [one.parent.name for one in Path("/proc").glob("[0-9]*/environ") if has(one, mark)]


def has(environ: Path, mark: bytes) -> bool:
    try:
        return mark in environ.read_bytes().split(b"\0")
    except OSError:
        return False


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


async def written(path: Path) -> list[int]:
    """The pids in a file, once they are there."""
    await until(lambda: bool(pids_in(path)))
    return pids_in(path)


def pids_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def stubborn(path: Path) -> Command:
    """A process and its child that ignore SIGTERM and write their pids into a file."""
    return Command(
        (
            "sh",
            "-c",
            'trap "" TERM; sleep 600 & echo $$ $! > "$1.new"; mv "$1.new" "$1"; wait; sleep 600',
            "sh",
            str(path),
        ),
        env=(("OPS_TEST", str(path)),),
    )


async def test_output_exit_code_and_time_are_told_apart() -> None:
    done = await LocalShell().run(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), timeout=10
    )
    assert (done.code, done.out, done.err, done.truncated) == (3, b"out\n", b"err\n", False)
    assert 0 < done.seconds < 10


async def test_stdin_is_fed_and_ended() -> None:
    content = os.urandom(300_000)
    done = await LocalShell().run(Command(("cat",), stdin=content), timeout=10)
    assert done.out == content


async def test_a_command_that_does_not_read_its_stdin_does_not_hang() -> None:
    done = await LocalShell().run(Command(("true",), stdin=b"x" * 300_000), timeout=10)
    assert done.code == 0


async def test_words_are_never_read_by_a_shell() -> None:
    words = ("$(id)", "; id", "a b", "*", "'", "\n")
    done = await LocalShell().run(Command(("printf", "%s|", *words)), timeout=10)
    assert done.out.decode() == "".join(f"{word}|" for word in words)


async def test_the_environment_is_added_to_ours() -> None:
    command = Command(("sh", "-c", 'echo "$OPS_A:${PATH:+path}"'), env=(("OPS_A", "b c"),))
    assert (await LocalShell().run(command, timeout=10)).out == b"b c:path\n"


async def test_output_is_bounded_and_says_so() -> None:
    done = await LocalShell().run(
        python(f"import sys; sys.stdout.write('x' * {MAX_OUTPUT + 1}); sys.stderr.write('y')"),
        timeout=10,
    )
    assert (len(done.out), done.err, done.truncated, done.code) == (MAX_OUTPUT, b"y", True, 0)


async def test_a_program_that_is_not_there_ends_as_in_a_shell(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for program, code in (("/no/such/program", 127), ("no-such-program", 127), (str(plain), 126)):
        done = await LocalShell().run(Command((program,)), timeout=10)
        assert (done.code, program.encode() in done.err) == (code, True)


@pytest.mark.parametrize("argv", [(), ("a\0b",), ("x" * 3_000_000,)], ids=["empty", "nul", "long"])
async def test_what_cannot_be_a_command_fails(argv: tuple[str, ...]) -> None:
    try:
        done = await LocalShell().run(Command(argv, shown="it"), timeout=10)
    except CommandFailed as error:
        says = str(error)
        assert "cannot be run" in says
    else:
        assert done.code == 126


async def test_a_deadline_ends_the_whole_group_even_where_it_ignores_sigterm(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pids"
    with pytest.raises(CommandFailed, match=r"did not end within 700ms"):
        await LocalShell().run(stubborn(path), timeout=0.7)
    pids = await written(path)
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_cancelled_command_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    run = asyncio.ensure_future(LocalShell().run(stubborn(path), timeout=60))
    pids = await written(path)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize("turns", range(8))
async def test_a_command_cancelled_while_it_starts_leaves_nothing_behind(
    tmp_path: Path, turns: int
) -> None:
    path = tmp_path / "pids"
    run = asyncio.ensure_future(LocalShell().run(stubborn(path), timeout=60))
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(0.05)
    run.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await run
    await until(lambda: not marked(path))


async def test_a_daemon_that_keeps_the_pipe_open_does_not_hold_us(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    command = Command(("sh", "-c", f"echo started; sleep 600 & echo $! > {path}"))
    done = await LocalShell().run(command, timeout=30)
    [daemon] = await written(path)
    assert (done.code, done.out, done.truncated) == (0, b"started\n", True)
    assert done.seconds < 20
    assert is_alive(daemon)
    os.kill(daemon, 9)


async def test_many_commands_run_at_once() -> None:
    commands = [Command(("sh", "-c", f"echo {number}")) for number in range(20)]
    done = await asyncio.gather(*(LocalShell().run(one, timeout=30) for one in commands))
    assert [int(one.out) for one in done] == list(range(20))


async def test_stdin_does_not_show_in_a_command() -> None:
    command = Command(("cat",), stdin=b"hush")
    assert "hush" not in repr(command) + str(command)
