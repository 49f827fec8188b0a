"""How a bug of ours looks: what kind, and where the details are. Never a local variable.

Textual's own crash screen prints locals, and a broker's password among them.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from rich.text import Text

from celery_ops.config.secret import masked
from celery_ops.tui.text import safe

if TYPE_CHECKING:
    from celery_ops.tui.seams import Reporter

_LONGEST = 100_000


def crash_text(error: BaseException, reporter: Reporter | None) -> Text:
    """What is left on the terminal after a bug: one line and the log file that has the rest.

    Without a log file the traceback itself, without locals and with passwords masked.
    """
    cause = getattr(error, "error", None)
    if isinstance(cause, BaseException):
        # Textual wraps what ended one of its workers.
        error = cause
    head = f"celery-ops: a bug of ours ({type(error).__name__})."
    if reporter is not None:
        try:
            return Text(safe(f"{head} The details are in {reporter(error)}"))
        except OSError as failure:
            head = f"{head} The details could not be written: {failure.strerror}."
    details = masked("".join(traceback.format_exception(error)))
    return Text("\n".join(safe(row, _LONGEST) for row in f"{head}\n{details}".split("\n")))
