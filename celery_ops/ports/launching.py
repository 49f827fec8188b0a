"""How a run gets a process of its own."""

from __future__ import annotations

from typing import Protocol


class RunLauncher(Protocol):
    """Starts the executor of a run whose journal has been written."""

    def launch(self, run: str, *, undo: bool = False) -> None:
        """Return once it runs on its own: it survives the caller, its terminal and SIGHUP.

        It begins the run, or goes on with one that was interrupted; with `undo` it takes it back.
        """
        ...
