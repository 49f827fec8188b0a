"""`runbook` and `runbooks`: plan and run a runbook, check its file, list what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, engine
from celery_ops.cli.choice import Choice
from celery_ops.cli.fleet_json import page
from celery_ops.cli.new_runbook import new
from celery_ops.cli.run_command import RunCommand
from celery_ops.cli.text import Column, safe_lines, table, width_of_terminal
from celery_ops.config.units import as_duration
from celery_ops.doctor import RULES
from celery_ops.errors import InvalidDocument
from celery_ops.runbook.json_schema import schema
from celery_ops.runbook.loader import load
from celery_ops.runbook.params import params_of

if TYPE_CHECKING:
    from celery_ops.errors import Problem
    from celery_ops.runbook.library import Entry, Library
    from celery_ops.runbook.schema import Param, Runbook, Value

_COLUMNS = (Column("runbook"), Column("origin"), Column("risk"), Column("summary", gives=True))


class _RunbookCommand(RunCommand):
    """One runbook as a command: its `--help` is its summary and its parameters."""

    def __init__(self, runbook: Runbook) -> None:
        self._params = params_of(runbook)
        summary = safe_lines(runbook.summary)
        super().__init__(runbook.name, runbook=runbook.name, summary=summary, names_workers=False)

    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._params:
            with formatter.section("Parameters"):
                formatter.write_dl([_described(param) for param in self._params])


class _RunbookGroup(click.Group):
    """`check`, `new`, `schema`, and a command for each runbook there is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_library(ctx).names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return _RunbookCommand(_library(ctx).get(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        entries = _library(ctx).entries()
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.help or "") for name, one in self.commands.items()])
        with formatter.section("Runbooks"):
            formatter.write_dl([(safe_lines(one.name), _summary(one)) for one in entries])


@click.group(cls=_RunbookGroup, subcommand_metavar="NAME [ARGS]...")
def runbook() -> None:
    """Plan a runbook on the fleet as it is, and run it.

    `celery-ops runbook NAME --help` shows the parameters of one.
    """


@runbook.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check(files: tuple[str, ...]) -> None:
    """Find all that is wrong in runbook files."""
    problems: list[Problem] = []
    for file in files:
        try:
            load(Path(file), rules=RULES)
        except InvalidDocument as error:
            problems += error.problems
        else:
            click.echo(safe_lines(f"{file}: ok"))
    if problems:
        raise InvalidDocument(problems)


@runbook.command("schema")
def schema_() -> None:
    """Print the JSON schema of runbooks, for editors."""
    click.echo(json.dumps(schema(), indent=2))


runbook.add_command(new)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_context
def runbooks(ctx: click.Context, *, as_json: bool) -> None:
    """The runbooks there are, and where each comes from."""
    entries = _library(ctx).entries()
    if as_json:
        click.echo(page({"runbooks": [_as_json(entry) for entry in entries]}))
        return
    rows = [(one.name, one.origin.value, one.risk or "?", _summary(one)) for one in entries]
    for line in table(_COLUMNS, rows, width_of_terminal()):
        click.echo(line)
    for problem in (problem for entry in entries for problem in entry.problems):
        click.echo(safe_lines(str(problem)), err=True)


def _library(ctx: click.Context) -> Library:
    return engine.library(context.directory(ctx.ensure_object(Choice)))


def _summary(entry: Entry) -> str:
    if entry.runbook is None:
        return f"BROKEN: {len(entry.problems)} problems in {entry.path}"
    return safe_lines(entry.runbook.summary)


def _as_json(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        "risk": entry.risk,
        "origin": entry.origin.value,
        "path": str(entry.path),
        "problems": [str(problem) for problem in entry.problems],
    }


def _described(param: Param) -> tuple[str, str]:
    default = "required"
    if param.default is not None:
        default = f"default {_shown(param.default)}" if param.default != "" else "none by default"
    name = f"-p {param.name}={param.type.value.upper()}"
    return name, safe_lines(f"{param.help} ({default})".strip())


def _shown(value: Value) -> str:
    """A default as an operator would write it; seconds are the only float there is."""
    return as_duration(value) if isinstance(value, float) else str(value)
