"""`queue …`: what is done to one queue, by short names."""

from __future__ import annotations

import click


@click.group(short_help="Look into a queue, and act on it.")
def queue() -> None:
    """Look into a queue, and act on it."""
