"""The logs of real supervisord programs, as they are written, rotated and missing."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import only_broker
from celery_ops.errors import StreamFailed
from celery_ops.hosts import HostPool
from celery_ops.hosts.local import LocalShell
from celery_ops.hosts.supervisord import Supervisord
from celery_ops.model import ServiceRef
from tests.hosts.streaming import first, logged, whole, why_none
from tests.rig import wait_until
from tests.rig.sshd import sshd
from tests.rig.supervisord import Rig, supervisord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.rig

IDLE = {"command": "sleep 1000", "startsecs": "0"}


def service(rig: Rig, name: str, host: str = "local") -> ServiceRef:
    return ServiceRef(host, "supervisord", name, server=rig.server)


def log(rig: Rig, name: str = "idle") -> Path:
    return rig.folder / f"{name}.log"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@asynccontextmanager
async def following(rig: Rig, *, lines: int = 50) -> AsyncIterator[Lines]:
    command = Supervisord().log(service(rig, "idle"), lines=lines)
    async with aclosing(LocalShell().stream(command)) as chunks:
        yield Lines(chunks)


class Lines:
    """What has been read of a log."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.seen = b""

    async def until(self, word: bytes) -> bytes:
        async with asyncio.timeout(20):
            while word not in self.seen:
                self.seen += await anext(self._chunks)
        return self.seen


async def test_the_last_lines_come_first_and_then_what_is_added() -> None:
    with supervisord({"idle": IDLE}) as rig:
        append(log(rig), b"".join(b"line %d\n" % number for number in range(5000)))
        async with following(rig, lines=200) as read:
            seen = await read.until(b"line 4999\n")
            assert seen.split(b"\n")[:2] == [b"line 4800", b"line 4801"]
            append(log(rig), b"added\n")
            assert (await read.until(b"added\n")).endswith(b"line 4999\nadded\n")


async def test_bytes_are_what_they_were() -> None:
    hostile = "é & <b> ]]> \x1b[31m \x00\x7f".encode() + b"\xff\xfe\n"
    with supervisord({"idle": IDLE}) as rig:
        async with following(rig) as read:
            append(log(rig), hostile + b"end\n")
            assert (await read.until(b"end\n")).endswith(hostile + b"end\n")


async def test_what_supervisord_cannot_tell_of_the_past_is_left_out() -> None:
    with supervisord({"idle": IDLE}) as rig:
        append(log(rig), b"\xff not a character\n" * 200 + b"last\n")
        async with following(rig) as read:
            seen = await read.until(b"last\n")
    assert seen.startswith(b"\xff not a character\n")
    assert len(seen) < 1100


async def test_a_range_that_begins_within_a_character_is_read_all_the_same() -> None:
    with supervisord({"idle": IDLE}) as rig:
        append(log(rig), "€uro\n".encode() * 2000 + b"x\n")
        async with following(rig, lines=100) as read:
            seen = await read.until(b"x\n")
    assert seen == "€uro\n".encode() * 99 + b"x\n"


async def test_a_log_that_is_rotated_or_truncated_is_followed_on() -> None:
    with supervisord({"idle": IDLE}) as rig:
        append(log(rig), b"old\n" * 10)
        async with following(rig) as read:
            await read.until(b"old\n")
            log(rig).rename(rig.folder / "idle.log.1")
            append(log(rig), b"rotated\n")
            await read.until(b"rotated\n")
            os.truncate(log(rig), 0)
            await read.until(b"was truncated")
            append(log(rig), b"after\n")
            await read.until(b"after\n")
            assert read.seen.count(b"rotated\n") == 1


async def test_a_log_of_errors_beside_is_followed_too() -> None:
    command = "sh -c 'echo out; echo celery logs here >&2; sleep 1000'"
    keys = {"command": command, "redirect_stderr": "false", "stderr_logfile": "AUTO"}
    with supervisord({"two": keys | {"startsecs": "0"}}) as rig:
        seen = await logged(
            LocalShell(), Supervisord(), service(rig, "two"), b"out\n", b"celery logs here\n"
        )
    assert sorted(seen.split(b"\n")) == [b"", b"celery logs here", b"out"]


