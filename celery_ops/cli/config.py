"""`config init | check | schema`: find a fleet, prove its description, help the editor."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from celery_ops.cli.boundary import run
from celery_ops.cli.choice import Choice
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.fleet_json import page
from celery_ops.config import contexts
from celery_ops.config.secret import Secret


@click.group()
def config() -> None:
    """Find a fleet and write it down; prove that what is written is so."""


@config.command(short_help="Find a fleet and write celery-ops.yaml.")
@click.argument("hosts", nargs=-1, metavar="[[USER@]HOST[:PORT]]...")
@click.option("-b", "--broker", metavar="URL", help="The workers' broker; else $CELERY_BROKER_URL.")
@click.option("-A", "--app", metavar="APP", help="A Celery application: its broker is taken.")
@click.option(
    "-n",
    "--name",
    metavar="CONTEXT",
    default="production",
    show_default=True,
    help="The context's name.",
)
@click.option("--ssh-user", metavar="USER", help="Who to log in as, where USER@ does not say.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help=f"What to write: {contexts.FILE_NAME} here, or what --config names; - is stdout.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.pass_context
def init(
    ctx: click.Context,
    hosts: tuple[str, ...],
    *,
    broker: str | None,
    app: str | None,
    name: str,
    ssh_user: str | None,
    output: str | None,
    force: bool,
) -> None:
    """Find the workers and the services that run them, and write celery-ops.yaml.

    HOST is a machine reached by SSH, or `local`. Nothing is changed there. The password of a broker
    is never written down: the file names $CELERY_BROKER_URL instead.
    """
    chosen = ctx.ensure_object(Choice)
    named = chosen.config
    if broker is not None or app is not None:
        chosen = Choice(broker=None if broker is None else Secret(broker), app=app)
    module = importlib.import_module("celery_ops.cli.config_init")
    wanted = module.Wanted(
        choice=chosen,
        hosts=hosts,
        name=name,
        ssh_user=ssh_user,
        output=None if output == "-" else Path(output or named or contexts.FILE_NAME),
        force=force,
    )
    if not run(module.init(wanted)):
        raise click.exceptions.Exit(ExitCode.STOPPED)


@config.command(short_help="Prove that what is written is so.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_context
def check(ctx: click.Context, *, as_json: bool) -> None:
    """Prove a context: its broker, hosts, services, rights, and which worker is whose.

    Nothing is started or stopped. 0: all is as written; 1: something is not; 69: no broker.
    """
    module = importlib.import_module("celery_ops.cli.config_check")
    code = run(module.check(ctx.ensure_object(Choice), as_json=as_json))
    if code:
        raise click.exceptions.Exit(code)


@config.command()
def schema() -> None:
    """Print the JSON schema of celery-ops.yaml, for editors."""
    click.echo(page(contexts.schema()))
