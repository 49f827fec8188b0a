"""The state of a run as a table, and of a journal that ends anywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from celery_ops import __version__
from celery_ops.cli.main import cli
from celery_ops.errors import JournalError
from celery_ops.runbook import journal
from celery_ops.runbook.desk import RunStore
from celery_ops.runbook.events import Ending, EventKind, Outcome, Result, RunState
from celery_ops.runbook.inbox import Inbox, Message, Word, following, send
from celery_ops.runbook.journal import GOING_ON, Event, Journal, state_of
from celery_ops.tui.progress import RunProgress
from tests.runbook.golden import DIRECTORY
from tests.runbook.plans import AT, a_plan
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

# --- every event in every state ------------------------------------------------------------------

S, K = RunState, EventKind
LEADS_TO = {
    K.STARTED: S.RUNNING, K.RESUMED: S.RUNNING, K.UNDOING: S.RUNNING, K.LEASED: S.RUNNING,
    K.CONTINUED: S.RUNNING, K.ANSWERED: S.RUNNING, K.BATCH: S.RUNNING, K.INTENT: S.RUNNING,
    K.ABORTING: S.RUNNING, K.WAITING: S.WAITING, K.PAUSED: S.PAUSED, K.ASKED: S.PAUSED,
    K.LEASE_LOST: S.PAUSED, K.STANDS: S.RUNNING,
}  # fmt: skip
CHANGES_NOTHING = {K.PLANNED, K.CONFIRMED, K.RESULT, K.PROGRESS}
WAYS_THERE = {
    S.PLANNED: (), S.WAITING: (K.WAITING,), S.RUNNING: (K.STARTED,), S.PAUSED: (K.PAUSED,),
}  # fmt: skip
ENDS = (
    S.SUCCEEDED, S.FAILED, S.UNDONE, S.UNDO_FAILED, S.ABORTED, S.INTERRUPTED,
)  # fmt: skip


def an_event(kind: EventKind, *, ends: RunState | None = None) -> Event:
    outcome = Outcome(Result.DONE, "", ends, Ending.DONE) if ends is not None else None
    return Event(1, AT, kind, outcome=outcome)


def in_state(state: RunState) -> list[Event]:
    """A journal that has got there."""
    planned = an_event(K.PLANNED)
    if state in ENDS:
        return [planned, an_event(K.STARTED), an_event(K.ENDED, ends=state)]
    return [planned, *map(an_event, WAYS_THERE[state])]


def test_the_table_speaks_of_every_event_and_every_state() -> None:
    assert {*LEADS_TO, *CHANGES_NOTHING, K.ENDED} == set(EventKind)
    assert {*WAYS_THERE, *ENDS} == set(RunState)
    assert {*WAYS_THERE} == GOING_ON


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not K.ENDED])
@pytest.mark.parametrize("state", RunState)
def test_an_event_leads_from_any_state_to_its_own(
    state: RunState, kind: EventKind, held: bool
) -> None:
    led_to = LEADS_TO.get(kind, state)
    expected = S.INTERRUPTED if led_to in GOING_ON and not held else led_to
    assert state_of([*in_state(state), an_event(kind)], held=held) is expected


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", RunState)
def test_an_end_says_its_state_itself(state: RunState, end: RunState, held: bool) -> None:
    assert state_of([*in_state(state), an_event(K.ENDED, ends=end)], held=held) is end


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
def test_a_run_that_nobody_took_up_yet_is_planned(held: bool) -> None:
    assert state_of(in_state(S.PLANNED), held=held) is S.PLANNED
    assert state_of([], held=held) is S.PLANNED


# --- a journal that ends anywhere ----------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command line finds its journals."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = tmp_path / "celery-ops" / "runs"
    directory.mkdir(parents=True)
    return directory


def invoked(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["runs", *arguments])
    return done.exit_code, done.output


async def followed(path: Path) -> RunProgress:
    """As the app's screen sees it."""
    progress = RunProgress(path.stem)
    async for event in journal.follow(path, VirtualClock()):
        progress.add(event)
    progress.quiet = True
    return progress


GARBAGE = (b"", b'{"v":1,"seq":', b"\x00" * 512, b"\xff\xfe", b'{"v":1}', b"[" * 100_000)


