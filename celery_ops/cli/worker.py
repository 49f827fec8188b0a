"""`worker drain|resume|restart|stop|start NAME…`: the runbooks by their short names."""

from __future__ import annotations

import click

from celery_ops.cli.run_command import RunCommand

_VERBS = (
    ("drain", "drain-worker", "Take workers out of work and wait until their tasks have ended."),
    ("resume", "resume-worker", "Give drained workers their queues back."),
    ("restart", "rolling-restart", "Restart workers, a few at a time, without losing a task."),
    ("stop", "stop-worker", "Drain workers and stop them."),
    ("start", "start-worker", "Start stopped workers."),
)


@click.group(short_help="Drain, resume, restart, stop, start the named workers.")
def worker() -> None:
    """Drain, resume, restart, stop, start the named workers.

    NAME is a node name, a glob, queue:NAME, host:NAME or state:STATE; !NAME leaves one out.
    """


for _verb, _runbook, _summary in _VERBS:
    worker.add_command(RunCommand(_verb, runbook=_runbook, summary=_summary, names_workers=True))
