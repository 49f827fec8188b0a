"""Every way the command can end, in one enum. Scripts rely on these numbers.

Used in `cli` only: the rest of the program raises errors and returns endings, and never exits.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from celery_ops import errors

if TYPE_CHECKING:
    from celery_ops.errors import OpsError


class ExitCode(IntEnum):
    """What a script can tell from `$?`."""

    DONE = 0
    STOPPED = 1
    INVALID = 2
    UNDONE = 3
    NEEDS_HUMAN = 4
    ABORTED = 5
    LEASE_HELD = 6
    REFUSED = 7
    UNCONFIRMED = 8
    INTERRUPTED = 9
    UNREACHABLE = 69
    BUG = 70

    @property
    def says(self) -> str:
        """The line of the table in `--help`."""
        return _SAYS[self]


_SAYS = {
    ExitCode.DONE: "done and verified",
    ExitCode.STOPPED: "stopped on a failure; what was taken is given back",
    ExitCode.INVALID: "usage, configuration or runbook invalid; nothing was changed",
    ExitCode.UNDONE: "failed; the current batch was undone",
    ExitCode.NEEDS_HUMAN: "needs a human: something is left drained, stopped or owed",
    ExitCode.ABORTED: "aborted by the operator, cleanly",
    ExitCode.LEASE_HELD: "somebody else holds the lease",
    ExitCode.REFUSED: "a precondition or a guard refused; nothing was changed",
    ExitCode.UNCONFIRMED: "a confirmation is needed and there is no terminal",
    ExitCode.INTERRUPTED: "interrupted; `runs resume ID` goes on",
    ExitCode.UNREACHABLE: "broker or host not reachable",
    ExitCode.BUG: "a bug of ours; the log file is named",
}

# The first class that fits decides; a subclass stands before its base.
_OF_ERRORS: tuple[tuple[type[OpsError], ExitCode], ...] = (
    (errors.UsageError, ExitCode.INVALID),
    (errors.InvalidDocument, ExitCode.INVALID),
    (errors.BrokerUnreachable, ExitCode.UNREACHABLE),
    (errors.HostUnreachable, ExitCode.UNREACHABLE),
    (errors.ResultsUnreachable, ExitCode.UNREACHABLE),
    (errors.CommandFailed, ExitCode.STOPPED),
    (errors.PreconditionFailed, ExitCode.REFUSED),
    (errors.JournalError, ExitCode.REFUSED),
    (errors.LeaseHeld, ExitCode.LEASE_HELD),
    (errors.LeaseLost, ExitCode.INTERRUPTED),
    (errors.RecordUnreadable, ExitCode.NEEDS_HUMAN),
    (errors.ConfirmationNeeded, ExitCode.UNCONFIRMED),
    (errors.Declined, ExitCode.ABORTED),
    (errors.OpsError, ExitCode.STOPPED),
)

# By the ending's own word, so that `--help` need not import the journal.
_OF_ENDINGS = {
    "done": ExitCode.DONE,
    "stopped": ExitCode.STOPPED,
    "undone": ExitCode.UNDONE,
    "needs_human": ExitCode.NEEDS_HUMAN,
    "aborted": ExitCode.ABORTED,
    "refused": ExitCode.REFUSED,
    "lease_held": ExitCode.LEASE_HELD,
    "unconfirmed": ExitCode.UNCONFIRMED,
    "interrupted": ExitCode.INTERRUPTED,
    "unreachable": ExitCode.UNREACHABLE,
    "bug": ExitCode.BUG,
}


def of_error(error: OpsError) -> ExitCode:
    """The code of an error that ended a command."""
    return next(code for kind, code in _OF_ERRORS if isinstance(error, kind))


def of_ending(ending: StrEnum) -> ExitCode:
    """The code of a `celery_ops.runbook.journal.Ending`."""
    return _OF_ENDINGS[ending.value]


def of_signal(number: int) -> int:
    """The code of a command that a signal ended and that changed nothing, as shells count them."""
    return 128 + number
