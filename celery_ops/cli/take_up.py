"""`runs resume` and `runs undo`: go on with an interrupted run, or take back what a run has done.

Both need the run's own journal; from another machine there is `runs adopt`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, engine, terminal
from celery_ops.cli.boundary import complain, run
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.follow import Follower
from celery_ops.cli.passphrases import Passphrases
from celery_ops.errors import (
    BrokerUnreachable,
    ConfirmationNeeded,
    Declined,
    PreconditionFailed,
    UsageError,
)
from celery_ops.model import HELD, HOLD
from celery_ops.runbook import journal
from celery_ops.runbook.events import RunState
from celery_ops.runbook.journal import GOING_ON
from celery_ops.runbook.loader import loads
from celery_ops.runbook.recall import Recall
from celery_ops.runbook.task_events import left_on
from celery_ops.runbook.undo import reversals

if TYPE_CHECKING:
    from celery_ops.cli.context import Chosen
    from celery_ops.model import TakenRecord
    from celery_ops.runbook.desk import RunDesk
    from celery_ops.runbook.journal import Event
    from celery_ops.runbook.plan import Plan


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the journal, an event a line.")
@click.pass_context
def resume(ctx: click.Context, id_: str | None, *, as_json: bool) -> None:
    """Go on with one that was interrupted, from where it was.

    What its journal says is done is not done again; of what was begun, the fleet is asked whether
    it happened.
    """
    taken_up = _TakenUp.find(ctx.ensure_object(Choice), id_)
    if taken_up.state is not RunState.INTERRUPTED:
        raise UsageError(
            f"{taken_up.run} is {taken_up.state}: only a run that was interrupted is resumed",
            fix=f"celery-ops runs show {taken_up.run}",
        )
    desk, gone, new = run(_compared(taken_up))
    for names, says in ((gone, "in the plan, not selected any more"), (new, "not in the plan")):
        if names:
            complain(f"{says}: {', '.join(sorted(names))}")
    _follow(desk, taken_up, as_json=as_json, undo=False)


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the journal, an event a line.")
@click.pass_context
def undo(ctx: click.Context, id_: str | None, *, yes: bool, as_json: bool) -> None:
    """Take back what one has done: give back what it owes, reverse its current batch.

    Batches that came through stay as they are.
    """
    taken_up = _TakenUp.find(ctx.ensure_object(Choice), id_)
    if taken_up.state in GOING_ON:
        raise UsageError(
            f"{taken_up.run} is {taken_up.state}",
            fix=f"celery-ops runs abort {taken_up.run} ends it and takes its batch back.",
        )
    desk, owed = run(_owed(taken_up))
    lines = [_giving_back(one) for one in owed]
    recall = Recall.of(taken_up.events)
    lines += [str(one) for one in reversals(recall, taken_up.runbook, taken_up.plan)]
    lines += [f"{name}: switch its task events off again" for name in left_on(recall.acts)]
    if not lines:
        complain(f"{taken_up.run} owes nothing, and there is nothing to take back.")
        return
    complain("\n".join(["To be taken back:", *(f"  {line}" for line in lines)]))
    _agree(yes=yes)
    _follow(desk, taken_up, as_json=as_json, undo=True)


class _TakenUp:
    """A run that was executed before, with all its journal says, and where it ran."""

    def __init__(self, run_: str, events: list[Event], plan: Plan, chosen: Chosen) -> None:
        self.run = run_
        self.events = events
        self.plan = plan
        self.chosen = chosen
        self.runbook = loads(plan.source, plan.file)
        held = journal.is_held(engine.store().path(run_))
        self.state = journal.state_of(events, held=held)

    @classmethod
    def find(cls, choice: Choice, id_: str | None) -> _TakenUp:
        """Raise UsageError or JournalError."""
        store = engine.store()
        found = store.find(id_)
        events = list(journal.read(store.path(found)))
        plan = events[0].plan if events else None
        if plan is None:
            raise UsageError(f"{found} has no plan", fix=f"celery-ops runs show {found}")
        chosen = _context_of(choice, plan)
        if chosen.context.read_only:
            raise PreconditionFailed(f"{chosen.context.name} is only read here")
        return cls(found, events, plan, chosen)


def _context_of(choice: Choice, plan: Plan) -> Chosen:
    """Where the run was: its own configuration and context, unless a broker is named again.

    Raise UsageError where that has to be, since a URL with its password is written down nowhere.
    """
    if choice.broker is not None or choice.app is not None:
        return context.resolve(choice)
    if plan.where.config is None:
        raise UsageError(
            f"The run was on {plan.where.broker}, which no configuration names.",
            fix="Name the broker again: celery-ops -b URL runs …",
        )
    config = choice.config or Path(plan.where.config)
    named = choice.context or plan.where.context
    return context.resolve(replace(choice, config=config, context=named))


async def _compared(taken_up: _TakenUp) -> tuple[RunDesk, frozenset[str], frozenset[str]]:
    """The desk, and who is not selected any more, and who is now but was not planned for.

    Raise PreconditionFailed where this is another broker.
    """
    context_, without = taken_up.chosen.context, bool(taken_up.plan.emergency)
    async with opened(context_, without_broker=without) as deployment:
        taken_up.plan.where.must_be(deployment.broker.address, deployment.broker.identity)
        desk = engine.desk(deployment, taken_up.chosen)
        planned = frozenset(target.name for target in taken_up.plan.targets)
        try:
            now = await desk.now_selected(taken_up.plan)
        except UsageError:
            now = frozenset()
        return desk, planned - now, now - planned


async def _owed(taken_up: _TakenUp) -> tuple[RunDesk, list[TakenRecord]]:
    """Raise UsageError where what an emergency has taken was handed over to the broker since,
    PreconditionFailed where this is another broker.
    """
    context_, without = taken_up.chosen.context, bool(taken_up.plan.emergency)
    async with opened(context_, without_broker=without) as deployment:
        taken_up.plan.where.must_be(deployment.broker.address, deployment.broker.identity)
        taken = await deployment.broker.taken()
        desk = engine.desk(deployment, taken_up.chosen)
    owed = [one for one in taken if one.run == taken_up.run]
    ends_by_itself = bool(taken_up.plan.sieves)
    holds = [one for one in owed if one.kind in {HOLD, HELD} and not ends_by_itself]
    if holds:
        raise UsageError(
            f"{taken_up.run} holds {', '.join(holds[0].tasks)}, which is not undone but released",
            fix=holds[0].mend,
        )
    if without and not owed and await _is_handed_over(taken_up):
        raise UsageError(
            f"The broker is back, and knows what {taken_up.run} has taken.",
            fix=f"celery-ops runs adopt {taken_up.run}",
        )
    return desk, owed


async def _is_handed_over(taken_up: _TakenUp) -> bool:
    try:
        async with opened(taken_up.chosen.context, passphrases=Passphrases()) as deployment:
            return any(one.run == taken_up.run for one in await deployment.broker.taken())
    except BrokerUnreachable:
        return False


def _giving_back(record: TakenRecord) -> str:
    if record.kind == "service":
        return f"{record.worker}: start it again ({record.service})"
    return f"{record.worker}: give back {record.what}" if record.worker else f"end {record.what}"


def _agree(*, yes: bool) -> None:
    """Raise ConfirmationNeeded or Declined."""
    if yes:
        return
    if not terminal.can_ask():
        raise ConfirmationNeeded(
            "Nobody can be asked: there is no terminal.",
            fix="A script agrees beforehand with --yes.",
        )
    if terminal.ask("Take it back? [y/N]").lower() not in {"y", "yes"}:
        raise Declined("not confirmed; nothing was changed")


def _follow(desk: RunDesk, taken_up: _TakenUp, *, as_json: bool, undo: bool) -> None:
    desk.take_up(taken_up.run, undo=undo)
    follower = Follower(
        desk,
        taken_up.run,
        as_json=as_json,
        steers=True,
        context=taken_up.chosen.context,
        after=taken_up.events[-1].seq,
        plan=taken_up.plan,
    )
    code = run(follower.follow())
    if code:
        raise click.exceptions.Exit(code)
