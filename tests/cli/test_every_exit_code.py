"""Each exit code that scripts rely on is produced by a test of the real command: here is which.

A code without one fails here, and so does a test that is named and is not there any more, or does
not look at that code.
"""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from celery_ops.cli.exit_codes import ExitCode

RUNS = "tests.cli.test_real_runs"
FAULTS = "tests.promises.test_faults_in_a_run"
REFUSALS = "tests.promises.test_refusals_and_failures"
CRASH = "tests.promises.test_crash"
SECRETS = "tests.promises.test_secrets"
USAGE = "tests.cli.test_usage"

PRODUCED_BY: dict[ExitCode, tuple[tuple[str, str], ...]] = {
    ExitCode.DONE: (
        (RUNS, "test_a_restart_is_done_and_every_event_of_it_is_a_line_of_json"),
        (CRASH, "test_a_run_killed_while_a_worker_drains_is_gone_on_with"),
    ),
    ExitCode.STOPPED: (
        (RUNS, "test_1_stopped_on_a_failure_with_what_was_taken_given_back"),
        (FAULTS, "test_a_run_whose_disk_is_full_gives_back_what_it_took_and_goes_no_further"),
    ),
    ExitCode.INVALID: (
        (REFUSALS, "test_a_typo_in_a_runbook_is_named_with_its_place"),
        (CRASH, "test_a_run_killed_while_a_worker_drains_is_gone_on_with"),
    ),
    ExitCode.UNDONE: ((RUNS, "test_3_failed_and_the_batch_was_undone"),),
    ExitCode.NEEDS_HUMAN: (
        (RUNS, "test_4_a_killed_executor_leaves_a_worker_drained_and_it_is_said"),
        (RUNS, "test_4_ctrl_c_twice_leaves_it_and_says_how_to_mend_it"),
        (FAULTS, "test_a_run_whose_lease_somebody_else_has_ends_where_it_waits_and_says_who"),
    ),
    ExitCode.ABORTED: (
        (RUNS, "test_5_ctrl_c_undoes_the_batch"),
        (RUNS, "test_sigterm_aborts_in_order"),
        (CRASH, "test_ctrl_c_while_a_worker_drains_gives_its_queues_back"),
    ),
    ExitCode.LEASE_HELD: ((RUNS, "test_6_somebody_else_holds_the_lease_and_is_named"),),
    ExitCode.REFUSED: (
        (RUNS, "test_7_a_guard_refuses_and_nothing_is_written"),
        (RUNS, "test_7_read_only_refuses_every_change"),
    ),
    ExitCode.UNCONFIRMED: ((RUNS, "test_8_nobody_to_ask_and_nothing_is_written"),),
    ExitCode.INTERRUPTED: (
        (RUNS, "test_9_an_executor_that_dies_before_any_effect_interrupts"),
        (RUNS, "test_9_ctrl_c_twice_before_any_effect_interrupts"),
    ),
    ExitCode.UNREACHABLE: (
        (REFUSALS, "test_a_broker_that_is_gone_is_told_and_nothing_is_begun"),
        (FAULTS, "test_a_full_broker_needs_a_human_and_says_so"),
    ),
    ExitCode.BUG: (
        (USAGE, "test_a_bug_is_70_and_shows_nothing_but_its_kind"),
        (SECRETS, "test_a_bug_of_ours_names_a_log_and_neither_shows_the_password"),
        (SECRETS, "test_a_bug_of_the_executors_ends_the_run_as_one"),
    ),
}


def test_no_code_is_without_a_test() -> None:
    assert PRODUCED_BY.keys() == set(ExitCode)
    assert all(PRODUCED_BY.values())


@pytest.mark.parametrize(
    ("code", "module", "name"),
    [(code, *test) for code, tests in PRODUCED_BY.items() for test in tests],
    ids=str,
)
def test_the_named_test_is_there_and_looks_at_the_code(
    code: ExitCode, module: str, name: str
) -> None:
    test = getattr(importlib.import_module(module), name)
    assert re.search(rf"\b{code.value}\b", inspect.getsource(test))
