"""`runs`: the runs there were, and one of them shown, followed, steered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, engine, fleet_json, show_plan, show_run
from celery_ops.cli.adopt import Adopt
from celery_ops.cli.boundary import complain, run
from celery_ops.cli.break_lease import break_lease
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.execute import execute, told_on_stdin
from celery_ops.cli.follow import Follower
from celery_ops.cli.take_up import resume, undo
from celery_ops.cli.text import Column, safe_lines, table, width_of_terminal
from celery_ops.config.secret import masked
from celery_ops.errors import OpsError, PreconditionFailed, UsageError
from celery_ops.runbook import journal
from celery_ops.runbook.events import EventKind, RunState
from celery_ops.tui.progress import question_of

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.model import Holder, RunRecord
    from celery_ops.runbook.desk import Runs, RunSummary

_COLUMNS = (
    Column("run"),
    Column("state"),
    Column("runbook"),
    Column("context", gives=True),
    Column("began"),
    Column("says", gives=True),
)
_ALL_COLUMNS = (
    Column("run"),
    Column("state"),
    Column("runbook"),
    Column("operator", gives=True),
    Column("began"),
    Column("parameters", gives=True, optional=True),
    Column("says", gives=True),
)
_ID_AND_ANSWER = 2
_ENDED = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.UNDONE,
        RunState.UNDO_FAILED,
        RunState.ABORTED,
        RunState.INTERRUPTED,
    }
)


@click.group(invoke_without_command=True)
@click.option("--all", "everybody", is_flag=True, help="Every operator's, as the broker tells.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.pass_context
def runs(ctx: click.Context, *, everybody: bool, as_json: bool) -> None:
    """The runs there were, newest first; show, follow and steer one.

    ID is a run's id, the beginning or the end of one; the newest run without it.
    """
    if ctx.invoked_subcommand is not None:
        return
    if everybody:
        chosen = context.resolve(ctx.ensure_object(Choice))
        _show_all(run(_noted(chosen)), as_json=as_json)
        return
    known = engine.runs()
    found = known.runs()
    for one in known.store.unreadable:
        complain(f"the journal of {one} cannot be read: celery-ops runs show {one}")
    if as_json:
        click.echo(fleet_json.page({"runs": [_as_json(one) for one in found]}))
        return
    rows = [
        (one.id, one.state.value, one.runbook, one.context, f"{one.began_at:%m-%d %H:%M:%S}",
         masked(one.says))
        for one in found
    ]  # fmt: skip
    lines = table(_COLUMNS, rows, width_of_terminal()) if rows else ["no runs yet"]
    click.echo("\n".join(lines))


@runs.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the journal, an event a line.")
def show(id_: str | None, *, as_json: bool) -> None:
    """Its plan, its events, its end and what is left to do."""
    store = engine.store()
    found = store.find(id_)
    events = list(journal.read(store.path(found)))
    if as_json:
        for event in events:
            click.echo(event.to_line(), nl=False)
        return
    plan = events[0].plan if events else None
    lines = [] if plan is None else [*show_plan.lines(plan, width_of_terminal()), ""]
    lines += [show_run.event_line(event) for event in events]
    last = events[-1] if events else None
    if plan is not None and last is not None and last.outcome and last.event is EventKind.ENDED:
        lines += ["", *show_run.end_lines(last.outcome, plan, width_of_terminal())]
    else:
        lines += ["", f"{found} is {store.summary(found).state}"]
    click.echo(masked("\n".join(lines)))


@runs.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the journal, an event a line.")
@click.pass_context
def follow(ctx: click.Context, id_: str | None, *, as_json: bool) -> None:
    """Follow it to its end. Ctrl-C ends the following, not the run."""
    known = engine.runs()
    found = known.store.find(id_)
    follower = Follower(
        known, found, as_json=as_json, steers=False, context=_context_of(ctx, known, found)
    )
    code = run(follower.follow())
    if code:
        raise click.exceptions.Exit(code)


@runs.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.pass_context
def abort(ctx: click.Context, id_: str | None) -> None:
    """End it at the next safe point, undoing its batch.

    A second time: without undo. A third time: at once.
    """
    known, found = _steered(ctx, id_)
    known.abort(found)
    complain(f"told {found} to abort: celery-ops runs follow {found}")


@runs.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.pass_context
def pause(ctx: click.Context, id_: str | None) -> None:
    """Let it wait at the next safe point. It keeps the lease."""
    known, found = _steered(ctx, id_)
    known.pause(found)
    complain(f"told {found} to pause: celery-ops runs continue {found} goes on")


@runs.command(name="continue")
@click.argument("id_", metavar="[ID]", required=False)
@click.pass_context
def continue_(ctx: click.Context, id_: str | None) -> None:
    """Let a paused one go on."""
    known, found = _steered(ctx, id_)
    known.proceed(found)
    complain(f"told {found} to go on")


@runs.command()
@click.argument("words", metavar="[ID] ANSWER", nargs=-1, required=True)
@click.pass_context
def answer(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Answer what one asks, in place of whoever follows it."""
    if len(words) > _ID_AND_ANSWER:
        raise UsageError("one answer at a time: celery-ops runs answer [ID] ANSWER")
    known, found = _steered(ctx, words[0] if len(words) == _ID_AND_ANSWER else None)
    asked = known.question(found)
    if asked is None or asked.step is None:
        raise UsageError(f"{found} asks nothing", fix=f"celery-ops runs show {found}")
    question, said = question_of(asked), words[-1].lower()
    if question.choices and said not in question.choices:
        raise UsageError(f"{found} asks {question.asks!r}, and {said!r} is none of these")
    known.answer(found, asked.step, said)
    complain(f"told {found}: {said}")


