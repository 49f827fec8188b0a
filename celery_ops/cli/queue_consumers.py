"""`queue pause|resume|drain NAME`: the runbooks by their short names."""

from __future__ import annotations

import click

from celery_ops.cli.choice import Choice
from celery_ops.cli.run_command import run_options, wanted
from celery_ops.cli.start_run import start_run
from celery_ops.errors import UsageError

_VERBS = (
    ("pause", "Take a queue from its workers. How each had declared it is remembered."),
    ("resume", "Give a paused queue back. Each worker consumes it again as it had declared it."),
    ("drain", "Wait until a queue is worked off. What waits for it elsewhere counts, too."),
)


class QueueCommand(click.Command):
    """Runs a runbook on the queue that is its argument."""

    def __init__(self, name: str, *, runbook: str, summary: str) -> None:
        self._runbook = runbook
        params = [click.Argument(["queue"], metavar="NAME"), *run_options()]
        short_help = summary.partition(".")[0] + "."
        super().__init__(name, params=params, help=summary, short_help=short_help)

    def invoke(self, ctx: click.Context) -> None:
        """Start the run and end with its code."""
        given = ctx.params["params"]
        if any(param.partition("=")[0] == "queue" for param in given):
            raise UsageError("the queue is named already: leave -p queue=… out")
        params = (*given, f"queue={ctx.params['queue']}")
        asked = wanted(self._runbook, {**ctx.params, "params": params})
        code = start_run(ctx.ensure_object(Choice), asked)
        if code:
            raise click.exceptions.Exit(code)


def consumer_commands() -> list[click.Command]:
    """What is done to the consumers of a queue."""
    return [
        QueueCommand(verb, runbook=f"{verb}-queue", summary=summary) for verb, summary in _VERBS
    ]
