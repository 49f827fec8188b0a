"""`task show|revoke|terminate|retry ID…`: where tasks are, and the runbooks that keep them from
running, or have them run once more; `task hold|release NAME…`: all of a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, fleet_json, task_text
from celery_ops.cli.boundary import run
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.run_command import RunCommand, wanted
from celery_ops.cli.start_run import start_run
from celery_ops.cli.text import width_of_terminal
from celery_ops.errors import UsageError
from celery_ops.fleet.masking import Masks
from celery_ops.fleet.tracing import Trace, Tracer
from celery_ops.runbook.task_steps import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.cli.context import Chosen

_OF_MESSAGES = "task == 'shop.mail' and retries > 2"
MOST_SHOWN = 100
"""Ids that one `show` looks for."""


@click.group(short_help="Where tasks are; revoke, terminate, retry, hold and release them.")
def task() -> None:
    """Where tasks are; revoke, terminate and retry them, hold and release all of a name."""


@task.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.pass_context
def show(ctx: click.Context, ids: tuple[str, ...], *, as_json: bool) -> None:
    """All that is known of tasks: where each is now, where it is revoked, what is stored of it.

    A task that is not seen may have ended, or be where nobody can look: unknown is never gone.
    """
    wanted_ids = tuple(dict.fromkeys(ids))
    if len(wanted_ids) > MOST_SHOWN:
        raise UsageError(f"{len(wanted_ids)} ids are more than {MOST_SHOWN} at once")
    chosen = context.resolve(ctx.ensure_object(Choice))
    trace = run(_trace(chosen, wanted_ids))
    if as_json:
        click.echo(fleet_json.page(task_text.as_json(trace)))
    else:
        click.echo("\n".join(task_text.lines(trace, width_of_terminal())))


async def _trace(chosen: Chosen, ids: Sequence[str]) -> Trace:
    async with opened(chosen.context) as deployment:
        tracer = Tracer(
            deployment.broker,
            deployment.clock,
            results=deployment.results,
            masks=Masks(chosen.context.mask),
        )
        return await tracer.trace(deployment.surveyor, ids)


class _TasksCommand(RunCommand):
    """Runs a runbook on the tasks that its arguments name, or `--name` and `--filter`."""

    def __init__(
        self, name: str, *, runbook: str, summary: str, signals: bool = False, example: str
    ) -> None:
        super().__init__(name, runbook=runbook, summary=summary, names_workers=False)
        self._runbook_name = runbook
        options: list[click.Parameter] = [
            click.Argument(["ids"], nargs=-1, metavar="[ID]..."),
            click.Option(
                ["--name", "task"], metavar="TASK", help="All tasks of a name, or pattern."
            ),
            click.Option(
                ["--filter", "filter_"],
                metavar="EXPR",
                help=f"Those for which a condition holds: {example}.",
            ),
        ]
        if signals:
            options.append(
                click.Option(
                    ["--signal"],
                    type=click.Choice(SIGNALS),
                    help="KILL for a process that outlives TERM.",
                )
            )
        self.params = [*options, *self.params]

    def invoke(self, ctx: click.Context) -> None:
        """Start the run and end with its code."""
        asked = wanted(self._runbook_name, ctx.params)
        asked.given.update(_given(ctx.params, asked.given))
        code = start_run(ctx.ensure_object(Choice), asked)
        if code:
            raise click.exceptions.Exit(code)


def _given(options: dict[str, object], already: dict[str, str]) -> dict[str, str]:
    """The runbook's parameters; those that were given with -p are not given twice."""
    ids = options["ids"] if isinstance(options["ids"], tuple) else ()
    odd = [one for one in ids if "," in one or one != one.strip() or " " in one]
    if odd:
        raise UsageError(
            f"{odd[0]!r} cannot be named here: it holds a comma or a blank",
            fix="Name it by a filter: --filter \"id == '…'\"",
        )
    named = {
        "ids": ",".join(ids),
        "task": options.get("task"),
        "filter": options.get("filter_"),
        "signal": options.get("signal"),
    }
    given = {name: str(value) for name, value in named.items() if value}
    twice = given.keys() & already.keys()
    if twice:
        raise UsageError(f"{min(twice)} is given twice: leave -p {min(twice)}=… out")
    if not ({"ids", "task", "filter"} & (given.keys() | already.keys())):
        raise UsageError("which tasks? Name their ids, or use --name or --filter")
    return given


for command in (
    _TasksCommand(
        "revoke",
        runbook="revoke-tasks",
        summary="Tell every worker not to begin these tasks. What runs already runs on.",
        example=_OF_MESSAGES,
    ),
    _TasksCommand(
        "terminate",
        runbook="terminate-tasks",
        summary="Revoke these tasks, and end the processes that run them.",
        signals=True,
        example=_OF_MESSAGES,
    ),
    _TasksCommand(
        "retry",
        runbook="retry-tasks",
        summary="Send tasks again that have failed, under their own ids, to the queues they were"
        " in, each once. What they were called with is read from the result backend, which keeps it"
        " where result_extended is on.",
        example="exception == 'Timeout' and age < 1h",
    ),
):
    task.add_command(command)


class _NamesCommand(RunCommand):
    """Runs a runbook on all tasks of the names that are its arguments."""

    def __init__(self, name: str, *, runbook: str, summary: str, needs_names: bool) -> None:
        super().__init__(name, runbook=runbook, summary=summary, names_workers=False)
        self._runbook_name = runbook
        metavar = "NAME..." if needs_names else "[NAME]..."
        names = click.Argument(["tasks"], nargs=-1, required=needs_names, metavar=metavar)
        self.params = [names, *self.params]

    def invoke(self, ctx: click.Context) -> None:
        """Start the run and end with its code."""
        asked = wanted(self._runbook_name, ctx.params)
        names: tuple[str, ...] = ctx.params["tasks"]
        if names and "tasks" in asked.given:
            raise UsageError("the tasks are named already: leave -p tasks=… out")
        if names:
            asked.given["tasks"] = ",".join(names)
        code = start_run(ctx.ensure_object(Choice), asked)
        if code:
            raise click.exceptions.Exit(code)


task.add_command(
    _NamesCommand(
        "hold",
        runbook="hold-task",
        summary="No task of these names begins any more until it is released; all others go on.",
        needs_names=True,
    )
)
task.add_command(
    _NamesCommand(
        "release",
        runbook="release-task",
        summary="End a hold, from any machine; its messages go back (-p rate=50/s, parked=keep).",
        needs_names=False,
    )
)
