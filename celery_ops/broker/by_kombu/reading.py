"""Looks at the messages that wait, where that can be done without taking one out: in files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from celery_ops.broker import envelopes
from celery_ops.broker.by_kombu.files import content, waiting
from celery_ops.errors import PreconditionFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from celery_ops.broker.by_kombu.address import Folders
    from celery_ops.broker.by_kombu.link import KombuLink, Session
    from celery_ops.model import StoredMessage

_PORTION = 200
"""Messages that are read at a time."""


class FileReader:
    """Implements `ports.MessageReading` on files: they are read where they are."""

    kind = "kombu"
    marks = False

    def __init__(self, link: KombuLink, folders: Folders) -> None:
        self._link = link
        self._folder = folders.data

    async def count(self, queue: str) -> int:
        return len(await self._waiting(queue))

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        del requeue
        return await self._read((await self._waiting(queue))[skip : skip + count])

    async def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        del requeue
        paths = await self._waiting(queue)
        for start in range(0, len(paths), _PORTION):
            yield await self._read(paths[start : start + _PORTION])

    async def _waiting(self, queue: str) -> list[Path]:
        return await self._link.call(lambda _: waiting(self._folder, queue))

    async def _read(self, paths: list[Path]) -> tuple[StoredMessage, ...]:
        """Those that no worker has taken meanwhile."""
        return await self._link.call(partial(_stored, paths))


class NoReader:
    """Implements `ports.MessageReading` where a look would take messages out."""

    kind = "kombu"
    marks = False

    def __init__(self, transport: str) -> None:
        self._transport = transport

    async def count(self, queue: str) -> int:
        """Raise PreconditionFailed, as all others."""
        raise self._refusal(queue)

    async def peek(
        self, queue: str, *, skip: int, count: int, requeue: bool = False
    ) -> tuple[StoredMessage, ...]:
        del skip, count, requeue
        raise self._refusal(queue)

    async def read(
        self, queue: str, *, requeue: bool = False
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        del requeue
        raise self._refusal(queue)
        yield

    def _refusal(self, queue: str) -> PreconditionFailed:
        return PreconditionFailed(
            f"Messages of {queue!r} cannot be looked at: over {self._transport}:// that would take"
            " them out of it."
        )


def _stored(paths: list[Path], _: Session) -> tuple[StoredMessage, ...]:
    return tuple(envelopes.stored(raw, 0) for raw in map(content, paths) if raw)
