"""`beat stop|start`: the runbooks by their short names."""

from __future__ import annotations

import click

from celery_ops.cli.run_command import RunCommand

_VERBS = (
    ("stop", "stop-beat", "Stop every scheduler that is configured, and record it."),
    ("start", "start-beat", "Start the schedulers that a run has stopped and still owes."),
)


@click.group(short_help="Stop and start the schedulers.")
def beat() -> None:
    """Stop and start the schedulers that are configured as services (`beat: true`)."""


for _verb, _runbook, _summary in _VERBS:
    beat.add_command(RunCommand(_verb, runbook=_runbook, summary=_summary, names_workers=False))