@pytest.mark.parametrize("name", ["resumed", "aborted", "undone"])
async def test_a_journal_that_ends_after_any_line_has_a_state_and_is_shown(
    runs: Path, name: str
) -> None:
    lines = (DIRECTORY / f"{name}.jsonl").read_bytes().splitlines(keepends=True)
    store = RunStore(runs, VirtualClock())
    path = store.path(name)
    for number in range(1, len(lines) + 1):
        whole = b"".join(lines[:number])
        events = [journal.read_line(line) for line in lines[:number]]
        expected = state_of(events, held=False)
        torn = lines[number][: len(lines[number]) // 2] if number < len(lines) else b""
        for rest in (*GARBAGE, torn, lines[number - 1].rstrip()):
            path.write_bytes(whole + rest)
            assert list(journal.read(path)) == events
            assert store.summary(name).state is expected
        if number % 5 == 0:
            assert (await followed(path)).events == events
            code, shown = invoked("show", name)
            assert code == 0
            assert expected.value in shown
            assert invoked("--json")[0] == 0
    assert expected is not S.INTERRUPTED


def test_a_whole_line_without_its_end_counts_for_no_reader(tmp_path: Path) -> None:
    """The executor that takes the run up cuts it off: what is read must be what is gone on from."""
    path = tmp_path / "run.jsonl"
    journal.create(path, a_plan(), VirtualClock())
    path.write_bytes(path.read_bytes() + replace(an_event(K.STARTED), seq=2).to_line().rstrip())
    before = list(journal.read(path))
    written = Journal(path, VirtualClock())
    written.append(K.STARTED)
    written.close()
    assert [event.seq for event in before] == [1]
    assert [event.seq for event in journal.read(path)] == [1, 2]


# --- what cannot be understood, and what can -----------------------------------------------------


def a_line(**changes: object) -> bytes:
    event = json.loads(replace(an_event(K.STARTED), seq=2).to_line())
    return json.dumps({**event, **changes}).encode() + b"\n"


BAD_LINES = pytest.mark.parametrize(
    ("line", "says"),
    [
        (a_line(event="teleported"), "'teleported'"),
        (a_line(v=2), "an event of format 2, and this reads 1"),
        (a_line(seq=3), "event 3 follows event 1"),
        (a_line(seq=1), "event 1 follows event 1"),
        (a_line(at="2026-11-20T03:00:00"), "its time has no zone"),
        (a_line(outcome={"result": "perhaps", "says": ""}), "'perhaps'"),
        (b'{"x":' + b"[" * 100_000 + b"\n", "recursion"),
        (b"\n", "not an event"),
        (b"\x00" * 512 + b"\n", "not an event"),
    ],
    ids=[
        "unknown-event", "newer-format", "missing", "doubled", "naive", "unknown-result", "deep",
        "empty-line", "zeros",
    ],
)  # fmt: skip


@BAD_LINES
async def test_what_cannot_be_understood_is_refused_with_its_line_and_what_helps(
    runs: Path, line: bytes, says: str
) -> None:
    path = runs / "run.jsonl"
    journal.create(path, a_plan("run"), VirtualClock())
    good = path.read_bytes()
    path.write_bytes(good + line)
    for read in (lambda: list(journal.read(path)), lambda: Journal(path, VirtualClock())):
        with pytest.raises(JournalError, match=r"run\.jsonl:2: ") as refused:
            read()
        assert says in refused.value.says
        assert "runs adopt" in (refused.value.fix or "")
    assert not journal.is_held(path)
    path.write_bytes(good)
    lines = journal.follow(path, VirtualClock())
    assert (await anext(lines)).seq == 1
    path.write_bytes(good + line)
    with pytest.raises(JournalError, match=r"run\.jsonl:2: "):
        await anext(lines)


@BAD_LINES
def test_commands_that_cannot_understand_a_journal_say_so(
    runs: Path, line: bytes, says: str
) -> None:
    path = runs / "run.jsonl"
    journal.create(path, a_plan("run"), VirtualClock())
    path.write_bytes(path.read_bytes() + line)
    for command, expected in (("show", 7), ("follow", 4), ("abort", 7)):
        code, told = invoked(command, "run")
        assert (code, "Traceback" in told) == (expected, False), told
        assert f"{path}:2: " in told
        assert says in told
        assert "celery-ops runs adopt" in told
    code, told = invoked()
    assert code == 0
    assert "the journal of run cannot be read" in told


def test_a_journal_of_another_version_says_which_one_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    written = Event(1, AT, K.PLANNED, plan=a_plan(), version="9.9")
    path.write_bytes(written.to_line() + a_line(event="teleported"))
    with pytest.raises(JournalError) as refused:
        list(journal.read(path))
    assert refused.value.says.endswith(f"(written by celery-ops 9.9, this is {__version__})")


def test_keys_of_a_version_to_come_are_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    journal.create(path, a_plan(), VirtualClock())
    planned = json.loads(path.read_bytes())
    planned["plan"]["mood"] = {"of": ["the", "moon"]}
    planned["plan"]["targets"][0]["colour"] = 3
    path.write_bytes(json.dumps(planned).encode() + b"\n" + a_line(weather="fine"))
    first, second = journal.read(path)
    assert first.plan == a_plan()
    assert second.event is K.STARTED


def test_an_empty_journal_is_no_run(runs: Path) -> None:
    (runs / "empty.jsonl").touch()
    for command in ("show", "follow", "resume", "undo"):
        code, told = invoked(command, "empty")
        assert code in {2, 7, 4, 9}, (command, told)
        assert "Traceback" not in told
    assert invoked()[0] == 0


def test_a_journal_that_vanishes_is_refused_and_no_bug(runs: Path) -> None:
    shutil.copy(DIRECTORY / "drain.jsonl", runs / "run.jsonl")
    reading = journal.read(runs / "run.jsonl")
    (runs / "run.jsonl").unlink()
    with pytest.raises(JournalError, match="cannot read"):
        next(reading)


# --- what is said to a run -----------------------------------------------------------------------


def test_what_is_no_message_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "run.inbox"
    inbox = Inbox(path)
    with path.open("ab") as file:
        file.write(
            b"[" * 100_000 + b'\n{"word":"abort","who":"\xff"}\n\n{"word":"sing","who":"x"}\n'
        )
    send(path, Message(Word.PAUSE, "ann@desk"))
    assert inbox.new() == (Message(Word.PAUSE, "ann@desk"),)


def test_a_run_whose_inbox_was_removed_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.inbox"
    inbox = Inbox(path)
    path.unlink()
    assert inbox.new() == ()
    assert not inbox.has_follower()
    with following(path):
        assert inbox.has_follower()
