"""`queue …`: what is done to one queue, by short names."""

from __future__ import annotations

import click

from celery_ops.cli.queue_commands import COMMANDS
from celery_ops.cli.queue_peek import peek


@click.group(short_help="Look into a queue, and act on it.")
def queue() -> None:
    """Look into a queue, and act on it."""


queue.add_command(peek)
for _command in COMMANDS:
    queue.add_command(_command)
