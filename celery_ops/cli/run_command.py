"""A command that starts a run: its options, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_ops.cli.choice import Choice
from celery_ops.cli.start_run import Wanted, start_run
from celery_ops.config.units import duration
from celery_ops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKERS = "workers"
_REPEATABLE = "allow_gap"


class RunCommand(click.Command):
    """Runs one runbook; with `names_workers`, on the workers that are its arguments, which are the
    parameter of that name unless they are `named` otherwise.
    """

    def __init__(
        self, name: str, *, runbook: str, summary: str, names_workers: bool, named: str = WORKERS
    ) -> None:
        self._runbook = runbook
        self._named = named
        params = run_options()
        if names_workers:
            params.append(click.Argument(["names"], nargs=-1, required=True, metavar="NAME..."))
        super().__init__(name, params=params, help=summary)

    def invoke(self, ctx: click.Context) -> None:
        """Start the run and end with its code."""
        code = start_run(ctx.ensure_object(Choice), wanted(self._runbook, ctx.params, self._named))
        if code:
            raise click.exceptions.Exit(code)


def wanted(runbook: str, options: Mapping[str, Any], named: str = WORKERS) -> Wanted:
    """What the command line asks for. Raise UsageError for a parameter that is none."""
    given = _given(options["params"])
    names = options.get("names")
    if names:
        if named in given:
            raise UsageError(f"the {named} are named already: leave -p {named}=… out")
        given[named] = ",".join(names)
    return Wanted(
        runbook,
        given,
        only_plan=options["only_plan"],
        yes=options["yes"],
        as_json=options["as_json"],
        wait=options["wait"],
        detach=options["detach"],
        emergency=options["emergency"],
    )


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        return duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def run_options() -> list[click.Parameter]:
    """Fresh options, in the order of `--help`."""
    return [
        click.Option(
            ["-p", "--param", "params"],
            multiple=True,
            metavar="KEY=VALUE",
            help="A parameter of the runbook; allow_gap may be given several times.",
        ),
        click.Option(["--plan", "only_plan"], is_flag=True, help="Show the plan, change nothing."),
        click.Option(
            ["--yes"], is_flag=True, help="Answer every confirmation; relaxes nothing else."
        ),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="Print the journal, an event a line."
        ),
        click.Option(
            ["--wait"],
            callback=_seconds,
            default="0s",
            metavar="DURATION",
            help="How long to wait for somebody else's lease.",
        ),
        click.Option(
            ["--emergency"],
            is_flag=True,
            help="Without the broker, while it is down or full: by the supervisors alone, nothing"
            " drained, guarded or proved.",
        ),
        click.Option(["--detach"], is_flag=True, help="Start it, print its id, do not follow."),
    ]


def _given(params: tuple[str, ...]) -> dict[str, str]:
    given: dict[str, str] = {}
    for param in params:
        key, equals, value = param.partition("=")
        if not equals or not key:
            raise UsageError(f"-p {param}: write KEY=VALUE")
        if key not in given:
            given[key] = value
        elif key == _REPEATABLE:
            given[key] += f",{value}"
        else:
            raise UsageError(f"-p {key}=… is given twice")
    return given
