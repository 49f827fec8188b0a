"""A pseudo-terminal with a program in it: what an operator sees and types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEADLINE = 60.0

# Ctrl-C becomes a signal only for the session whose controlling terminal it is typed at.
_IN_FRONT = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """The program leads the session of its terminal, so Ctrl-C and hang-ups reach it as in life."""

    def __init__(self, argv: tuple[str, ...], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_FRONT, *argv],
            cwd=cwd,
            env={**env, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""
        self._raw = b""

    def wait_for(self, words: str) -> None:
        """Read on until these words were shown."""
        deadline = time.monotonic() + DEADLINE
        while words not in self.seen:
            if time.monotonic() > deadline or not self._read(0.2):
                pytest.fail(f"{words!r} was not shown, but: {self.seen[-3000:]}")

    def type(self, text: str) -> None:
        """Keys; \x03 is Ctrl-C."""
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read on until the program ends; its exit code."""
        deadline = time.monotonic() + DEADLINE
        while self._read(0.1) and time.monotonic() < deadline:
            pass
        return self.process.wait(60)

    def close(self) -> None:
        """Close the terminal, as tmux's kill-pane does: what is in it gets SIGHUP."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _read(self, timeout: float) -> bool:
        """False once the program has closed the terminal."""
        if not select.select([self._master], [], [], timeout)[0]:
            return self.process.poll() is None
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self._raw += piece
        self.seen = self._raw.decode(errors="replace")
        return bool(piece)
