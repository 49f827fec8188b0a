"""Every way the tool can refuse, on one page.

Each error says what happened (`says`) and, where there is one, what to do about it (`fix`).
Libraries' own errors are turned into these at the adapters and go no further. The exit codes that
belong to them are chosen in `cli`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class OpsError(Exception):
    """Base of every error of ours.

    `says` is one sentence for an operator; `fix` is what to do next, or None.
    Neither ever contains a secret.
    """

    def __init__(self, says: str, *, fix: str | None = None) -> None:
        super().__init__(says)
        self.says = says
        self.fix = fix

    def __str__(self) -> str:
        return self.says if self.fix is None else f"{self.says}\n{self.fix}"


class UsageError(OpsError):
    """What was asked for makes no sense: an unknown name, a value of the wrong type."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document, at a place. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    says: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.says}"


class InvalidDocument(OpsError):
    """A configuration or runbook that cannot be used; carries all of its problems at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class BrokerUnreachable(OpsError):
    """The broker cannot be reached, refused us, or stopped answering."""


class BrokerFull(BrokerUnreachable):
    """The broker is reachable but refuses writes (out of memory, disk, read-only replica)."""


class ResultsUnreachable(OpsError):
    """The result backend cannot be read, so it is not known how tasks ended."""


class HostUnreachable(OpsError):
    """A host cannot be reached, so nothing is known about what runs there."""


class CommandFailed(OpsError):
    """A command ran on a host and failed, or its supervisor refused it."""


class StreamFailed(CommandFailed):
    """A command that was followed ended, and not well: its exit code (-1: a signal) and the last of
    what it wrote to stderr.
    """

    def __init__(self, says: str, *, code: int, err: bytes) -> None:
        super().__init__(says)
        self.code = code
        self.err = err


class PreconditionFailed(OpsError):
    """A preflight check or a guard refused; nothing was changed."""


class LeaseHeld(OpsError):
    """Somebody else runs something on this context."""


class LeaseLost(OpsError):
    """The lease is no longer ours; nothing more may be changed under it."""


class LeaseBroken(LeaseLost):
    """Another operator broke the lease, and so wants nothing more to be done under it."""


class RecordUnreadable(OpsError):
    """What another operator left in the broker (a taken record, the lease) cannot be read."""


class ConfirmationNeeded(OpsError):
    """A confirmation is needed and nobody can be asked."""


class Declined(OpsError):
    """The operator was asked and said no; nothing was changed."""


class JournalError(OpsError):
    """A run's journal cannot be read or written."""
