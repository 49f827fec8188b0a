"""The command `celery-ops`: its global options, its list of commands, its exit codes.

Commands are named here and imported when they are called: `--help` and `status` must not pay for a
screen, an SSH client or Celery.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_ops import __version__
from celery_ops.cli import exit_codes
from celery_ops.cli.boundary import errors_become_exit_codes
from celery_ops.cli.choice import Choice
from celery_ops.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class _Command:
    """Where a command is written, as `module:name`, and its line in `--help`."""

    place: str
    help: str

    def load(self) -> click.Command:
        module, name = self.place.split(":")
        command = getattr(importlib.import_module(f"celery_ops.cli.{module}"), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.place} is no command")
        return command


_COMMANDS: Mapping[str, _Command] = {
    "status": _Command("status:status", "The fleet at a glance: problems, workers, queues."),
    "workers": _Command("status:workers", "The workers."),
    "queues": _Command("status:queues", "The queues."),
    "hosts": _Command("status:hosts", "The hosts, and the services on them."),
    "releases": _Command("status:releases", "The releases of each host, and what workers run."),
    "runbook": _Command("runbook:runbook", "Plan and run a runbook, or check its file."),
    "runbooks": _Command("runbook:runbooks", "The runbooks there are, and where each comes from."),
    "runs": _Command("runs:runs", "The runs there were; show, follow and steer one."),
    "worker": _Command("worker:worker", "Drain, resume, restart, stop, start the named workers."),
    "queue": _Command("queue:queue", "Look into a queue, and act on it."),
    "task": _Command("task:task", "Where tasks are; revoke, terminate and retry them."),
    "beat": _Command("beat:beat", "The schedulers on all hosts; stop and start them."),
    "config": _Command("config:config", "Find a fleet, and prove that it is as it is written."),
    "demo": _Command("demo:demo", "A real fleet on this machine, and the app on it."),
}


class _OpsGroup(click.Group):
    """Loads commands when they are called; nothing that goes wrong passes it unexplained."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = _COMMANDS.get(cmd_name)
        return command.load() if command else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in _COMMANDS.items()])

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), code.says) for code in exit_codes.ExitCode])

    def invoke(self, ctx: click.Context) -> object:
        with errors_become_exit_codes():
            return super().invoke(ctx)


@click.group(
    cls=_OpsGroup,
    name="celery-ops",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("-c", "--context", metavar="CONTEXT", help="Which deployment of celery-ops.yaml.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration; else $CELERY_OPS_CONFIG, ./celery-ops.yaml, the user's own.",
)
@click.option("-b", "--broker", metavar="URL", help="A broker, without any configuration.")
@click.option("-A", "--app", metavar="APP", help="A Celery application: its broker is taken.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.version_option(__version__, prog_name="celery-ops")
@click.pass_context
def cli(
    ctx: click.Context,
    context: str | None,
    config: Path | None,
    broker: str | None,
    app: str | None,
    *,
    read_only: bool,
) -> None:
    """Show a Celery fleet as it is, and change it without losing a task.

    Without a command: the app.
    """
    inherited = None if context or broker else _app_of_celery(ctx)
    ctx.obj = Choice(
        context=context,
        config=config,
        broker=None if broker is None else Secret(broker),
        app=app or inherited,
        read_only=read_only,
    )
    if ctx.invoked_subcommand is None:
        importlib.import_module("celery_ops.cli.app").open_app(ctx.obj)


def _app_of_celery(ctx: click.Context) -> object | None:
    """The application of `celery -A APP ops`; None if this is not a sub-command of celery."""
    return None if ctx.parent is None else getattr(ctx.parent.obj, "app", None)
