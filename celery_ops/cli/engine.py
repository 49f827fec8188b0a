"""The runbook engine joined to a deployment: what plans, starts and executes runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.cli import state
from celery_ops.cli.launcher import Launcher
from celery_ops.doctor import RULES
from celery_ops.fleet.clock import SystemClock
from celery_ops.runbook.desk import RunDesk, Runs, RunStore
from celery_ops.runbook.emergency import EmergencyLibrary
from celery_ops.runbook.library import Library
from celery_ops.runbook.plan import Where
from celery_ops.runbook.planning import Planner

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.cli.context import Chosen
    from celery_ops.cli.deployment import Deployment
    from celery_ops.config.secret import Secret


def store() -> RunStore:
    """This user's journals."""
    return RunStore(state.runs(), SystemClock())


def runs() -> Runs:
    """This user's runs, to be listed and followed."""
    return Runs(store(), clock=SystemClock(), operator=state.operator())


def library(directory: Path | None, *, emergency: bool = False) -> Library:
    """The runbooks that are shipped, and the user's own beside the configuration in `directory`."""
    kind = EmergencyLibrary if emergency else Library
    return kind(None if directory is None else directory / "runbooks", rules=RULES)


def desk(deployment: Deployment, chosen: Chosen, *, emergency: bool = False) -> RunDesk:
    """The desk of a context; in an `emergency`, for what can be done there without the broker."""
    kept = store()
    planner = Planner(
        surveyor=deployment.surveyor,
        hosts=deployment.hosts,
        library=library(chosen.context.directory, emergency=emergency),
        where=where(deployment, chosen),
        clock=deployment.clock,
        operator=state.operator(),
        results=deployment.results,
        backups=state.backups(),
    )
    return RunDesk(
        planner=planner,
        store=kept,
        launcher=Launcher(chosen.context, kept, deployment.passphrases),
        clock=deployment.clock,
        operator=state.operator(),
    )


def where(deployment: Deployment, chosen: Chosen) -> Where:
    """What a run must know of its context; no secrets."""
    context = chosen.context
    return Where(
        context=context.name,
        broker=deployment.broker.address,
        identity=deployment.broker.identity,
        protected=context.protected,
        scope=context.scope,
        services=context.services,
        config=None if chosen.file is None else str(chosen.file.absolute()),
        probe=context.probe,
        results="" if deployment.results is None else deployment.results.address,
        unread_results=_kind(context.results) if deployment.results is None else "",
    )


def _kind(results: Secret | None) -> str:
    """Of a result backend, by its URL: `rpc`, `db+postgresql`."""
    return "" if results is None else results.reveal().partition(":")[0]
