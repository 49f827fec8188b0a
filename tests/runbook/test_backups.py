"""The file of a backup: whole or refused, with the line that tells why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_ops.errors import InvalidDocument
from celery_ops.model import StoredMessage
from celery_ops.runbook.backups import Header, Writer, read
from tests.rig.small_disk import small_disk

if TYPE_CHECKING:
    from pathlib import Path

HEADER = Header(
    kind="redis",
    context="production",
    queue="mail",
    at=datetime(2026, 11, 26, 3, 12, tzinfo=UTC),
    run="20261126-031200-abcd",
    step="2",
    copied=False,
)
RAWS = [b'{"body": "x"}', b"\x00\xff no text", "é漢\u2028\n\r".encode(), b"", b'{"count": 3}']
MESSAGES = [StoredMessage(raw, priority=n) for n, raw in enumerate(RAWS)]


def write(path: Path, messages: list[StoredMessage] | None = None) -> Path:
    with Writer(path, HEADER) as writer:
        for message in MESSAGES if messages is None else messages:
            writer.add([message])
        writer.seal()
    return path


async def why_not(path: Path, kind: str | None = None) -> str:
    with pytest.raises(InvalidDocument) as refused:
        await read(path, kind=kind)
    (problem,) = refused.value.problems
    assert problem.file == str(path)
    return f"{problem.line}: {problem.says}"


async def test_what_was_written_is_read_to_the_byte(tmp_path: Path) -> None:
    backup = await read(write(tmp_path / "deep" / "b"), kind="redis")
    assert backup.header == HEADER
    assert backup.count == 5
    for backwards in (False, True):
        found = [one for some in backup.portions(0, backwards=backwards) for one in some]
        assert found == MESSAGES
    assert (tmp_path / "deep" / "b").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b"]


def test_a_disk_that_is_full_keeps_nothing_of_a_backup(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    with small_disk(directory, 64):
        with pytest.raises(OSError, match="No space left"):
            write(directory / "b", [StoredMessage(b"x" * 1000)] * 100)
        assert list(directory.iterdir()) == []


@given(
    count=st.integers(0, 40),
    done=st.integers(0, 40),
    portion=st.integers(1, 7),
    most=st.none() | st.integers(1, 9),
    backwards=st.booleans(),
)
async def test_what_is_done_is_left_out_and_the_rest_comes_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    done: int,
    portion: int,
    most: int | None,
    *,
    backwards: bool,
) -> None:
    """Whatever the portions of the one who did them were."""
    done = min(done, count)
    messages = [StoredMessage(str(number).encode()) for number in range(count)]
    path = write(tmp_path_factory.mktemp("b") / "b", messages)
    backup = await read(path, portion=portion)
    portions = list(backup.portions(done, backwards=backwards, most=most))
    assert all(0 < len(one) <= min(portion, most or portion) for one in portions)
    in_order = [one for some in (reversed(portions) if backwards else portions) for one in some]
    assert in_order == (messages[: count - done] if backwards else messages[done:])


async def test_what_was_cut_off_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "b").read_bytes()
    ends = {at + 1 for at, byte in enumerate(whole) if byte == 10}
    for at in range(1, len(whole) - 1):
        (tmp_path / "b").write_bytes(whole[:at])
        says = await why_not(tmp_path / "b")
        if at > len('{"celery_ops": "backup"'):
            assert "cut off" in says, at
            line = whole[:at].count(10) + (at not in ends)
            assert says.startswith(f"{line}: "), at


async def test_any_byte_that_was_changed_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "b").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        await why_not(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:2], *lines[3:]], "6: 4 messages are there, and 5 were written"),
        (lambda lines: [*lines[:1], lines[2], lines[1], *lines[3:]],
         "7: the checksum does not hold: the backup was changed"),
        (lambda lines: [*lines, b"more"], "8: something follows the end of the backup"),
        (lambda lines: [*lines[:2], b"{}", *lines[2:]],
         "3: this line is no message: the backup was changed"),
        (lambda lines: [b'{"version": 1}', *lines[1:]],
         "1: this is no backup of a queue: its first line does not say so"),
        (lambda _: [b""], "1: this is no backup of a queue: its first line does not say so"),
        (lambda lines: [lines[0].replace(b'"version": 1', b'"version": 2'), *lines[1:]],
         "1: a backup of version 2; this celery-ops reads 1"),
    ],
    ids=["one less", "another order", "one more", "no message", "no header", "empty", "version"],
)  # fmt: skip
async def test_what_is_no_whole_backup_is_refused_with_its_line(
    tmp_path: Path, change: object, says: str
) -> None:
    assert callable(change)
    path = write(tmp_path / "b")
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    assert await why_not(path) == says


async def test_another_kind_of_broker_cannot_take_it(tmp_path: Path) -> None:
    assert await why_not(write(tmp_path / "b"), "rabbitmq") == (
        "1: messages of a redis broker; this one is rabbitmq and cannot take them"
    )


async def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "No such file" in await why_not(tmp_path / "none")
    assert "Is a directory" in await why_not(tmp_path)


def test_what_was_not_sealed_leaves_nothing(tmp_path: Path) -> None:
    with Writer(tmp_path / "b", HEADER) as writer:
        writer.add(MESSAGES)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "b")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write(path)
    assert path.read_bytes() == before


async def test_a_restore_is_of_the_very_same_file(tmp_path: Path) -> None:
    """The same messages, backed up by another run, are another backup."""
    one = await read(write(tmp_path / "one"))
    same = await read(write(tmp_path / "same"))
    with Writer(tmp_path / "other", replace(HEADER, run="another")) as writer:
        writer.add(MESSAGES)
        writer.seal()
    other = await read(tmp_path / "other")
    assert one.ticket == same.ticket != other.ticket
    seal = json.loads((tmp_path / "one").read_text().splitlines()[-1])
    assert one.ticket == f"backup {seal['sha256']}"
