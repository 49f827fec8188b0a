"""The numbers that scripts rely on."""

from __future__ import annotations

import pytest

from celery_ops import errors
from celery_ops.cli import exit_codes
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.errors import OpsError, Problem
from celery_ops.runbook.events import Ending


def test_the_numbers_are_those_that_were_promised() -> None:
    assert [code.value for code in ExitCode] == [*range(10), 69, 70]
    assert all(code.says for code in ExitCode)


@pytest.mark.parametrize("ending", list(Ending))
def test_every_ending_of_a_run_has_a_code(ending: Ending) -> None:
    assert exit_codes.of_ending(ending) in ExitCode


def test_only_a_proved_end_is_zero() -> None:
    assert [one for one in Ending if exit_codes.of_ending(one) == 0] == [Ending.DONE]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), ExitCode.INVALID),
        (errors.InvalidDocument([Problem("f", 1, 1, "x")]), ExitCode.INVALID),
        (errors.BrokerUnreachable("x"), ExitCode.UNREACHABLE),
        (errors.BrokerFull("x"), ExitCode.UNREACHABLE),
        (errors.HostUnreachable("x"), ExitCode.UNREACHABLE),
        (errors.ResultsUnreachable("x"), ExitCode.UNREACHABLE),
        (errors.CommandFailed("x"), ExitCode.STOPPED),
        (errors.PreconditionFailed("x"), ExitCode.REFUSED),
        (errors.LeaseHeld("x"), ExitCode.LEASE_HELD),
        (errors.LeaseLost("x"), ExitCode.INTERRUPTED),
        (errors.ConfirmationNeeded("x"), ExitCode.UNCONFIRMED),
        (errors.Declined("x"), ExitCode.ABORTED),
        (errors.RecordUnreadable("x"), ExitCode.NEEDS_HUMAN),
        (errors.JournalError("x"), ExitCode.REFUSED),
        (OpsError("x"), ExitCode.STOPPED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, OpsError) else None,
)
def test_an_error_becomes_its_code(error: OpsError, code: ExitCode) -> None:
    assert exit_codes.of_error(error) is code


def test_no_error_is_without_a_code_of_its_own() -> None:
    named = {kind for kind, _ in exit_codes._OF_ERRORS}
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, OpsError)
    ]
    assert not [kind for kind in kinds if not named & set(kind.__mro__[:-1])]
    assert {kind for kind in kinds if kind not in named} <= {
        errors.BrokerFull,
        errors.LeaseBroken,
        errors.StreamFailed,
    }
