"""The logs of services, line by line: bounded, readable, and without the passwords of URLs in them.

A log that breaks off says why; to begin again is the reader's.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING

from celery_ops.config.secret import masked
from celery_ops.errors import StreamFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_ops.model import ServiceRef
    from celery_ops.ports import Hosts

LAST_LINES = 200
"""Lines of the past that a log begins with."""
MOST_TOGETHER = 5_000
"""Of more lines that came together the last are told; nobody reads the others."""
MOST_AT_ONCE = 250
"""Lines that are handed on at once: whoever shows them has other things to do too."""
MAX_LINE = 16_384
"""Bytes; the rest of a longer line is dropped."""

_COLOURS = re.compile(r"\x1b\[[0-9;]{0,40}m")


class Logs:
    """Follows logs on the hosts of a context."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def follow(self, service: ServiceRef) -> AsyncGenerator[tuple[str, ...], None]:
        """Its last lines and those that are added, as many as came together, until it breaks off.

        Raise HostUnreachable, or CommandFailed with what helps.
        """
        supervisor = self._hosts.supervisor(service.supervisor)
        command = supervisor.log(service, lines=LAST_LINES)
        splitter = Splitter()
        try:
            async with aclosing(self._hosts.shell(service.host).stream(command)) as chunks:
                async for data in chunks:
                    lines = splitter.feed(data)
                    for start in range(0, len(lines), MOST_AT_ONCE):
                        yield lines[start : start + MOST_AT_ONCE]
        except StreamFailed as ended:
            raise supervisor.read_log_end(service, ended) from ended


class Splitter:
    """Makes lines of bytes as they come."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._drops = False
        """The line that has not ended yet is longer than what is kept of it."""

    def feed(self, data: bytes) -> tuple[str, ...]:
        """The lines that have ended by now."""
        *ended, rest = data.split(b"\n")
        lines: list[bytes] = []
        for part in ended:
            self._keep(part)
            lines.append(bytes(self._rest) + (b" \xe2\x80\xa6" if self._drops else b""))
            self._rest.clear()
            self._drops = False
        self._keep(rest)
        left_out = len(lines) - MOST_TOGETHER
        shown = tuple(_text(line) for line in lines[-MOST_TOGETHER:])
        return (f"({left_out:,} lines are left out)", *shown) if left_out > 0 else shown

    def _keep(self, part: bytes) -> None:
        room = MAX_LINE - len(self._rest)
        self._rest += part[:room]
        self._drops = self._drops or len(part) > room


def _text(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\r")
    if "\x1b" in text:
        text = _COLOURS.sub("", text)
    return masked(text) if "://" in text else text
