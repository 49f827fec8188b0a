"""The end of a run: who failed why, and which command goes on with those that are left."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from celery_ops.cli.show_run import end_lines
from celery_ops.ports import Completed
from celery_ops.runbook import journal
from celery_ops.runbook.events import Cause, Ending
from tests.runbook.operation import Operation, Ran

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Command

MIGRATES = """
name: migrates
summary: Runs a command on each worker's host.
risk: medium
params:
  workers: {type: workers, default: "*"}
  how:     {type: text, default: "fast"}
steps:
  - roll: ${{ params.workers }}
    batch: 1
    keep_available: 0
    on_fail: stop
    steps:
      - run: [migrate, "${{ worker.name }}"]
        on: worker
        timeout: 1m
    verify:
      that: [worker.online]
      timeout: 30s
"""
STDERR = "".join(f"line {number}\n" for number in range(20)) + "\x1b[31mNo such table: tasks\n"


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    operation = Operation(tmp_path)
    operation.write_runbook("migrates", MIGRATES)
    for number in range(1, 7):
        operation.fleet.add_worker(f"worker-number-{number}@web1", queues=("default", "mail"))
    operation.hosts.programs["migrate"] = _fails_for_the_second
    return operation


def _fails_for_the_second(command: Command) -> Completed:
    failed = "number-2" in command.argv[1]
    return Completed(3 if failed else 0, b"", STDERR.encode() if failed else b"", 0.1)


def shown(ran: Ran, width: int = 80) -> list[str]:
    plan = ran.events[0].plan
    assert plan is not None
    return end_lines(ran.end, plan, width)


async def test_each_failure_is_a_line_and_what_its_command_wrote(operation: Operation) -> None:
    ran = await operation.run("migrates", how="not so fast")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.report is not None
    (cause,) = ran.end.report.causes
    assert cause == Cause(
        "worker-number-2@web1",
        "migrate worker-number-2@web1: ended with 3",
        "line 16\nline 17\nline 18\nline 19\n\x1b[31mNo such table: tasks",
    )
    assert "\n" not in ran.end.says
    assert shown(ran) == [
        "20261120-030000-0001 failed: worker-number-2@web1: migrate worker-number-2@web1:",
        "  ended with 3",
        "  done: worker-number-1@web1",
        "  failed: worker-number-2@web1: migrate worker-number-2@web1: ended with 3",
        "    | line 16",
        "    | line 17",
        "    | line 18",
        "    | line 19",
        "    | ␛[31mNo such table: tasks",
        "  not started: worker-number-3@web1, worker-number-4@web1, worker-number-5@web1,",
        "    worker-number-6@web1",
        "  to go on with those that are not done:",
        "      celery-ops -b standin://broker runbook migrates"
        " -p workers=worker-number-2@web1,worker-number-3@web1,"
        "worker-number-4@web1,worker-number-5@web1,worker-number-6@web1 -p 'how=not so fast'",
    ]


async def test_the_command_it_names_goes_on_with_those_that_are_left(
    operation: Operation,
) -> None:
    ran = await operation.run("migrates")
    assert ran.end.report is not None
    words = ran.end.report.again.split()
    given = dict(word.split("=", 1) for word in words[words.index("migrates") + 1 :] if "=" in word)
    operation.hosts.programs.clear()
    rest = await operation.run("migrates", **given)
    assert rest.ending is Ending.DONE, rest.told()
    assert rest.end.report is not None
    assert ran.end.report.done == ("worker-number-1@web1",)
    assert set(rest.end.report.done) == {f"worker-number-{number}@web1" for number in range(2, 7)}


async def test_a_run_that_is_done_names_nothing_to_do(operation: Operation) -> None:
    operation.hosts.programs.clear()
    ran = await operation.run("migrates")
    assert ran.end.report is not None
    assert (ran.end.report.causes, ran.end.report.again) == ((), "")
    assert len(shown(ran)) == 3
    assert all(len(line) <= 80 for line in shown(ran))


async def test_nothing_is_named_where_a_step_selects_others_than_the_parameter(
    operation: Operation,
) -> None:
    """It would have those migrated too."""
    others = "  - stop: worker-number-5@web1\n    timeout: 1m\n"
    operation.write_runbook("migrates", MIGRATES + others)
    ran = await operation.run("migrates")
    assert ran.ending is Ending.STOPPED, ran.told()
    assert ran.end.report is not None
    assert (ran.end.report.failed, ran.end.report.again) == (("worker-number-2@web1",), "")


async def test_the_report_is_in_the_journal(operation: Operation) -> None:
    ran = await operation.run("migrates")
    (path,) = (operation.directory / "runs").glob("*.jsonl")
    *_, last = journal.read(path)
    assert last.outcome == ran.end


async def test_what_earlier_versions_reported_is_still_read(operation: Operation) -> None:
    await operation.run("migrates")
    (path,) = (operation.directory / "runs").glob("*.jsonl")
    *lines, end = path.read_text().splitlines()
    older = json.loads(end)
    for key in ("causes", "again", "left_out"):
        older["outcome"]["report"].pop(key, None)
    path.write_text("\n".join([*lines, json.dumps(older), ""]))
    *_, last = journal.read(path)
    assert last.outcome is not None
    assert last.outcome.report is not None
    assert last.outcome.report.again == ""
    assert last.outcome.report.failed == ("worker-number-2@web1",)
