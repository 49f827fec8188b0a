"""The one place where errors become text and exit codes.

An error of ours is a line or two on stderr. Anything else is a bug of ours: its traceback, without
local variables and with passwords masked, goes to a log file that is named; no more is shown.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from celery_ops import __version__
from celery_ops.cli import exit_codes, state
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.text import safe_lines
from celery_ops.config.secret import masked
from celery_ops.errors import InvalidDocument, OpsError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

T = TypeVar("T")


@contextmanager
def errors_become_exit_codes() -> Iterator[None]:
    """Turn whatever a command raises into text on stderr and `click.exceptions.Exit`."""
    _show_what_cannot_be_encoded()
    try:
        yield
        sys.stdout.flush()
    except (click.exceptions.Exit, click.ClickException):
        raise
    except InvalidDocument as error:
        # Only positions and problems, as editors and CI read them.
        complain(str(error))
        raise click.exceptions.Exit(exit_codes.of_error(error)) from error
    except OpsError as error:
        complain(f"celery-ops: {error}")
        raise click.exceptions.Exit(exit_codes.of_error(error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError, click.Abort) as error:
        complain("celery-ops: interrupted")
        raise click.exceptions.Exit(exit_codes.of_signal(signal.SIGINT)) from error
    except BrokenPipeError as error:
        _write_no_more()
        raise click.exceptions.Exit(exit_codes.of_signal(signal.SIGPIPE)) from error
    except OSError as error:
        if error.errno != errno.EIO:
            raise click.exceptions.Exit(_bug(error)) from error
        # The terminal is gone. A run that was followed on it goes on without us.
        _write_no_more()
        raise click.exceptions.Exit(exit_codes.of_signal(signal.SIGHUP)) from error
    except Exception as error:
        raise click.exceptions.Exit(_bug(error)) from error


def complain(text: str) -> None:
    """Say something to people, on stderr."""
    click.echo(safe_lines(masked(text)), err=True)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end; what its background tasks let fall is a bug of ours."""
    fallen: list[Exception] = []
    result = asyncio.run(_watched(main, fallen))
    if fallen:
        raise fallen[0]
    return result


def report(error: BaseException) -> Path:
    """Write a bug's traceback to a file of its own, mode 0600; return its path. Raise OSError."""
    path = state.logs() / f"bug-{os.getpid()}-{id(error):x}.log"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    head = f"celery-ops {__version__}, Python {sys.version.split()[0]}, {sys.platform}\n"
    text = head + "".join(traceback.format_exception(error))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(file, "w", encoding="utf-8", errors="backslashreplace") as log:
        log.write(masked(text))
    return path


async def _watched(main: Coroutine[Any, Any, T], fallen: list[Exception]) -> T:
    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            fallen.append(error)
        else:
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(note)
    return await main


def _show_what_cannot_be_encoded() -> None:
    """A name that the terminal's encoding does not know is shown escaped; it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _bug(error: Exception) -> ExitCode:
    try:
        where = f"The details are in {report(error)}"
    except OSError as failure:
        where = f"The details could not be written to {state.logs()}: {failure.strerror}"
    complain(f"celery-ops: a bug of ours ({type(error).__name__}). {where}")
    return ExitCode.BUG


def _write_no_more() -> None:
    """Let Python flush what is left at its exit without a complaint."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
    os.close(null)
