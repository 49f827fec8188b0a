"""How a step says that the run ends here."""

from __future__ import annotations


class StepFailed(Exception):
    """A step failed and the run ends here. `undo`: the runbook or the operator asked for the
    undo.
    """

    def __init__(self, says: str, *, undo: bool = False) -> None:
        super().__init__(says)
        self.says = says
        self.undo = undo
