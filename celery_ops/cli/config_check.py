"""Proves a context, line by line, without changing anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from celery_ops.cli import context
from celery_ops.cli.deployment import opened
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.fleet_json import page
from celery_ops.cli.text import safe_lines
from celery_ops.config.contexts import LOCAL
from celery_ops.config.secret import masked
from celery_ops.doctor.setup import Check, fleet_checks, host_checks
from celery_ops.errors import BrokerUnreachable, OpsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_ops.cli.choice import Choice
    from celery_ops.cli.context import Chosen
    from celery_ops.cli.deployment import Deployment
    from celery_ops.doctor.setup import Reached
    from celery_ops.model import FleetSnapshot, Rights

_TIMEOUT = 3.0
"""Seconds workers get to answer: a check may take longer than a look."""


async def check(choice: Choice, *, as_json: bool) -> int:
    """Print what was found; the exit code. Raise UsageError or InvalidDocument."""
    chosen = context.resolve(choice)
    async with opened(chosen.context) as deployment:
        reached, fleet = await asyncio.gather(_hosts(deployment), _fleet(deployment))
    checks = [_broker(deployment, fleet), *host_checks(reached)]
    if not isinstance(fleet, OpsError):
        checks += fleet_checks(fleet, reached)
    _print(chosen, checks, as_json=as_json)
    if isinstance(fleet, OpsError):
        return ExitCode.UNREACHABLE
    return ExitCode.DONE if all(one.ok for one in checks) else ExitCode.STOPPED


async def _hosts(deployment: Deployment) -> Reached:
    """Each host that is written down; this machine only if something runs on it."""
    services = deployment.context.services
    used = {one.host for one in services}
    names = [one.name for one in deployment.context.hosts if one.name != LOCAL or LOCAL in used]

    async def asked(name: str) -> Rights | OpsError:
        try:
            return await deployment.hosts.rights(
                name, [one for one in services if one.host == name]
            )
        except OpsError as error:
            return error

    return dict(zip(names, await asyncio.gather(*map(asked, names)), strict=True))


async def _fleet(deployment: Deployment) -> FleetSnapshot | BrokerUnreachable:
    services = deployment.context.services
    try:
        return await deployment.surveyor.refresh(timeout=_TIMEOUT, services=services)
    except BrokerUnreachable as error:
        return error


def _broker(deployment: Deployment, fleet: FleetSnapshot | BrokerUnreachable) -> Check:
    subject = deployment.broker.address
    if isinstance(fleet, OpsError):
        return Check("broker", subject, ok=False, says=fleet.says, fix=fleet.fix or "")
    answering = sum(worker.mine and worker.answers for worker in fleet.workers)
    if not answering:
        fix = "Is it the workers' broker, and its database? Do they run?"
        return Check("broker", subject, ok=False, says="reachable, but no worker answers", fix=fix)
    workers = "1 worker answers" if answering == 1 else f"{answering} workers answer"
    return Check("broker", subject, ok=True, says=f"reachable; {workers}")


def _print(chosen: Chosen, checks: Sequence[Check], *, as_json: bool) -> None:
    if as_json:
        click.echo(page(_document(chosen, checks)))
        return
    for one in checks:
        mark = "ok     " if one.ok else "PROBLEM"
        _say(f"{mark}  {one.subject}: {one.says}")
        if one.fix:
            _say(f"         {one.fix}")
    wrong = sum(not one.ok for one in checks)
    where = f" in {chosen.file}" if chosen.file is not None else ""
    verdict = f"{wrong} {'problem' if wrong == 1 else 'problems'}" if wrong else "all is as written"
    if len(checks) == 1 + sum(one.kind == "host" for one in checks) and chosen.context.services:
        _say("Which service runs which worker cannot be told without the broker and the hosts.")
    _say(f"{chosen.context.name}{where}: {verdict}")


def _document(chosen: Chosen, checks: Sequence[Check]) -> dict[str, object]:
    return {
        "context": chosen.context.name,
        "file": None if chosen.file is None else str(chosen.file),
        "ok": all(one.ok for one in checks),
        "checks": [
            {
                "kind": one.kind,
                "subject": masked(one.subject),
                "ok": one.ok,
                "says": masked(one.says),
                "fix": masked(one.fix) or None,
            }
            for one in checks
        ],
    }


def _say(text: str) -> None:
    click.echo(safe_lines(masked(text)))
