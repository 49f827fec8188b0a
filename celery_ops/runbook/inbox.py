"""Messages to a run: an append-only file beside its journal.

Whoever follows a run holds a shared lock on the inbox, so the executor can tell whether anybody is
there to be asked.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from celery_ops.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Word(StrEnum):
    """What can be said to a run. A second and third `ABORT` are the second and third Ctrl-C."""

    ABORT = "abort"
    PAUSE = "pause"
    CONTINUE = "continue"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Message:
    """`answer` and `step` belong to `Word.ANSWER`; `who` is the operator (`user@machine`)."""

    word: Word
    who: str
    step: str | None = None
    answer: str | None = None


_DECODER = msgspec.json.Decoder(Message)


def send(path: Path, message: Message) -> None:
    """Append a message. Raise JournalError if it cannot be written."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, msgspec.json.encode(message) + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}") from error


class Inbox:
    """The executor's end: reads what was not read yet. Where the file is gone, nobody is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        path.touch(mode=0o600, exist_ok=True)

    def new(self) -> tuple[Message, ...]:
        """Messages since the last call; lines that are none are skipped.

        One that was removed says nothing more: the run itself goes on.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return ()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.split(b"\n"):
            try:
                found.append(_DECODER.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
        return tuple(found)

    def has_follower(self) -> bool:
        """Whether a living process follows the run and could answer."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False


def clear(path: Path) -> None:
    """Forget what was said to a run before it is taken up again. Raise JournalError.

    Whoever follows it keeps its place: the file stays the same one.
    """
    try:
        with path.open("ab") as file:
            file.truncate(0)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def following(path: Path) -> Iterator[None]:
    """Be known to the executor as somebody who can be asked."""
    path.touch(mode=0o600, exist_ok=True)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
