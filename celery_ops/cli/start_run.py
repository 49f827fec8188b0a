"""From a runbook's name to a run that is followed: plan, show, confirm, start, follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
import msgspec

from celery_ops.cli import confirm, context, emergency, engine, show_plan, terminal
from celery_ops.cli.boundary import complain, run
from celery_ops.cli.deployment import opened
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.follow import Follower
from celery_ops.cli.passphrases import Passphrases
from celery_ops.cli.text import width_of_terminal
from celery_ops.config.secret import masked
from celery_ops.errors import LeaseHeld, PreconditionFailed
from celery_ops.runbook.emergency import SAYS

if TYPE_CHECKING:
    from celery_ops.cli.choice import Choice
    from celery_ops.cli.context import Chosen
    from celery_ops.model import Holder
    from celery_ops.runbook.desk import RunDesk
    from celery_ops.runbook.plan import Plan


_BUSY = (
    "--wait 10m waits for the end of it; celery-ops runs break-lease takes it from a holder that"
    " is gone for good."
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `wait` is in seconds."""

    runbook: str
    given: dict[str, str]
    only_plan: bool = False
    yes: bool = False
    as_json: bool = False
    wait: float = 0.0
    detach: bool = False
    emergency: bool = False
    """Do without the broker, which is down or full."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A plan and the desk that can start it; the broker it was made with is closed again."""

    plan: Plan
    desk: RunDesk
    holder: Holder | None


def start_run(choice: Choice, wanted: Wanted) -> int:
    """Do what was asked for and return the exit code. Raise what keeps the run from beginning."""
    chosen = context.resolve(choice)
    runbook = engine.library(chosen.context.directory).get(wanted.runbook)
    if chosen.context.read_only and runbook.changes and not wanted.only_plan:
        raise PreconditionFailed(
            f"{wanted.runbook} changes the fleet, and {chosen.context.name} is only read here",
            fix="--plan shows what it would do.",
        )
    drawn = run(_draw(chosen, wanted))
    if wanted.only_plan:
        _show(drawn.plan, as_json=wanted.as_json, err=False)
        return ExitCode.REFUSED if drawn.plan.refusals else ExitCode.DONE
    _require_possible(drawn, wanted)
    answers = _agreed(drawn.plan, wanted, explicit=choice.is_explicit)
    started = drawn.desk.start(drawn.plan, answers=answers, wait=wanted.wait)
    if wanted.detach:
        click.echo(started)
        complain(f"It goes on without this terminal: celery-ops runs follow {started}")
        return ExitCode.DONE
    follower = Follower(
        drawn.desk, started, as_json=wanted.as_json, steers=True, context=chosen.context
    )
    return run(follower.follow())


async def _draw(chosen: Chosen, wanted: Wanted) -> _Drawn:
    why = ""
    if wanted.emergency:
        async with opened(chosen.context, passphrases=Passphrases()) as deployment:
            why = await emergency.why(deployment.broker)
    async with opened(chosen.context, without_broker=wanted.emergency) as deployment:
        if not (wanted.emergency or wanted.only_plan or chosen.context.read_only):
            await emergency.hand_over(deployment.broker, deployment.clock)
        desk = engine.desk(deployment, chosen, emergency=wanted.emergency)
        plan = await desk.plan(wanted.runbook, wanted.given)
        if wanted.emergency:
            plan = replace(plan, emergency=why, hazards=(SAYS, *plan.hazards))
        return _Drawn(plan, desk, await deployment.broker.holder())


def _require_possible(drawn: _Drawn, wanted: Wanted) -> None:
    # First, since what is refused may be refused because of what that run has taken.
    if drawn.holder is not None and not wanted.wait:
        raise LeaseHeld(str(drawn.holder), fix=_BUSY)
    if drawn.plan.refusals:
        says = "\n".join(["refused; nothing was changed:", *drawn.plan.refusals])
        raise PreconditionFailed(says, fix="--plan shows all of it.")


def _agreed(plan: Plan, wanted: Wanted, *, explicit: bool) -> dict[str, str]:
    answered = confirm.is_answered(plan, yes=wanted.yes, explicit=explicit)
    if not answered and terminal.can_ask():
        _show(plan, as_json=False, err=True)
    return confirm.agree(plan, yes=wanted.yes, explicit=explicit)


def _show(plan: Plan, *, as_json: bool, err: bool) -> None:
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(plan), indent=1).decode()
    else:
        text = "\n".join(show_plan.lines(plan, width_of_terminal()))
    click.echo(masked(text), err=err)
