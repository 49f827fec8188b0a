"""`queue …`: what is done to one queue, by short names."""

from __future__ import annotations

import click

from celery_ops.cli.queue_consumers import consumer_commands


@click.group(short_help="Look into a queue, and act on it.")
def queue() -> None:
    """Look into a queue, and act on it."""


for _command in consumer_commands():
    queue.add_command(_command)
