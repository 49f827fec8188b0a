"""Whether somebody can be asked, and asking them. Questions go to stderr: stdout may be a pipe."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from celery_ops.cli.text import safe_lines

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
    click.echo(f"{safe_lines(question)} ", err=True, nl=False)
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        loop.remove_reader(descriptor)
        if not typed.done():
            typed.set_result(os.read(descriptor, _MOST_TYPED).decode(errors="replace").strip())

    loop.add_reader(descriptor, read)
    try:
        return await typed
    finally:
        loop.remove_reader(descriptor)
