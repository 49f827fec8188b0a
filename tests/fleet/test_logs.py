"""Logs as lines: split however the bytes come, bounded, and without passwords."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.errors import CommandFailed, HostUnreachable, StreamFailed
from celery_ops.fleet.logs import MAX_LINE, MOST_AT_ONCE, MOST_TOGETHER, Logs, Splitter
from celery_ops.model import ServiceRef
from tests.standin.clock import VirtualClock
from tests.standin.fleet import StandinFleet
from tests.standin.hosts import StandinHosts

SERVICE = ServiceRef("web1", "systemd", "celery")


def split(*parts: bytes) -> list[str]:
    splitter = Splitter()
    return [line for part in parts for line in splitter.feed(part)]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_lines_are_the_same_however_the_bytes_come(content: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(content)]
    parts = [content[start:end] for start, end in itertools.pairwise(edges)]
    assert split(*parts) == split(content)


def test_a_line_is_told_once_it_has_ended() -> None:
    assert split(b"one\ntw") == ["one"]
    assert split(b"one\ntw", b"o\r\n\n") == ["one", "two", ""]


def test_a_line_without_an_end_is_bounded() -> None:
    [line] = split(*[b"x" * 100_000] * 20, b"\n")
    assert line == "x" * MAX_LINE + " …"
    assert split(b"x" * 100_000, b"\nnext\n")[1] == "next"


def test_of_a_flood_the_last_lines_are_told_and_how_many_are_left_out() -> None:
    lines = split(b"".join(b"%d\n" % number for number in range(10_000)))
    assert lines[0] == "(5,000 lines are left out)"
    assert lines[1:] == [str(number) for number in range(10_000 - MOST_TOGETHER, 10_000)]


def test_colours_are_taken_away_and_all_other_controls_stay_to_be_seen() -> None:
    assert split(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07\n") == ["red \x1b]0;title\x07"]


def test_passwords_in_urls_are_masked() -> None:
    [line] = split(b"Connected to amqp://ops:hush@10.0.0.5:5672//\n")
    assert line == "Connected to amqp://ops:***@10.0.0.5:5672//"


def test_what_is_no_text_is_shown_as_such() -> None:
    assert split(b"\xff\xfe ok\n") == ["\ufffd\ufffd ok"]


async def test_a_log_is_followed_on_its_host_until_it_is_left() -> None:
    hosts = StandinHosts(StandinFleet(VirtualClock()))
    hosts.written["web1", "celery"].put_nowait(b"one\ntwo\nth")
    hosts.written["web1", "celery"].put_nowait(b"ree\n")
    async with aclosing(Logs(hosts).follow(SERVICE)) as batches:
        assert await anext(batches) == ("one", "two")
        assert await anext(batches) == ("three",)
        assert hosts.following == 1
    assert hosts.following == 0


async def test_many_lines_are_handed_on_in_portions() -> None:
    hosts = StandinHosts(StandinFleet(VirtualClock()))
    hosts.written["web1", "celery"].put_nowait(b"line\n" * (MOST_AT_ONCE + 1))
    async with aclosing(Logs(hosts).follow(SERVICE)) as batches:
        assert [len(await anext(batches)) for _ in range(2)] == [MOST_AT_ONCE, 1]


async def test_why_it_breaks_off_is_told_by_its_supervisor() -> None:
    hosts = StandinHosts(StandinFleet(VirtualClock()))
    written = hosts.written["web1", "celery"]
    written.put_nowait(StreamFailed("ended with exit code 3.", code=3, err=b""))
    with pytest.raises(CommandFailed, match="systemd celery on web1: ended"):
        await anext(Logs(hosts).follow(SERVICE))


async def test_a_lost_host_is_told_as_such() -> None:
    hosts = StandinHosts(StandinFleet(VirtualClock()))
    hosts.unreachable.add("web1")
    with pytest.raises(HostUnreachable):
        await anext(Logs(hosts).follow(SERVICE))


async def test_who_is_cancelled_leaves_nothing_open() -> None:
    hosts = StandinHosts(StandinFleet(VirtualClock()))

    async def follow() -> None:
        async with aclosing(Logs(hosts).follow(SERVICE)) as batches:
            async for _ in batches:
                pass

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert hosts.following == 1
    following.cancel()
    await asyncio.wait([following])
    assert hosts.following == 0
