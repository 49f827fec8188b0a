"""`notify`: somebody is told, on this machine, and nothing depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import CommandFailed
from celery_ops.ports import Completed
from celery_ops.runbook.events import Ending, Result
from celery_ops.runbook.inbox import Message, Word
from celery_ops.runbook.journal import has_ended, read
from celery_ops.runbook.notices import NOTIFY_TIMEOUT, PERHAPS_TOLD
from tests.runbook.operation import Operation, Ran
from tests.runbook.test_resume import killed

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.ports import Command

RUNBOOK = """
name: tell
summary: Tell somebody.
risk: low
params:
  who: {type: text, default: ops}
steps:
  - notify: [tell, "to ${{ params.who }}", "${{ fleet.workers }} workers"]
    env: {CHANNEL: "${{ params.who }}"}
  - check: fleet.online == 1
finally:
  - notify: [tell, the end]
  - check: fleet.workers == 1
"""

WAITS = """\
wait: for another
    until: fleet.online == 2
    timeout: 1m"""


@pytest.fixture
def operation(tmp_path: Path) -> Operation:
    made = Operation(tmp_path)
    made.write_runbook("tell", RUNBOOK)
    made.fleet.add_worker("w1@web1")
    return made


class Tells:
    """The program; it ends with `code`, or as `error` says."""

    def __init__(self, code: int = 0, error: CommandFailed | None = None) -> None:
        self.code = code
        self.error = error
        self.told: list[tuple[tuple[str, ...], dict[str, str]]] = []

    def __call__(self, command: Command) -> Completed:
        self.told.append((command.argv[1:], dict(command.env)))
        if self.error is not None:
            raise self.error
        return Completed(self.code, b"", b"no such channel", 0.0)


async def told(operation: Operation, tells: Tells) -> Ran:
    operation.hosts.programs["tell"] = tells
    return await operation.run("tell")


def results(ran: Ran, step: str) -> list[tuple[Result, str]]:
    return [
        (event.outcome.result, event.outcome.says)
        for event in ran.events
        if event.step == step and event.outcome is not None
    ]


async def test_it_runs_on_this_machine_and_knows_of_the_run(operation: Operation) -> None:
    tells = Tells()
    ran = await told(operation, tells)
    assert ran.ending is Ending.DONE, ran.told()
    assert [one.argv[0] for one in operation.hosts.shell("local").ran] == ["tell", "tell"]
    (first, env), (last, at_the_end) = tells.told
    assert first == ("to ops", "1 workers")
    assert (env["CHANNEL"], env["CELERY_OPS_STATE"]) == ("ops", "running")
    plan = ran.events[0].plan
    assert plan is not None
    assert env["CELERY_OPS_RUN"] == plan.run
    assert last == ("the end",)
    assert at_the_end["CELERY_OPS_STATE"] == "done"


async def test_its_failure_is_on_record_and_fails_nothing(operation: Operation) -> None:
    ran = await told(operation, Tells(code=1))
    assert ran.ending is Ending.DONE, ran.told()
    ((result, says),) = results(ran, "1")
    assert (result, says) == (
        Result.FAILED,
        "tell 'to ops' '1 workers' ended with 1: no such channel",
    )
    ran = await told(operation, Tells(error=CommandFailed("tell: not found")))
    assert ran.ending is Ending.DONE, ran.told()
    assert results(ran, "f1") == [(Result.FAILED, "nobody was told: tell: not found")]


async def test_one_that_hangs_is_ended_and_the_run_goes_on(operation: Operation) -> None:
    operation.hosts.hanging.add("local")
    before = operation.clock.elapsed
    ran = await told(operation, Tells())
    assert ran.ending is Ending.DONE, ran.told()
    assert operation.clock.elapsed - before < 3 * NOTIFY_TIMEOUT


async def test_the_end_is_told_as_it_was_the_checks_included(operation: Operation) -> None:
    operation.fleet.add_worker("w2@web1")
    tells = Tells()
    ran = await told(operation, tells)
    assert ran.ending is Ending.STOPPED
    assert tells.told[-1][1]["CELERY_OPS_STATE"] == "stopped"
    assert "does not hold at the end" in tells.told[-1][1]["CELERY_OPS_SAYS"]


async def test_the_plan_says_who_will_be_told_and_runs_nothing(operation: Operation) -> None:
    tells = Tells()
    operation.hosts.programs["tell"] = tells
    plan = await operation.plan("tell")
    assert plan.steps[0].says == "notify, on this machine: tell to ops 1 workers"
    assert plan.at_end == ("notify, on this machine: tell the end", "check fleet.workers == 1")
    assert tells.told == []


# --- an executor that dies ------------------------------------------------------------------------


async def begun(directory: Path) -> tuple[Operation, Tells, Path]:
    operation = Operation(directory)
    operation.write_runbook("tell", RUNBOOK)
    operation.fleet.add_worker("w1@web1")
    operation.hosts.programs["tell"] = tells = Tells()
    return operation, tells, operation.write_down(await operation.plan("tell"))


@pytest.mark.parametrize("when", ["after", "before"])
async def test_nobody_is_told_twice_wherever_the_executor_dies(tmp_path: Path, when: str) -> None:
    line, perhaps = 2, 0
    while True:
        operation, tells, path = await begun(tmp_path / f"dies-{line}")
        if not await killed(operation, path, line, when) or has_ended(list(read(path))):
            break
        ran = await operation.take_up(path)
        assert ran.ending is Ending.DONE, ran.told()
        for step, words in (("1", ("to ops", "1 workers")), ("f1", ("the end",))):
            times = [argv for argv, _ in tells.told].count(words)
            is_unknown = (Result.SKIPPED, PERHAPS_TOLD) in results(ran, step)
            perhaps += is_unknown
            assert times == 1 or (is_unknown and times == 0), f"{when} line {line}: {ran.told()}"
        line += 1
    assert line > 8
    assert perhaps == 2, "each of the two was begun when it died once"


async def test_who_was_told_of_an_interruption_is_told_of_the_end_too(tmp_path: Path) -> None:
    operation, tells, path = await begun(tmp_path)

    async def abort_at_once() -> None:
        while operation.executor is None or not tells.told:
            await operation.clock.sleep(0.01)
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))
        operation.executor.brake.hear(Message(Word.ABORT, "ann@desk"))

    text = RUNBOOK.replace("check: fleet.online == 1", WAITS)
    operation.write_runbook("tell", text)
    path = operation.write_down(await operation.plan("tell"))
    interrupted = await operation.run_and(path, abort_at_once)
    assert interrupted.ending is Ending.INTERRUPTED, interrupted.told()
    operation.fleet.add_worker("w2@web1")
    resumed = await operation.take_up(path)
    states = [env["CELERY_OPS_STATE"] for argv, env in tells.told if argv == ("the end",)]
    assert states == ["interrupted", resumed.ending.value]
    assert [argv for argv, _ in tells.told].count(("to ops", "1 workers")) == 1
