"""`filesystem://`: every message a file of its folder, named after its queue.

What is read here is read as kombu does (`kombu.transport.filesystem`), but for one thing: no file
is ever moved away that is not ours. A worker's mailbox stays bound when the worker is gone, and so
would every question in it. So each is put into the mailboxes one by one, and what nobody has read
by the end of a round is removed again. Either a file is removed or a worker moves it away, never
both: a question is read or taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from celery_ops.broker import messages
from celery_ops.broker.by_kombu.post import MARK, FanoutPost
from celery_ops.ports import QueueReading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from celery_ops.broker.by_kombu.address import Folders, KombuAddress
    from celery_ops.broker.by_kombu.link import Session
    from celery_ops.broker.mailbox import Call
    from celery_ops.ports import Reply

FORGOTTEN_AFTER = 600.0
"""Seconds after which what a killed celery-ops has left is removed by the next one."""
_OUR_REPLIES = re.compile(r"[0-9a-f]{32}\.reply\.celery-ops\.pidbox")
_UNACKED = (
    "What workers hold: they take the messages' files away, and nobody counts those. A worker that"
    " is killed takes what it held along."
)


class FilesPost(FanoutPost):
    """Implements `Post` on files."""

    def __init__(self, address: KombuAddress, folders: Folders) -> None:
        super().__init__(address)
        self._folder = folders.data
        self._has_swept = False

    def send(
        self,
        session: Session,
        tickets: Mapping[str, Call],
        *,
        to: Sequence[str] | None,
        reached: Collection[str],
        expires: float,
    ) -> None:
        if not self._has_swept:
            self._has_swept = True
            self._sweep()
        channel = session.channel
        for ticket, call in tickets.items():
            for node in sorted(reached):
                letter = self.letter(channel, ticket, call, to, expires)
                channel.basic_publish(letter, "", f"{node}.{self._names.pidbox}")

    def receive(self, session: Session, now: Callable[[], datetime]) -> list[tuple[str, Reply]]:
        del session
        found = []
        for path in self._of(self.replies):
            raw = _content(path)
            if raw:  # one that is empty is being written
                path.unlink(missing_ok=True)
                read = messages.read_reply(raw, now())
                if read is not None:
                    found.append(read)
        return found

    def withdraw(self, session: Session, tickets: Collection[str]) -> None:
        del session
        ours = {f"{self.client} {ticket}" for ticket in tickets}
        for path in self._questions():
            if _mark(_content(path)) in ours:
                path.unlink(missing_ok=True)

    def close(self, session: Session) -> None:
        del session
        for path in self._questions():
            if _mark(_content(path)).startswith(f"{self.client} "):
                path.unlink(missing_ok=True)
        for path in self._of(self.replies):
            path.unlink(missing_ok=True)

    def _of(self, queue: str) -> list[Path]:
        return [path for path, of in _files(self._folder) if of == queue]

    def _questions(self) -> list[Path]:
        return [path for path, of in _files(self._folder) if self._names.node(of)]

    def _sweep(self) -> None:
        """Remove what an earlier celery-ops left when it was killed: nobody waits for it."""
        old = time.time() - FORGOTTEN_AFTER
        for path, of in list(_files(self._folder)):
            with contextlib.suppress(FileNotFoundError):
                is_ours = _OUR_REPLIES.fullmatch(of) or self._names.node(of)
                if is_ours and path.stat().st_mtime < old:
                    is_question = not _OUR_REPLIES.fullmatch(of)
                    if not is_question or _mark(_content(path)):
                        path.unlink()


class FileSizes:
    """Implements `Sizes` on files: all queues at once, those too that nobody named."""

    notes = (_UNACKED,)
    unlisted = ""

    def __init__(self, address: KombuAddress, folders: Folders) -> None:
        self._names = address.names
        self._folders = folders

    def read(self, session: Session, known: Collection[str]) -> tuple[QueueReading, ...]:
        del session
        ready: Counter[str] = Counter()
        heads: dict[str, str] = {}
        for path, queue in _files(self._folders.data):
            ready[queue] += 1
            heads[queue] = min(path.name, heads.get(queue, path.name))
        found = {*ready, *self._bound()}
        names = {*known, *(one for one in found if not self._names.is_plumbing(one))}
        return tuple(
            QueueReading(name, ready[name], None, heads=(heads[name],) if name in heads else ())
            for name in sorted(names)
        )

    def _bound(self) -> Iterator[str]:
        """Queues that an exchange leads to."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._folders.control.glob("*.exchange"):
                with contextlib.suppress(ValueError, TypeError):
                    for entry in json.loads(_content(path) or "[]"):
                        yield str(entry[2])


def waiting(folder: Path, queue: str) -> list[Path]:
    """A queue's messages, the next one first: workers take them in the order of their names."""
    return sorted(path for path, of in _files(folder) if of == queue)


def content(path: Path) -> bytes:
    """A message as it is, empty if it was taken away meanwhile."""
    return _content(path)


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every message with its queue: a name is `<ms>_<uuid>.<queue>.msg`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            _, dot, rest = entry.name.partition(".")
            if dot and rest.endswith(".msg"):
                yield Path(entry.path), rest.removesuffix(".msg")


def _content(path: Path) -> bytes:
    """What stands in a file, once who writes it is done; empty if it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return file.read()
    except FileNotFoundError:
        return b""


def _mark(raw: bytes) -> str:
    """Whose question a message is; empty for others'."""
    if MARK.encode() not in raw:
        return ""
    try:
        return str(json.loads(raw)["headers"].get(MARK, ""))
    except (ValueError, LookupError, AttributeError, TypeError):
        return ""
