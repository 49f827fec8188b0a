"""A terminal that can be closed under the program in it: tmux on a socket of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Tmux:
    """A server with windows of one pane each."""

    def __init__(self, program: str, socket: Path) -> None:
        self._command = (program, "-S", str(socket), "-f", "/dev/null")

    def open(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Run a program in a new window, which is the one that is seen from now on."""
        given = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        exists = self._run("has-session").returncode == 0
        how = ("new-window",) if exists else ("new-session", "-d", "-x", "140", "-y", "40")
        made = self._run(*how, "-c", str(cwd), *given, *argv)
        assert made.returncode == 0, made.stderr

    def keys(self, *keys: str) -> None:
        """Type these, by tmux's names."""
        self._run("send-keys", *keys)

    def screen(self) -> str:
        """What stands there now."""
        return self._run("capture-pane", "-p").stdout

    def wait_for(self, words: str) -> None:
        try:
            wait_until(partial(self._shows, words), what=repr(words), timeout=60)
        except TimeoutError as error:
            pytest.fail(f"{error}; the screen shows:\n{self.screen()}")

    def pid(self) -> int:
        """Of the program in the window."""
        return int(self._run("display-message", "-p", "#{pane_pid}").stdout)

    def kill_pane(self) -> None:
        """Close the window: what runs in it gets SIGHUP, and has no terminal any more."""
        self._run("kill-pane")

    def kill(self) -> None:
        """End the server, and with it all of its terminals."""
        self._run("kill-server")

    def _shows(self, words: str) -> bool:
        return words in self.screen()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=20, check=False
        )


@contextlib.contextmanager
def tmux(folder: Path) -> Iterator[Tmux]:
    """One whose server is gone at the end. The path of its socket may have 107 bytes."""
    program = shutil.which("tmux")
    if program is None:
        missing("tmux (apt install tmux)")
    made = Tmux(program, folder / "tmux")
    try:
        yield made
    finally:
        made.kill()
