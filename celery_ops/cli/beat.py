"""`beat`: the schedulers; `beat stop|start|forget`: the runbooks by their short names."""

from __future__ import annotations

import click

from celery_ops.cli.run_command import RunCommand
from celery_ops.cli.status import show_beats

_VERBS = (
    ("stop", "stop-beat", "Stop every scheduler, prove that none sends, and record it."),
    ("start", "start-beat", "Start the schedulers that a run has stopped and still owes."),
)


@click.group(short_help="The schedulers; stop and start them.", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--watch", is_flag=True, help="Again and again; JSON: a document a line.")
@click.pass_context
def beat(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The schedulers on all hosts, configured or not; with a command, stop and start them."""
    if ctx.invoked_subcommand is None:
        show_beats(ctx, as_json=as_json, watch=watch)


for _verb, _runbook, _summary in _VERBS:
    beat.add_command(RunCommand(_verb, runbook=_runbook, summary=_summary, names_workers=False))

beat.add_command(
    RunCommand(
        "forget",
        runbook="forget-beat",
        summary="Leave stopped schedulers stopped: no run owes them their start any more.",
        names_workers=True,
        named="beats",
    )
)
