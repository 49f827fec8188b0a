"""Executors that die as by kill -9 at a point that a test names, and are the real ones otherwise.

A folder with a `sitecustomize.py` is added to a command's PYTHONPATH; every Python process below it
imports that at its start, and the executor among them gets a journal that kills its process. The
product knows nothing of it.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from celery_ops.runbook import journal
from celery_ops.runbook.events import EventKind

_ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = "RIG_DEATH"
_CUSTOM = """
import sys

if "_execute" in sys.orig_argv:
    from tests.rig import mortal

    mortal.doom()
"""


class When(StrEnum):
    """Where in an act its executor dies."""

    BEFORE = "before"
    """The intent is on disk, and nothing was sent."""
    DURING = "during"
    """It was sent; the next word of it is about to be written: what is seen of it, or its end."""
    AFTER = "after"
    """Its effect was seen, and the result is about to be written."""


@dataclass(frozen=True, slots=True)
class Death:
    """The verb of the act in which an executor dies, and where in it."""

    verb: str
    when: When

    def __str__(self) -> str:
        return f"{self.when}-{self.verb}"

    def variables(self, folder: Path) -> dict[str, str]:
        """What a command needs in its environment for its executor to die so."""
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(_CUSTOM)
        said = json.dumps({"verb": self.verb, "when": self.when.value})
        return {_VARIABLE: said, "PYTHONPATH": os.pathsep.join((str(_ROOT), str(folder)))}


def doom() -> None:
    """Called in an executor before it has a journal."""
    said = json.loads(os.environ[_VARIABLE])
    death = Death(said["verb"], When(said["when"]))

    class MortalJournal(journal.Journal):
        """Kills its process in the first act of that verb."""

        _about: tuple[str | None, str | None] | None = None

        def append(self, event: EventKind, **said: Any) -> journal.Event:
            about = (said.get("step"), said.get("target"))
            if self._about is not None and self._about == about:
                is_over = event is EventKind.RESULT
                if is_over or death.when is When.DURING:
                    os.kill(os.getpid(), signal.SIGKILL)
            written = super().append(event, **said)
            if event is EventKind.INTENT and said.get("verb") == death.verb:
                self._about = about
                if death.when is When.BEFORE:
                    os.kill(os.getpid(), signal.SIGKILL)
            return written

    vars(journal)["Journal"] = MortalJournal
