"""`status`, `workers`, `queues`, `hosts`, `releases`: what is there, once or again and again.

Changes nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from celery_ops.cli import context, fleet_json, fleet_text
from celery_ops.cli.boundary import run
from celery_ops.cli.choice import Choice
from celery_ops.cli.deployment import opened
from celery_ops.cli.mending import Mending
from celery_ops.cli.text import width_of_terminal
from celery_ops.fleet.collector import Collector, look

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_ops.cli.context import Chosen
    from celery_ops.model import FleetSnapshot

INTERVAL = 2.0
"""Seconds between two pictures of `--watch`."""
HOSTS_PATIENCE = 5.0
"""Seconds that `hosts` waits for each: to be connected to them takes time, to hear no even more."""

_CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True, slots=True)
class _View:
    """What one command shows of a snapshot."""

    as_json: Callable[[FleetSnapshot], fleet_json.Json]
    as_text: Callable[[FleetSnapshot, int], list[str]]
    patience: float | None = None
    """Seconds that hosts are waited for, if longer than everybody else."""


_STATUS = _View(fleet_json.status, fleet_text.status)
_WORKERS = _View(fleet_json.workers, fleet_text.workers)
_QUEUES = _View(fleet_json.queues, fleet_text.queues)
_HOSTS = _View(fleet_json.hosts, fleet_text.hosts, HOSTS_PATIENCE)

_BEATS = _View(fleet_json.schedulers, fleet_text.schedulers, HOSTS_PATIENCE)
_RELEASES = _View(fleet_json.releases, fleet_text.releases, HOSTS_PATIENCE)

_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")
_watch = click.option("--watch", is_flag=True, help="Again and again; JSON: a document a line.")


@click.command()
@_json
@_watch
@click.pass_context
def status(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The fleet at a glance: problems first, then workers and queues."""
    _show(ctx, _STATUS, as_json=as_json, watch=watch)


@click.command()
@_json
@_watch
@click.pass_context
def workers(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The workers: state, age of what is known, pool, tasks held, queues, service."""
    _show(ctx, _WORKERS, as_json=as_json, watch=watch)


@click.command()
@_json
@_watch
@click.pass_context
def queues(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The queues: messages ready and unacked, how they come and go, and who consumes them.

    Rates and times take some seconds of watching: --watch tells them.
    """
    _show(ctx, _QUEUES, as_json=as_json, watch=watch)


@click.command()
@_json
@_watch
@click.pass_context
def hosts(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The hosts: reachable or not, load, memory, disk; the services on them and what they use.

    One look cannot tell how much CPU a service uses: --watch does.
    """
    _show(ctx, _HOSTS, as_json=as_json, watch=watch)


@click.command()
@_json
@_watch
@click.pass_context
def releases(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The releases of each host: the current one, what can be switched to, what its workers run."""
    _show(ctx, _RELEASES, as_json=as_json, watch=watch)


def show_beats(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """The schedulers, as the other views show what they show."""
    _show(ctx, _BEATS, as_json=as_json, watch=watch)


def _show(ctx: click.Context, view: _View, *, as_json: bool, watch: bool) -> None:
    choice = ctx.ensure_object(Choice)
    chosen = context.resolve(choice)
    run((_watching if watch else _once)(choice, chosen, view, as_json=as_json))


async def _once(choice: Choice, chosen: Chosen, view: _View, *, as_json: bool) -> None:
    async with opened(chosen.context) as deployment:
        snapshot = await look(deployment.surveyor, patience=view.patience)
        mending = Mending(choice, deployment.broker.address)
    if as_json:
        click.echo(fleet_json.page(mending.json(view.as_json(snapshot))))
    else:
        _print([mending.text(one) for one in view.as_text(snapshot, width_of_terminal())])


async def _watching(choice: Choice, chosen: Chosen, view: _View, *, as_json: bool) -> None:
    async with opened(chosen.context) as deployment:
        mending = Mending(choice, deployment.broker.address)
        collector = Collector(deployment.surveyor, clock=deployment.clock, interval=INTERVAL)
        async with collector:
            async for snapshot in collector.snapshots():
                if as_json:
                    click.echo(fleet_json.line(mending.json(view.as_json(snapshot))))
                else:
                    lines = view.as_text(snapshot, width_of_terminal())
                    _repaint([mending.text(one) for one in lines])


def _repaint(lines: list[str]) -> None:
    """On a terminal the new picture takes the place of the old one; elsewhere it follows it."""
    if sys.stdout.isatty():
        click.echo(_CLEAR, nl=False)
        _print(lines)
    else:
        _print([*lines, ""])


def _print(lines: list[str]) -> None:
    click.echo("\n".join(lines))
