"""`runs break-lease`: take the lease of a context from whoever holds it, and say who did.

For a holder that cannot be asked any more and yet renews it. What its run has taken stays recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_ops.cli import confirm, context, state
from celery_ops.cli.boundary import complain, run
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.passphrases import Passphrases
from celery_ops.errors import PreconditionFailed
from celery_ops.runbook import notice

if TYPE_CHECKING:
    from celery_ops.cli.context import Chosen
    from celery_ops.model import Holder


@click.command("break-lease")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def break_lease(ctx: click.Context, *, yes: bool) -> None:
    """Take the lease from whoever holds it: their run does nothing more.

    Its worker may be left drained or stopped; `runs adopt ID` gives that back. A run of your own is
    better aborted.
    """
    choice = ctx.ensure_object(Choice)
    chosen = context.resolve(choice)
    if chosen.context.read_only:
        raise PreconditionFailed(f"{chosen.context.name} is only read here")
    holder = run(_holder(chosen))
    if holder is None:
        complain(f"Nobody holds the lease of {chosen.context.name}.")
        return
    complain(f"{holder}.")
    question = f"Break the lease of {holder.operator}? Their run ends where it is, without undo."
    confirm.agree_to(question, chosen.context, yes=yes, explicit=choice.is_explicit)
    now_held = run(_break(chosen, holder))
    if now_held is not None:
        raise PreconditionFailed(f"Nothing was broken, for it changed hands meanwhile: {now_held}")
    complain(
        f"broken; everybody is told so by: celery-ops runs --all\n"
        f"What the run has taken stays taken: celery-ops status, celery-ops runs adopt {holder.run}"
    )


async def _holder(chosen: Chosen) -> Holder | None:
    async with opened(chosen.context, passphrases=Passphrases()) as deployment:
        return await deployment.broker.holder()


async def _break(chosen: Chosen, holder: Holder) -> str | None:
    """None, or in whose hands the lease is instead."""
    async with opened(chosen.context, passphrases=Passphrases()) as deployment:
        broker = deployment.broker
        by = state.operator()
        if await notice.break_lease(broker, holder, by=by, clock=deployment.clock):
            return None
        return str(await broker.holder() or "nobody's")
