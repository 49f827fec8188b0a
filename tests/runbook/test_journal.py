"""The journal: durable, tolerant of a torn line and of nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from celery_ops.errors import JournalError
from celery_ops.runbook import journal
from celery_ops.runbook.desk import RunStore
from celery_ops.runbook.events import Ending, EventKind, Outcome, Report, Result, RunState
from celery_ops.runbook.inbox import Inbox, Message, Word, following, send
from celery_ops.runbook.journal import Journal
from tests.rig.missing import missing
from tests.runbook.plans import a_plan
from tests.standin.clock import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path, clock: VirtualClock) -> Path:
    path = tmp_path / "runs" / "20261120-030000-abcd.jsonl"
    journal.create(path, a_plan(), clock)
    return path


def test_the_first_line_is_the_plan_as_it_was(path: Path) -> None:
    (event,) = journal.read(path)
    assert event.event is EventKind.PLANNED
    assert event.plan == a_plan()
    assert path.stat().st_mode & 0o777 == 0o600


def test_events_come_back_in_order_and_numbered(path: Path, clock: VirtualClock) -> None:
    written = Journal(path, clock)
    written.append(EventKind.STARTED)
    written.append(EventKind.INTENT, step="2.1", target="a@b", intent="cancel", undo="add")
    written.append(EventKind.RESULT, step="2.1", outcome=Outcome(Result.DONE, "drained"))
    written.close()
    events = list(journal.read(path))
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert events[2].undo == "add"
    assert events[3].outcome == Outcome(Result.DONE, "drained")


def test_half_a_surrogate_in_a_name_does_not_end_a_run(path: Path, clock: VirtualClock) -> None:
    written = Journal(path, clock)
    written.append(EventKind.RESULT, target="w\ud800@web1", outcome=Outcome(Result.DONE, "\udfff"))
    written.close()
    assert [event.target for event in journal.read(path)] == [None, "w?@web1"]


def test_a_torn_last_line_is_left_out_and_written_over(path: Path, clock: VirtualClock) -> None:
    with path.open("ab") as file:
        file.write(b'{"v":1,"seq":2,"at":"2026-11-20T03:00:00Z","event":"star')
    assert [event.seq for event in journal.read(path)] == [1]
    written = Journal(path, clock)
    written.append(EventKind.STARTED)
    written.close()
    assert [event.event for event in journal.read(path)] == [EventKind.PLANNED, EventKind.STARTED]


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b'{"v":1,"seq":2,"at":"2026-11-20T03:00:00Z","event":"invented"}\n',
        b'{"v":1,"seq":"two","at":"2026-11-20T03:00:00Z","event":"started"}\n',
        b"\xff\xfe\n",
    ],
    ids=["not-json", "unknown-event", "wrong-type", "not-utf8"],
)
def test_anything_else_that_cannot_be_understood_is_an_error_with_its_line(
    path: Path, line: bytes
) -> None:
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(JournalError, match=r"\.jsonl:2: "):
        list(journal.read(path))


def test_two_executors_cannot_hold_one_run(path: Path, clock: VirtualClock) -> None:
    first = Journal(path, clock)
    assert journal.is_held(path)
    with pytest.raises(JournalError, match="another process executes"):
        Journal(path, clock)
    first.close()
    assert not journal.is_held(path)


def test_a_full_disk_leaves_room_for_what_must_still_be_said(tmp_path: Path) -> None:
    """On a real file system of 400 KiB, in a namespace of its own."""
    if os.geteuid() != 0:
        missing("root, to mount a small file system")
    script = f"""
mount -t tmpfs -o size=400k tmpfs {tmp_path}
{sys.executable} - <<'PY'
from pathlib import Path
from celery_ops.runbook import journal
from celery_ops.runbook.events import EventKind
from tests.runbook.plans import a_plan
from tests.standin.clock import VirtualClock
path = Path({str(tmp_path)!r}) / "run.jsonl"
clock = VirtualClock()
journal.create(path, a_plan(), clock)
written = journal.Journal(path, clock)
filler = (path.parent / "filler").open("wb")
try:
    while True:
        filler.write(b"x" * 4096)
        filler.flush()
except OSError:
    pass
for number in range(40):
    written.append(EventKind.RESULT, target="w" * 1000, intent=str(number))
written.close()
print(len(list(journal.read(path))))
PY
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "41", done.stderr


ENDED = Outcome(Result.DONE, "fine", RunState.SUCCEEDED, Ending.DONE, Report())


async def test_followers_see_the_past_and_the_future_and_the_end(
    path: Path, clock: VirtualClock
) -> None:
    written = Journal(path, clock)
    written.append(EventKind.STARTED)
    seen = []
    async for event in journal.follow(path, clock):
        seen.append(event.event)
        if event.event is EventKind.STARTED:
            written.append(EventKind.LEASED)
        if event.event is EventKind.LEASED:
            written.append(EventKind.ENDED, outcome=ENDED)
    assert seen == [EventKind.PLANNED, EventKind.STARTED, EventKind.LEASED, EventKind.ENDED]
    written.close()


async def test_following_an_interrupted_run_ends(path: Path, clock: VirtualClock) -> None:
    written = Journal(path, clock)
    written.append(EventKind.STARTED)
    written.close()
    assert [event.event async for event in journal.follow(path, clock)][-1] is EventKind.STARTED


def test_a_run_hears_what_is_said_to_it_once(tmp_path: Path) -> None:
    path = tmp_path / "run.inbox"
    inbox = Inbox(path)
    assert not inbox.has_follower()
    send(path, Message(Word.ABORT, "ann@desk"))
    with path.open("ab") as file:
        file.write(b"rubbish\n" + json.dumps({"word": "pau"}).encode())
    assert inbox.new() == (Message(Word.ABORT, "ann@desk"),)
    assert inbox.new() == ()
    with following(path):
        assert inbox.has_follower()
    assert not inbox.has_follower()


def test_runs_are_found_by_beginning_and_by_end(path: Path, clock: VirtualClock) -> None:
    store = RunStore(path.parent, clock)
    assert store.find(None) == store.find("20261120") == store.find("abcd") == path.stem
    assert store.summary(path.stem).runbook == "rolling-restart"
    assert len({store.new_id() for _ in range(50)}) > 1
