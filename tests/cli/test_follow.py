"""Following journals to their end, and what the exit code says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker import connect
from celery_ops.cli.follow import Follower
from celery_ops.cli.show_run import event_line
from celery_ops.config.contexts import only_broker
from celery_ops.fleet.clock import SystemClock
from celery_ops.model import Holder, TakenRecord
from celery_ops.runbook import journal
from celery_ops.runbook.desk import Runs, RunStore
from celery_ops.runbook.events import Ending, EventKind, Outcome, Owed, Report, Result, RunState
from celery_ops.runbook.journal import Event, Journal
from tests.runbook.plans import AT, a_plan
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

    from celery_ops.config.contexts import Context
    from tests.rig.redis import RedisServer

RUN = a_plan().run


class Lab:
    """A journal that nobody executes any more, and the command that follows it."""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock()
        self.context: Context | None = None
        self.store = RunStore(directory, self.clock)
        where = replace(a_plan().where, config="/etc/celery-ops.yaml")
        journal.create(self.store.path(RUN), replace(a_plan(), where=where), self.clock)
        self.journal = Journal(self.store.path(RUN), self.clock)
        self.journal.append(EventKind.STARTED)

    def end(self, ending: Ending, report: Report | None = None) -> None:
        state = RunState.SUCCEEDED if ending is Ending.DONE else RunState.FAILED
        outcome = Outcome(Result.DONE, "that was it", state, ending, report or Report())
        self.journal.append(EventKind.ENDED, outcome=outcome)

    async def follow(self, *, as_json: bool = False) -> int:
        self.journal.close()
        runs = Runs(self.store, clock=self.clock, operator="ann@desk")
        return await Follower(
            runs, RUN, as_json=as_json, steers=True, context=self.context
        ).follow()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "runs")


async def test_a_done_run_is_told_and_is_0(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.end(Ending.DONE, Report(done=("worker1@web1",)))
    assert await lab.follow() == 0
    out = capsys.readouterr().out
    assert f"{RUN} succeeded: that was it" in out
    assert "  done: worker1@web1" in out


async def test_json_is_the_journal_and_people_are_told_on_stderr(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.end(Ending.STOPPED, Report(failed=("worker1@web1",)))
    assert await lab.follow(as_json=True) == 1
    said = capsys.readouterr()
    assert said.out.encode() == lab.store.path(RUN).read_bytes()
    assert [json.loads(line)["event"] for line in said.out.splitlines()] == [
        "planned", "started", "ended",
    ]  # fmt: skip
    assert "failed: worker1@web1" in said.err


async def test_what_is_left_is_told_with_the_command_that_mends_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    owed = Owed("worker1@web1 is drained", "celery-ops worker resume worker1@web1")
    lab.end(Ending.NEEDS_HUMAN, Report(owed=(owed,)))
    assert await lab.follow() == 4
    assert "celery-ops -c production worker resume worker1@web1" in capsys.readouterr().out


async def test_a_run_that_broke_off_before_any_effect_is_9(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.store.log(RUN).write_text("first line\nImportError: \x1b[31mof redis://:hunter2@b\n")
    assert await lab.follow() == 9
    said = capsys.readouterr().err
    assert "ImportError" in said
    assert "hunter2" not in said
    assert "\x1b" not in said


async def test_a_run_that_broke_off_after_an_effect_needs_a_human_if_nobody_can_tell(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.journal.append(EventKind.INTENT, step="2.1", target="worker1@web1", intent="drain")
    assert await lab.follow() == 4
    assert "celery-ops status" in capsys.readouterr().err


async def test_a_run_that_broke_off_between_a_record_and_its_intent_is_not_said_to_be_harmless(
    lab: Lab, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.context = only_broker(redis_server.url())
    broker = await connect(lab.context.broker, {}, clock=SystemClock())
    try:
        fence = await broker.lease.acquire(Holder("ann@desk", RUN, "rolling-restart", AT))
        (worker,) = a_plan().targets
        queues = worker.queues or ()
        record = TakenRecord(
            "queues", worker.name, worker.incarnation, queues, None, RUN, "ann@desk", AT
        )
        await broker.take(record, fence=fence)
    finally:
        await broker.close()
    assert await lab.follow() == 4
    said = capsys.readouterr().err
    assert "worker resume worker1@web1" in said
    assert "Nothing had been changed" not in said


async def test_a_bug_in_the_executor_shows_where_its_log_is(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.store.log(RUN).write_text("celery-ops: a bug of ours (KeyError).\n")
    lab.end(Ending.BUG)
    assert await lab.follow() == 70
    assert str(lab.store.log(RUN)) in capsys.readouterr().err


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_of_event_is_one_line_of_text(kind: EventKind) -> None:
    outcome = Outcome(Result.FAILED, "said\x1b[2J\nand more")
    event = Event(7, AT, kind, step="2.1", target="w@\rh", intent="do", outcome=outcome)
    line = event_line(event)
    assert line.startswith("03:00:00  2.1 w@")
    assert not {"\x1b", "\n", "\r"} & set(line)


def test_a_failed_result_stands_out() -> None:
    outcome = Outcome(Result.FAILED, "not within 10m")
    assert "FAILED: not within 10m" in event_line(Event(7, AT, EventKind.RESULT, outcome=outcome))
