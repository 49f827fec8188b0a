"""`demo`: a real fleet on this machine, with the app on it or without."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from typing import TYPE_CHECKING

import click

from celery_ops import demo as demos
from celery_ops.cli import fleet_json
from celery_ops.cli.boundary import complain, run
from celery_ops.cli.choice import Choice

if TYPE_CHECKING:
    from celery_ops.demo import Demo, Ledger


@click.group(invoke_without_command=True)
@click.option("--headless", is_flag=True, help="No screen: print how to reach it, run until told.")
@click.pass_context
def demo(ctx: click.Context, *, headless: bool) -> None:
    """A real fleet on this machine, and the app on it; everything is gone afterwards."""
    if ctx.invoked_subcommand is not None:
        return
    if headless:
        _headless()
    else:
        _with_app(ctx.ensure_object(Choice))


@demo.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("--settle", is_flag=True, help="Stop the producer and wait until nothing is left.")
@click.pass_context
def ledger(ctx: click.Context, *, as_json: bool, settle: bool) -> None:
    """Count the demo's tasks: sent, done, running, lost, run twice."""
    found = _chosen(ctx)
    counted = run(demos.settle(found, complain) if settle else demos.ledger(found))
    for missing in counted.missing:
        complain(f"lost: {missing}")
    click.echo(fleet_json.line(counted.as_json()) if as_json else _sentence(counted))


@demo.command()
@click.pass_context
def stop(ctx: click.Context) -> None:
    """Stop the demo and remove everything of it."""
    found = _chosen(ctx)
    demos.stop(found)
    complain(f"{found.name} is stopped, and nothing of it is left")


def _chosen(ctx: click.Context) -> Demo:
    """The demo that -c names, else the newest. Raise UsageError if it does not run."""
    return demos.find(ctx.ensure_object(Choice).context or "demo")


def _with_app(choice: Choice) -> None:
    app = importlib.import_module("celery_ops.cli.app")
    started = demos.start(owner_pid=os.getpid())
    try:
        app.open_demo(choice, started)
    finally:
        demos.stop(started)


def _headless() -> None:
    started = demos.start(owner_pid=os.getpid())
    try:
        click.echo("\n".join(_how_to_reach(started)))
        run(_until_stopped(started))
    finally:
        demos.stop(started)
    complain(f"{started.name} is stopped, and nothing of it is left")


async def _until_stopped(started: Demo) -> None:
    """Return at Ctrl-C, SIGTERM, a closed terminal, or when somebody else stopped the demo."""
    ended = asyncio.ensure_future(demos.ended(started))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            loop.add_signal_handler(number, ended.cancel)
    await asyncio.wait((ended,))


def _how_to_reach(started: Demo) -> list[str]:
    name = started.name
    return [
        f"{name} runs: 4 workers, 3 queues, beat and a producer of numbered tasks.",
        "In another terminal, from any directory:",
        "",
        f"  celery-ops -c {name}                            the app",
        f"  celery-ops -c {name} status",
        f"  celery-ops -c {name} runbook rolling-restart",
        f"  celery-ops -c {name} demo ledger",
        f"  celery-ops -c {name} demo stop",
        "",
        "`-c demo` is the newest demo. Ctrl-C stops it.",
    ]


def _sentence(counted: Ledger) -> str:
    return "  ".join(f"{word} {count}" for word, count in counted.as_json().items())
