"""`celery -A proj ops …`: the same commands as a sub-command of Celery's own.

Celery loads this at every start of every worker, so it imports click and nothing else.
"""

from __future__ import annotations

import importlib

import click


class _Ops(click.Group):
    """Stands in for the real group until it is called."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        """The context of the real group: click goes on with that one."""
        main = importlib.import_module("celery_ops.cli.main")
        context: click.Context = main.cli.make_context(info_name, args, parent, **extra)
        return context


ops = _Ops(name="ops", short_help="Show this fleet, and change it without losing a task.")
