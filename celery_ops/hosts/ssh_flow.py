"""Bytes on their way from a thread that blocks to the event loop; no more of them than a bound."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from celery_ops.hosts.local import MAX_WAITING


class Flow:
    """Made on the event loop, which takes; a thread puts, and waits while too much is waiting."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._room = threading.Condition()
        self._waiting = bytearray()
        self._closed = False

    def put(self, data: bytes) -> None:
        """Wait for room; what comes after `close` is dropped."""
        with self._room:
            self._room.wait_for(lambda: self._closed or len(self._waiting) < MAX_WAITING)
            if self._closed:
                return
            tells = not self._waiting
            self._waiting += data
        if tells:
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.wake)

    def take(self) -> bytes:
        """All that is there, if anything."""
        with self._room:
            data = bytes(self._waiting)
            self._waiting.clear()
            self._news.clear()
            self._room.notify()
        return data

    def wake(self) -> None:
        """On the loop: let `wait` look again."""
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Whether there was a reason to look again within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Nothing more is wanted: let go whoever waits for room."""
        with self._room:
            self._closed = True
            self._waiting.clear()
            self._room.notify()
