"""Starts executors: processes of their own that outlive the terminal, the app and SIGHUP.

Their command line is a run's id and nothing else. What is secret goes through a pipe, as one line
of JSON, `{"broker": url, "options": {…}, "passphrases": {key file: …}, "undo": false}`; never
through argv, environment or journal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import celery_ops
from celery_ops.cli.connected import broker_options
from celery_ops.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery_ops.cli.passphrases import Passphrases
    from celery_ops.config.contexts import Context
    from celery_ops.runbook.desk import RunStore

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_OURS_TO_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Launcher:
    """A `RunLauncher` for runs on one context."""

    def __init__(self, context: Context, store: RunStore, passphrases: Passphrases) -> None:
        self._context = context
        self._passphrases = passphrases
        self._store = store

    def launch(self, run: str, *, undo: bool = False) -> None:
        """Return once the executor runs on its own. Raise JournalError if it cannot be started.

        What it prints, a crash of Python's own included, is in the run's log beside its journal.
        """
        reading, writing = os.pipe()
        try:
            pid = self._spawn(run, reading)
        except OSError as error:
            os.close(writing)
            says = f"cannot start the executor {sys.executable}: {error.strerror}"
            raise JournalError(says, fix="Nothing was changed.") from error
        finally:
            os.close(reading)
        # The app lives longer than a run: somebody must collect its process, or it stays a zombie.
        threading.Thread(target=os.waitpid, args=(pid, 0), daemon=True).start()
        _hand_over(writing, secrets_of(self._context, self._passphrases, undo=undo))

    def _spawn(self, run: str, stdin: int) -> int:
        log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            sys.executable,
            command(run),
            environment(os.environ),
            file_actions=(
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._store.log(run)), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
            setsid=True,
            setsigmask=(),
            setsigdef=_OURS_TO_RESET,
        )


def command(run: str) -> tuple[str, ...]:
    """The argv of an executor. `-P`: files in the operator's directory are no modules of ours."""
    return (sys.executable, "-P", "-m", "celery_ops", "runs", "_execute", run)


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The operator's own; from a checkout, with the path the package was imported from."""
    root = Path(celery_ops.__file__).resolve().parent.parent
    kept = dict(inherited)
    if root.name not in _INSTALLED:
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), kept.get("PYTHONPATH"))))
    return kept


def secrets_of(context: Context, passphrases: Passphrases, *, undo: bool = False) -> bytes:
    """What an executor is told through its stdin."""
    told = {
        "broker": context.broker.reveal(),
        "options": broker_options(context),
        "passphrases": {str(key): typed.reveal() for key, typed in passphrases.known.items()},
        "undo": undo,
    }
    return json.dumps(told, default=str).encode() + b"\n"


def _hand_over(pipe: int, told: bytes) -> None:
    try:
        with os.fdopen(pipe, "wb") as stdin:
            stdin.write(told)
    except BrokenPipeError:
        # It ended before it read: followers see that nobody executes the run, and its log says why.
        return
