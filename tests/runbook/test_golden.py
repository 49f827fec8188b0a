"""Journals that were written once are read for ever; see `golden`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_ops.cli.main import cli
from celery_ops.runbook import journal
from celery_ops.runbook.desk import RunStore
from celery_ops.runbook.events import Ending, EventKind, RunState
from celery_ops.runbook.recall import Recall
from celery_ops.tui.progress import RunProgress, event_cell
from tests.runbook.golden import CASES, DIRECTORY, made
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

BOTH = ("w1@web1", "w2@web1")
# state, ending, done, failed, not started, what mends
EXPECTED: dict[str, tuple[RunState, Ending | None, tuple[tuple[str, ...], ...], tuple[str, ...]]]
EXPECTED = {
    "rolling-restart": (RunState.SUCCEEDED, Ending.DONE, (BOTH, (), ()), ()),
    "drain": (
        RunState.SUCCEEDED,
        Ending.DONE,
        (BOTH[:1], (), ()),
        ("celery-ops worker resume w1@web1",),
    ),
    "needs-human": (
        RunState.FAILED,
        Ending.NEEDS_HUMAN,
        ((), BOTH[:1], BOTH[1:]),
        ("celery-ops worker start w1@web1",),
    ),
    "aborted": (RunState.ABORTED, Ending.ABORTED, ((), (), BOTH), ()),
    "interrupted": (RunState.INTERRUPTED, None, ((), (), ()), ()),
    "old": (RunState.INTERRUPTED, None, ((), (), ()), ()),
    "resumed": (RunState.SUCCEEDED, Ending.DONE, (BOTH, (), ()), ()),
    "undone": (RunState.UNDONE, Ending.DONE, (BOTH[:1], (), ()), ()),
    "restore-orphans": (RunState.SUCCEEDED, Ending.DONE, ((), (), ()), ()),
    "asked": (RunState.UNDONE, Ending.UNDONE, ((), BOTH[:1], BOTH[1:]), ()),
}


def kept(name: str) -> Path:
    return DIRECTORY / f"{name}.jsonl"


def test_every_golden_journal_is_expected_to_say_something() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == EXPECTED.keys() == {*CASES, "old"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_journal_says_what_it_always_said(name: str) -> None:
    events = list(journal.read(kept(name)))
    state, ending, names, mends = EXPECTED[name]
    assert journal.state_of(events, held=False) is state
    summary = RunStore(DIRECTORY, VirtualClock()).summary(name)
    assert (summary.state, summary.operator, summary.context) == (state, "ann@desk", "test")
    last = events[-1].outcome
    if ending is None:
        assert events[-1].event is EventKind.INTENT
        return
    assert last is not None
    assert last.report is not None
    assert last.ending is ending
    report = last.report
    assert (report.done, report.failed, report.not_started) == names
    assert tuple(one.mend for one in (*report.left_drained, *report.owed)) == mends


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_journal_is_written_again_as_it_was(name: str) -> None:
    """Nothing that a line says is lost on the way. The old format said less, in other words."""
    for line in kept(name).read_bytes().splitlines():
        event = journal.read_line(line)
        again = json.loads(event.to_line())
        said = json.loads(line)
        assert again.keys() == said.keys()
        assert name == "old" or holds_all(again, said)


def holds_all(again: object, said: object) -> bool:
    """Whether nothing is missing or different; what a later version adds may stand beside it."""
    match said:
        case dict():
            return isinstance(again, dict) and all(
                key in again and holds_all(again[key], value) for key, value in said.items()
            )
        case list():
            return (
                isinstance(again, list)
                and len(again) == len(said)
                and all(holds_all(one, other) for one, other in zip(again, said, strict=True))
            )
        case _:
            return again == said


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_journal_is_shown_by_the_screen(name: str) -> None:
    progress = RunProgress(name)
    for event in journal.read(kept(name)):
        progress.add(event)
        assert event_cell(event).text
    progress.quiet = True
    assert progress.state is EXPECTED[name][0]
    assert Recall.of(progress.events).resumes


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_journal_is_shown_and_listed_by_the_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    runs = tmp_path / "celery-ops" / "runs"
    runs.mkdir(parents=True)
    shutil.copy(kept(name), runs)
    shown = CliRunner().invoke(cli, ["runs", "show", name])
    assert shown.exit_code == 0, shown.output
    assert EXPECTED[name][0].value in shown.output
    for mend in EXPECTED[name][3]:
        assert mend.replace("celery-ops", "celery-ops -b standin://broker") in shown.output
    as_json = CliRunner().invoke(cli, ["runs", "show", name, "--json"])
    assert len(as_json.stdout.splitlines()) == len(kept(name).read_text().splitlines())
    listed = CliRunner().invoke(cli, ["runs", "--json"])
    assert [one["state"] for one in json.loads(listed.stdout)["runs"]] == [EXPECTED[name][0]]


@pytest.mark.parametrize(
    ("name", "state", "starts"),
    [
        ("interrupted", RunState.SUCCEEDED, [2, 2]),
        # It does not tell how its worker was met: that one is put right, and no more is tried.
        ("old", RunState.FAILED, [2, 1]),
    ],
)
async def test_a_golden_journal_that_was_interrupted_is_gone_on_with(
    name: str, state: RunState, starts: list[int], tmp_path: Path
) -> None:
    operation, path = await made(tmp_path, CASES["interrupted"])
    shutil.copy(kept(name), path)
    ran = await operation.take_up(path)
    assert ran.end.state is state, ran.told()
    assert ran.end.report is not None
    assert ran.end.report.owed == ()
    assert await operation.broker.taken() == ()
    services = [one.service for one in operation.fleet.workers]
    assert [one.starts for one in services if one is not None] == starts
    assert [tuple(one.consuming) for one in operation.fleet.workers] == [("mail",), ("mail",)]
