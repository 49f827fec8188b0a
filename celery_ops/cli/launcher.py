"""Starts executors: processes of their own that outlive the terminal, the app and SIGHUP.

Their command line is a run's id and nothing else. What is secret goes through a pipe, as one line
of JSON, `{"broker": url, "options": {…}}`; never through argv, environment or journal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import celery_ops
from celery_ops.cli.deployment import broker_options
from celery_ops.errors import JournalError

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.runbook.desk import RunStore


class Launcher:
    """A `RunLauncher` for runs on one context."""

    def __init__(self, context: Context, store: RunStore) -> None:
        self._context = context
        self._store = store

    def launch(self, run: str) -> None:
        """Return once the executor runs on its own. Raise JournalError if it cannot be started.

        What it prints, a crash of Python's own included, is in the run's log beside its journal.
        """
        try:
            log = os.open(self._store.log(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            says = f"cannot write the log of the run: {error.strerror}"
            raise JournalError(says, fix="Nothing was changed.") from error
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and an id of our own
                command(run),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=_root(),
                start_new_session=True,
            )
        except OSError as error:
            says = f"cannot start {sys.executable}: {error.strerror}"
            raise JournalError(says, fix="Nothing was changed.") from error
        finally:
            os.close(log)
        # The app lives longer than a run: somebody must collect its process, or it stays a zombie.
        threading.Thread(target=process.wait, daemon=True).start()
        _hand_over(process, secrets_of(self._context))


def command(run: str) -> tuple[str, ...]:
    """The argv of an executor.

    It starts in the directory that holds this package, which `-m` finds from a checkout too. An
    installed package needs no such help, and its neighbours must not hide the standard library.
    """
    alone = ("-P",) if _root().name in {"site-packages", "dist-packages"} else ()
    return (sys.executable, *alone, "-m", "celery_ops", "runs", "_execute", run)


def secrets_of(context: Context) -> bytes:
    """What an executor is told through its stdin."""
    told = {"broker": context.broker.reveal(), "options": broker_options(context)}
    return json.dumps(told, default=str).encode() + b"\n"


def _root() -> Path:
    return Path(celery_ops.__file__).resolve().parent.parent


def _hand_over(process: subprocess.Popen[bytes], told: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("the executor was started without a pipe")
    try:
        process.stdin.write(told)
        process.stdin.close()
    except BrokenPipeError:
        # It ended before it read: followers see that nobody executes the run, and its log says why.
        return
