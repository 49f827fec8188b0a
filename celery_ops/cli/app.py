"""Opens the screen on a context: the only module of the command line that imports Textual."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from celery_ops import demo as demos
from celery_ops.cli import boundary, context, engine
from celery_ops.cli.context import Chosen
from celery_ops.cli.deployment import opened
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.passphrases import Passphrases
from celery_ops.config import contexts
from celery_ops.fleet.collector import Collector
from celery_ops.fleet.logs import Logs
from celery_ops.fleet.masking import Masks
from celery_ops.fleet.peeker import Peeker
from celery_ops.tui.app import OpsApp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from celery_ops.cli.choice import Choice
    from celery_ops.demo import Demo

_LEAVING_SECONDS = 3


def open_app(choice: Choice) -> None:
    """The app on what the global options name. Raise UsageError if that is not clear."""
    chosen = context.resolve(choice)
    _open(chosen, _demo_of(chosen.file))


def open_demo(choice: Choice, demo: Demo) -> None:
    """The app on a demo."""
    found = contexts.select(contexts.load(demo.config, os.environ), None)
    chosen = Chosen(found, demo.config)
    _open(context.only_read(chosen) if choice.read_only else chosen, demo)


def _open(chosen: Chosen, demo: Demo | None) -> None:
    if boundary.run(_opened(chosen, demo)):
        raise click.exceptions.Exit(ExitCode.BUG)


async def _opened(chosen: Chosen, demo: Demo | None) -> int:
    async with (
        opened(chosen.context, passphrases=Passphrases()) as deployment,
        Collector(deployment.surveyor, clock=deployment.clock) as collector,
    ):
        app = OpsApp(
            collector,
            engine.desk(deployment, chosen),
            context=chosen.context.name,
            protected=chosen.context.protected,
            read_only=chosen.context.read_only,
            ledger=None if demo is None else _ledger_of(demo),
            logs=Logs(deployment.hosts),
            library=engine.library(chosen.context.directory),
            messages=Peeker(deployment.broker.messages, Masks(chosen.context.mask)),
            clock=deployment.clock,
            reporter=boundary.report,
        )
        deployment.passphrases.ask = app.ask_passphrase
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.exit)
        with _ended_by_a_hang_up(app):
            await app.run_async()
        return app.return_code or 0


@contextmanager
def _ended_by_a_hang_up(app: OpsApp) -> Iterator[None]:
    """SIGHUP closes the app, and is the end of the process where that takes too long.

    Textual waits for ever to write to a terminal that is gone: its writing thread has died of it,
    and its queue is full. Such a process would count as somebody who can be asked by the runs that
    it follows. So nothing here may depend on the event loop.
    """
    loop = asyncio.get_running_loop()

    def hung_up(*_: object) -> None:
        signal.alarm(_LEAVING_SECONDS)
        loop.call_soon_threadsafe(app.exit)

    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.alarm(0)


def _demo_of(file: Path | None) -> Demo | None:
    if file is None:
        return None
    return next((demo for demo in demos.running() if demo.config == file), None)


def _ledger_of(demo: Demo) -> Callable[[], Awaitable[Mapping[str, int | None]]]:
    async def read() -> Mapping[str, int | None]:
        return (await demos.ledger(demo)).as_json()

    return read
