"""The hosts of a context."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from celery_ops.config.contexts import LOCAL, only_broker
from celery_ops.errors import CommandFailed, UsageError
from celery_ops.hosts import HostPool
from celery_ops.hosts.processes import read_arguments
from celery_ops.ports import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = only_broker("redis://unused")


def test_paramiko_is_not_loaded_without_a_remote_host() -> None:
    script = (
        "import sys; from celery_ops.config.contexts import only_broker;"
        "from celery_ops.hosts import HostPool;"
        "HostPool(only_broker('redis://unused')).shell('local');"
        "sys.exit('paramiko' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean local"):
        HostPool(CONTEXT).shell("locl")


def test_a_supervisor_that_is_not_spoken_is_named() -> None:
    with pytest.raises(CommandFailed, match="speak to swarm, only to commands, compose, docker"):
        HostPool(CONTEXT).supervisor("swarm")


WORDS = ("-c", "import sys; sys.stdin.read()", "", "a b", "line\nbreak", "é", "x" * 5000)


@pytest.fixture
def process() -> Iterator[int]:
    """The pid of a Python that was started with WORDS."""
    with subprocess.Popen([sys.executable, *WORDS], stdin=subprocess.PIPE) as started:
        yield started.pid


@pytest.fixture
def dead_process() -> int:
    with subprocess.Popen(["true"]) as started:
        return started.pid


async def test_command_lines_are_read_and_dead_processes_left_out(
    process: int, dead_process: int
) -> None:
    found = await HostPool(CONTEXT).arguments(LOCAL, {process, dead_process, os.getpid()})
    assert found[process] == (sys.executable, *WORDS)
    assert set(found) == {process, os.getpid()}


async def test_no_process_is_no_question() -> None:
    assert await HostPool(CONTEXT).arguments("anywhere", ()) == {}


def test_a_host_without_the_tool_says_so() -> None:
    with pytest.raises(CommandFailed, match="grep: not found"):
        read_arguments([1], Completed(127, b"", b"grep: not found", 0.0))


def test_what_may_be_cut_off_is_left_out() -> None:
    out = b"/proc/1/cmdline\0a\0/proc/2/cmdline\0b\0/proc/2/cmdl"
    assert read_arguments([1, 2], Completed(0, out, b"", 0.0, truncated=True)) == {1: ("a",)}