@pytest.mark.parametrize("file", ["NONE", "syslog", "/dev/stdout"])
async def test_a_program_without_a_log_file_says_so(file: str) -> None:
    keys = IDLE | {"stdout_logfile": file, "stdout_logfile_maxbytes": "0"}
    with supervisord({"quiet": keys}) as rig:
        why = await why_none(LocalShell(), Supervisord(), service(rig, "quiet"))
    assert "no log file" in why.says
    assert "stdout_logfile" in (why.fix or "")


async def test_a_program_that_was_never_started_is_waited_for() -> None:
    with supervisord({"idle": IDLE | {"autostart": "false"}}) as rig:
        async with following(rig) as read:
            await read.until(b"never started?)\n")
            append(log(rig), b"there\n")
            await read.until(b"there\n")
    assert read.seen.count(b"never started") == 1


async def test_an_unknown_program_is_refused() -> None:
    with supervisord({"idle": IDLE}) as rig:
        why = await why_none(LocalShell(), Supervisord(), service(rig, "idel"))
    assert "no program" in why.says
    assert why.fix


async def test_a_supervisord_that_is_not_there_says_so() -> None:
    with supervisord({"idle": IDLE}) as rig:
        rig.kill()
        why = await why_none(LocalShell(), Supervisord(), service(rig, "idle"))
    assert "not running" in why.says


async def test_a_supervisord_that_ends_meanwhile_is_told() -> None:
    with supervisord({"idle": IDLE}) as rig:
        append(log(rig), b"there\n")
        one = service(rig, "idle")
        stream = LocalShell().stream(Supervisord().log(one, lines=5))
        await first(stream)
        rig.kill()
        with pytest.raises(StreamFailed) as caught:
            await whole(stream)
    assert "ended, or was restarted" in Supervisord().read_log_end(one, caught.value).says


async def test_a_password_is_needed_and_given() -> None:
    with supervisord({"idle": IDLE}, user="ops", password="hush") as rig:
        append(log(rig), b"line\n" * 1000)
        one = service(rig, "idle")
        why = await why_none(LocalShell(), Supervisord(), one)
        assert "password" in why.says
        assert rig.password is not None
        adapter = Supervisord({one.server or "": rig.password})
        seen = await logged(LocalShell(), adapter, one, b"line\n", lines=500)
        assert len(seen.split(b"\n")) > 400


async def test_a_reader_that_is_slow_is_told_what_was_left_out() -> None:
    """What nobody takes must not pile up in supervisord, which runs the workers."""
    with supervisord({"idle": IDLE}) as rig:
        async with following(rig) as read:
            append(log(rig), b"begin\n")
            await read.until(b"begin\n")
            for _ in range(20):
                append(log(rig), b"x" * 99 + b"\n" + b"x" * 999_900)
                await asyncio.sleep(0.15)
            wait_until(lambda: log(rig).stat().st_size > 19_000_000, what="a long log")
            append(log(rig), b"\n")
            await read.until(b"are left out")
            assert len(read.seen) < 6_000_000


async def test_nobody_is_left_who_reads_a_log_that_nobody_follows() -> None:
    with supervisord({"idle": IDLE}) as rig:
        async with following(rig) as read:
            append(log(rig), b"there\n")
            await read.until(b"there\n")
            assert _connections(rig) == 1
        wait_until(lambda: _connections(rig) == 0, what="the end of the relay")


def _connections(rig: Rig) -> int:
    """Of supervisord's socket, beside the one that listens."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    mine = [line for line in lines if str(rig.folder / "s") in line]
    return sum(line.split()[5] == "03" for line in mine)


async def test_the_same_over_ssh() -> None:
    with sshd() as server, supervisord({"idle": IDLE}) as rig:
        context = only_broker("redis://unused")
        pool = HostPool(replace(context, hosts=(*context.hosts, server.entry("web1"))))
        append(log(rig), b"".join(b"line %d\n" % number for number in range(1000)))
        one = service(rig, "idle", "web1")
        seen = await logged(pool.shell("web1"), Supervisord(), one, b"line 999\n", lines=300)
        assert seen.startswith(b"line 700\n")
        wait_until(lambda: _connections(rig) == 0, what="the end of the relay")
        await pool.close()
