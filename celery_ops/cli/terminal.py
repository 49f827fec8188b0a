"""Whether somebody can be asked, and asking them. Questions go to stderr: stdout may be a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from celery_ops.cli.text import safe_lines
from celery_ops.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_TYPED = 4096


def can_ask() -> bool:
    """A person can read stderr and type an answer. Streams that were closed are None."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str) -> str:
    """Ask and wait for a line; an ended input is an empty answer."""
    click.echo(f"{safe_lines(question)} ", err=True, nl=False)
    return sys.stdin.readline().strip()


async def ask_meanwhile(question: str) -> str:
    """As `ask`, while other things go on; what was typed is left to others when it is cancelled."""
    return (await _line_meanwhile(question)).strip()


async def ask_passphrase(key: Path) -> Secret | None:
    """Ask for a key's passphrase, while other things go on. None: an empty line, so it is not
    known.

    It is never shown, not even its length.
    """
    with _unseen(sys.stdin.fileno()):
        try:
            typed = await _line_meanwhile(f"Passphrase of the key {key} (empty: not known):")
        finally:
            click.echo(err=True)  # as what was typed, the end of its line was not shown
    passphrase = typed.rstrip("\r\n")
    return Secret(passphrase) if passphrase else None


async def _line_meanwhile(question: str) -> str:
    click.echo(f"{safe_lines(question)} ", err=True, nl=False)
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        loop.remove_reader(descriptor)
        if not typed.done():
            typed.set_result(os.read(descriptor, _MOST_TYPED).decode(errors="replace"))

    loop.add_reader(descriptor, read)
    try:
        return await typed
    finally:
        loop.remove_reader(descriptor)


@contextmanager
def _unseen(terminal: int) -> Iterator[None]:
    """Let it not show what is typed, nor take what was typed before the question."""
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
