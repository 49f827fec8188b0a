"""`runs adopt`: give back what another run has taken, from any machine and without its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, emergency
from celery_ops.cli.boundary import run
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.passphrases import Passphrases
from celery_ops.cli.run_command import run_options, wanted
from celery_ops.cli.start_run import start_run
from celery_ops.errors import UsageError
from celery_ops.model import HELD, HOLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.cli.context import Chosen
    from celery_ops.model import TakenRecord

_GIVEN_BACK_BY = {"service": "start-worker", "queues": "resume-worker"}
"""Which runbook gives a kind of record back; services first: a queue needs a worker."""


class Adopt(click.Command):
    """Runs what gives back, once a kind of what was taken."""

    def __init__(self) -> None:
        params = [click.Argument(["id_"], metavar="ID"), *run_options()]
        help_ = "Give back what it has taken: from any machine, without its journal."
        super().__init__("adopt", params=params, help=help_)

    def invoke(self, ctx: click.Context) -> None:
        """End with the code of the first run that does not end well."""
        choice = ctx.ensure_object(Choice)
        records = _of_run(run(_taken(context.resolve(choice))), ctx.params["id_"])
        beats = [record for record in records if record.service and record.service.beat]
        for run_ in dict.fromkeys(beat.run for beat in beats):
            params = (*ctx.params["params"], f"run={run_}")
            code = start_run(choice, wanted("start-beat", {**ctx.params, "params": params}))
            if code:
                raise click.exceptions.Exit(code)
        if any(one.kind in {HOLD, HELD} for one in records):
            keeps = ("parked=keep",) if any(one.unknown_to for one in records) else ()
            params = (*ctx.params["params"], *keeps)
            code = start_run(choice, wanted("release-task", {**ctx.params, "params": params}))
            if code:
                raise click.exceptions.Exit(code)
        paused = (one.paused for one in records if one.paused is not None)
        for queue in dict.fromkeys(paused):
            given = (f"queue={queue}", f"run={records[0].run}")
            params = (*ctx.params["params"], *given)
            code = start_run(choice, wanted("resume-queue", {**ctx.params, "params": params}))
            if code:
                raise click.exceptions.Exit(code)
        for kind, runbook in _GIVEN_BACK_BY.items():
            names = [one.worker for one in records if one.kind == kind and one not in beats]
            if names:
                code = start_run(choice, wanted(runbook, {**ctx.params, "names": names}))
                if code:
                    raise click.exceptions.Exit(code)


async def _taken(chosen: Chosen) -> tuple[TakenRecord, ...]:
    async with opened(chosen.context, passphrases=Passphrases()) as deployment:
        if not chosen.context.read_only:
            await emergency.hand_over(deployment.broker, deployment.clock)
        return await deployment.broker.taken()


def _of_run(taken: Sequence[TakenRecord], id_: str) -> list[TakenRecord]:
    """What the run of that id, or of that end of one, has taken. Raise UsageError if nothing, or if
    two are meant.
    """
    records = [one for one in taken if one.run == id_ or one.run.endswith(f"-{id_}")]
    meant = sorted({one.run for one in records})
    if len(meant) > 1:
        raise UsageError(f"{id_!r} is the end of {len(meant)} runs: {', '.join(meant)}")
    if not records:
        runs = ", ".join(sorted({one.run for one in taken}))
        raise UsageError(
            f"no run {id_!r} has taken anything here",
            fix=f"Something is taken by: {runs}." if runs else "Nothing is taken at all.",
        )
    return records
