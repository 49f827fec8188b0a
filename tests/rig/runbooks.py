"""A team's own runbooks, and those that more than one test module runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CAREFUL = """
name: careful
summary: Nothing is done while two send.
risk: low
preflight:
  - check: fleet.senders <= 1
    message: two send
steps:
  - check: fleet.senders <= 1
"""


def write_runbook(beside: Path, name: str, text: str) -> None:
    """Where it is found: in `runbooks` of the folder in which the configuration is."""
    folder = beside / "runbooks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)