@runs.command(name="_execute", hidden=True)
@click.argument("id_", metavar="ID")
def execute_(id_: str) -> None:
    """Started by celery-ops itself, with what is secret on stdin."""
    code = run(execute(id_, told_on_stdin()))
    if code:
        raise click.exceptions.Exit(code)


runs.add_command(resume)
runs.add_command(undo)
runs.add_command(Adopt())
runs.add_command(break_lease)


def _steered(ctx: click.Context, id_: str | None) -> tuple[Runs, str]:
    """A run that can be talked to: somebody executes it. Raise UsageError if not."""
    if ctx.ensure_object(Choice).read_only:
        raise PreconditionFailed("--read-only refuses to steer a run")
    known = engine.runs()
    found = known.store.find(id_)
    state = known.store.summary(found).state
    if state in _ENDED:
        raise UsageError(f"{found} is {state}", fix=f"celery-ops runs show {found}")
    return known, found


def _context_of(ctx: click.Context, known: Runs, found: str) -> Context | None:
    """The run's own context, if it is the one that the options or the configuration name."""
    try:
        chosen = context.resolve(ctx.ensure_object(Choice))
    except OpsError:
        # Following needs no broker; without one an interrupted run is reported with less.
        return None
    return chosen.context if chosen.context.name == known.store.summary(found).context else None


async def _noted(chosen: context.Chosen) -> tuple[tuple[RunRecord, ...], Holder | None]:
    async with opened(chosen.context) as deployment:
        return await deployment.broker.noted_runs(), await deployment.broker.holder()


def _show_all(noted: tuple[tuple[RunRecord, ...], Holder | None], *, as_json: bool) -> None:
    found, holder = noted
    live = holder.run if holder is not None else None
    if as_json:
        held = None if holder is None else fleet_json.holder(holder)
        listed = [_noted_json(one, live) for one in found]
        click.echo(fleet_json.page({"runs": listed, "holder": held}))
        return
    rows = [
        (one.run, _noted_state(one, live), one.runbook, one.operator,
         f"{one.began_at:%m-%d %H:%M:%S}", _given(one), _noted_says(one))
        for one in found
    ]  # fmt: skip
    lines = table(_ALL_COLUMNS, rows, width_of_terminal()) if rows else ["no runs were noted"]
    head = [safe_lines(f"lease: {holder}"), ""] if holder is not None else []
    click.echo("\n".join([*head, *lines]))


def _noted_state(one: RunRecord, live: str | None) -> str:
    """Of a run without an end only the lease tells whether it goes on."""
    return one.state or (RunState.RUNNING if one.run == live else RunState.INTERRUPTED)


def _noted_says(one: RunRecord) -> str:
    """Who broke its lease comes first: it is why the run ended."""
    broken = f"lease broken by {one.broken_by}" if one.broken_by else ""
    return "; ".join(part for part in (broken, one.says) if part)


def _given(one: RunRecord) -> str:
    return " ".join(f"{name}={value}" for name, value in one.params)


def _noted_json(one: RunRecord, live: str | None) -> fleet_json.Json:
    return {
        "id": one.run,
        "state": _noted_state(one, live),
        "runbook": one.runbook,
        "operator": one.operator,
        "params": dict(one.params),
        "began_at": fleet_json.moment(one.began_at),
        "ended_at": fleet_json.moment(one.ended_at),
        "says": one.says,
        "lease_broken_by": one.broken_by or None,
    }


def _as_json(one: RunSummary) -> fleet_json.Json:
    return {
        "id": one.id,
        "state": one.state.value,
        "runbook": one.runbook,
        "context": one.context,
        "operator": one.operator,
        "began_at": fleet_json.moment(one.began_at),
        "changed_at": fleet_json.moment(one.changed_at),
        "says": masked(one.says),
    }
