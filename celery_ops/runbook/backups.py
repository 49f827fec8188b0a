"""Files that queues are backed up to: a header, a line for each message, and a seal.

    {"celery_ops": "backup", "version": 1, "kind": "redis", "queue": "mail", …}
    {"priority": 0, "raw": "…"}       a message, the one that is served first first
    {"priority": 3, "base64": "…"}    one that is no text
    {"count": 2, "sha256": "…"}       of every byte above

Written under another name, and given its own when all of it is on the disk: a file of that name is
whole. Read strictly: one that was cut off, changed, or is of another version or kind of broker is
refused with its line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from celery_ops.errors import InvalidDocument, Problem
from celery_ops.model import StoredMessage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Portion = tuple[StoredMessage, ...]

VERSION = 1
_BEGINNING = b'{"celery_ops": "backup"'
PORTION = 500
"""Messages that are read, and put back, at once."""
_BYTES_A_PORTION = 512 * 1024
_BYTES_A_SYNC = 16 * 1024 * 1024
"""So much goes to the disk at once, so that no wait for it is long."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup is of: `kind` is that of the broker, `queue` the one the messages are from.

    `copied`: they were left in their queue, so that to restore them makes two of each; else they
    were taken out of it.
    """

    kind: str
    context: str
    queue: str
    at: datetime
    run: str
    step: str
    copied: bool


@dataclass(frozen=True, slots=True)
class Backup:
    """A whole backup that was read through: `places` are where its portions begin in the file, and
    how many messages are before each.
    """

    path: Path
    header: Header
    count: int
    sha256: str
    places: tuple[tuple[int, int], ...]

    @property
    def ticket(self) -> str:
        """What its messages are counted under when they are put back."""
        return f"backup {self.sha256}"

    def portions(self, done: int, *, backwards: bool, most: int | None = None) -> Iterator[Portion]:
        """The messages but for `done` of them, the first to be served first in each portion, of at
        most so many.

        `backwards`: the last portion comes first, and those that are done are the last ones. Raise
        InvalidDocument if the file is not what it was.
        """
        left = self.count - done
        starts = list(self.places)
        ends = [number for _, number in (*starts[1:], (0, self.count))] if starts else []
        spans = [(at, begin, end) for (at, begin), end in zip(starts, ends, strict=True)]
        with self.path.open("rb") as file:
            for at, begin, end in reversed(spans) if backwards else spans:
                first, last = (begin, min(end, left)) if backwards else (max(begin, done), end)
                if first < last:
                    read = self._read(file, at, first - begin, last - begin)
                    size = most or len(read)
                    cuts = range(0, len(read), size)
                    if backwards:
                        yield from (read[max(0, len(read) - cut - size) : len(read) - cut]
                                    for cut in cuts)  # fmt: skip
                    else:
                        yield from (read[cut : cut + size] for cut in cuts)

    def _read(self, file: BinaryIO, at: int, first: int, last: int) -> tuple[StoredMessage, ...]:
        file.seek(at)
        found = []
        for number in range(last):
            message = _message(file.readline())
            if message is None:
                raise _wrong(self.path, 0, "the file was changed since it was read through")
            if number >= first:
                found.append(message)
        return tuple(found)


class Writer:
    """Writes one backup, and gives it its name at the end: `with`, `add`, `seal`."""

    def __init__(self, path: Path, header: Header) -> None:
        """Raise OSError, as every method does."""
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        self._path = path
        self._part = _part(path, header.run, header.step)
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._part, mode, 0o600), "wb")
        self._sum = hashlib.sha256()
        self._unsynced = 0
        self.count = 0
        said = {**asdict(header), "at": header.at.isoformat()}
        self._write(json.dumps({"celery_ops": "backup", "version": VERSION, **said}))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """What was not sealed is gone, and so is what a full disk holds back."""
        try:
            self._file.close()
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, messages: Sequence[StoredMessage]) -> None:
        """Those that are served next."""
        for message in messages:
            self._write(_line(message))
        self.count += len(messages)
        if self._unsynced > _BYTES_A_SYNC:
            self._sync()

    def seal(self) -> None:
        """The file is whole and on the disk. Raise FileExistsError if its name is taken."""
        self._write(json.dumps({"count": self.count, "sha256": self._sum.hexdigest()}))
        self._sync()
        if self._path.exists():
            raise FileExistsError(f"{self._path} exists")
        self._part.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        self._file.write(data)
        self._sum.update(data)
        self._unsynced += len(data)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0


def is_there(path: Path) -> bool:
    """Whether a file of that name exists, whatever it is."""
    return path.exists()


def remove(path: Path, run: str, step: str) -> None:
    """If it is there; and what a run that was killed left of it, unfinished."""
    path.unlink(missing_ok=True)
    _part(path, run, step).unlink(missing_ok=True)


def _part(path: Path, run: str, step: str) -> Path:
    """What a step of a run writes until it is whole."""
    return path.with_name(f".{path.name}.{run}-{step}.part")


async def read(path: Path, *, kind: str | None = None, portion: int = PORTION) -> Backup:
    """Read all of a backup through. Raise InvalidDocument, naming the line, if it is not whole or,
    with a `kind`, of another kind of broker. `portion`: the most messages that are put back at
    once.
    """
    try:
        with path.open("rb") as file:
            return await _read(path, file, kind, portion)
    except OSError as error:
        raise _wrong(path, 0, f"cannot be read: {error.strerror}") from error


async def _read(path: Path, file: BinaryIO, kind: str | None, portion: int) -> Backup:
    begin = file.readline()
    header = _header(path, begin, kind)
    total = hashlib.sha256(begin)
    places: list[tuple[int, int]] = []
    count, number, in_portion, size, at = 0, 1, 0, 0, len(begin)
    for line in file:
        number += 1
        seal = _seal(line)
        if seal is not None:
            _check(path, number, seal, _Seal(count, total.hexdigest()))
            if file.read(1):
                raise _wrong(path, number + 1, "something follows the end of the backup")
            return Backup(path, header, count, seal.sha256, tuple(places))
        if not line.endswith(b"\n"):
            raise _wrong(path, number, "the backup was cut off in this line")
        if _message(line) is None:
            raise _wrong(path, number, "this line is no message: the backup was changed")
        if not places or in_portion >= portion or size + len(line) > _BYTES_A_PORTION:
            places.append((at, count))
            in_portion = size = 0
            await asyncio.sleep(0)  # others have their turn: a lease must be renewed meanwhile
        total.update(line)
        count, in_portion, size, at = count + 1, in_portion + 1, size + len(line), at + len(line)
    raise _wrong(path, number, "the backup was cut off after this line: its last one is missing")


@dataclass(frozen=True, slots=True)
class _Seal:
    count: int
    sha256: str


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    priority: int
    raw: str | None = None
    base64: str | None = None


class _End(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    sha256: str


class _Begin(msgspec.Struct):
    celery_ops: str
    version: int


def _header(path: Path, line: bytes, kind: str | None) -> Header:
    try:
        begin = msgspec.json.decode(line, type=_Begin)
    except msgspec.DecodeError:
        begin = _Begin("", 0)
    if not line.endswith(b"\n") and line.startswith(_BEGINNING):
        raise _wrong(path, 1, "the backup was cut off in this line")
    if begin.celery_ops != "backup":
        raise _wrong(path, 1, "this is no backup of a queue: its first line does not say so")
    if begin.version != VERSION:
        raise _wrong(
            path, 1, f"a backup of version {begin.version}; this celery-ops reads {VERSION}"
        )
    try:
        header = msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as error:
        raise _wrong(path, 1, f"the first line was changed: {error}") from error
    if kind is not None and header.kind != kind:
        says = f"messages of a {header.kind} broker; this one is {kind} and cannot take them"
        raise _wrong(path, 1, says)
    return header


def _seal(line: bytes) -> _Seal | None:
    if not line.startswith(b'{"count"'):
        return None
    try:
        end = msgspec.json.decode(line, type=_End)
    except msgspec.DecodeError:
        return None
    return _Seal(end.count, end.sha256)


def _check(path: Path, number: int, seal: _Seal, found: _Seal) -> None:
    if seal.count != found.count:
        says = f"{found.count} messages are there, and {seal.count} were written"
        raise _wrong(path, number, says)
    if seal.sha256 != found.sha256:
        raise _wrong(path, number, "the checksum does not hold: the backup was changed")


def _line(message: StoredMessage) -> str:
    try:
        said = {"raw": message.raw.decode()}
    except UnicodeDecodeError:
        said = {"base64": base64.b64encode(message.raw).decode()}
    return json.dumps({"priority": message.priority, **said})


def _message(line: bytes) -> StoredMessage | None:
    try:
        said = msgspec.json.decode(line, type=_Line)
        if (said.raw is None) == (said.base64 is None):
            return None
        if said.raw is not None:
            return StoredMessage(said.raw.encode(), said.priority)
        return StoredMessage(base64.b64decode(said.base64 or "", validate=True), said.priority)
    except (msgspec.DecodeError, UnicodeEncodeError, binascii.Error):
        return None


def _wrong(path: Path, line: int, says: str) -> InvalidDocument:
    return InvalidDocument([Problem(str(path), max(line, 1), 1, says)])
