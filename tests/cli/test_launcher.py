"""Executors as processes of their own, and what they are told."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from celery_ops.cli import launcher
from celery_ops.cli.execute import Told, context_of, execute, told_on_stdin
from celery_ops.cli.exit_codes import ExitCode
from celery_ops.cli.launcher import Launcher
from celery_ops.cli.passphrases import Passphrases
from celery_ops.config.contexts import Context, only_broker
from celery_ops.config.secret import Secret
from celery_ops.errors import JournalError, UsageError
from celery_ops.fleet.clock import SystemClock
from celery_ops.runbook import journal
from celery_ops.runbook.desk import RunStore
from celery_ops.runbook.events import EventKind, RunState
from celery_ops.runbook.journal import Journal
from tests.rig import wait_until
from tests.runbook.plans import a_plan

PASSWORD = "hunter2"
RUN = "20261120-030000-abcd"


@pytest.fixture
def context() -> Context:
    return replace(
        only_broker(f"redis://:{PASSWORD}@127.0.0.1:1/0"),
        broker_options={"global_keyprefix": "shop-"},
        control_exchange="shop",
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = tmp_path / "celery-ops" / "runs"
    directory.mkdir(parents=True)
    return RunStore(directory, SystemClock())


def test_nothing_secret_is_in_its_command_line_or_environment() -> None:
    command = launcher.command(RUN)
    assert command[1:] == ("-P", "-m", "celery_ops", "runs", "_execute", RUN)
    assert PASSWORD not in str(launcher.environment({"PATH": "/bin"}))


def test_a_checkout_is_found_from_anywhere() -> None:
    environment = launcher.environment({"PYTHONPATH": "/mine"})
    root, mine = environment["PYTHONPATH"].split(":")
    assert os.path.isfile(f"{root}/celery_ops/__main__.py")
    assert mine == "/mine"


@pytest.mark.rig
def test_it_lives_in_a_session_of_its_own_and_leaves_no_zombie(
    store: RunStore, context: Context
) -> None:
    Launcher(context, store, Passphrases()).launch(RUN)
    log = store.log(RUN)
    wait_until(lambda: "there is no run" in log.read_text(), what="the executor's last words")
    wait_until(_has_no_children_that_ended, what="the executor collected")
    assert log.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in log.read_text()


def test_a_run_that_cannot_be_started_says_so(store: RunStore, context: Context) -> None:
    store.log(RUN).mkdir()
    with pytest.raises(JournalError, match="cannot start the executor"):
        Launcher(context, store, Passphrases()).launch(RUN)


def test_an_executor_works_on_the_context_that_it_was_told(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _told(launcher.secrets_of(context, Passphrases()), monkeypatch)
    plan = a_plan()
    found = context_of(plan, told)
    assert found.broker == context.broker
    assert found.broker_options == context.broker_options
    assert found.control_exchange == "shop"
    assert found.services == plan.where.services
    assert found.name == "production"


async def test_an_executor_is_told_the_passphrases_that_were_typed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    async def ask(key: Path) -> Secret | None:
        asked.append(key)
        return None if "unknown" in key.name else Secret(PASSWORD)

    typed = Passphrases(ask)
    for key in (Path("/keys/id"), Path("/keys/unknown"), Path("/keys/id")):
        await typed(key)
    told = _told(launcher.secrets_of(context, typed), monkeypatch)
    assert asked == [Path("/keys/id"), Path("/keys/unknown")]
    assert told.passphrases == {Path("/keys/id"): Secret(PASSWORD)}
    assert PASSWORD not in repr(told)
    knows = Passphrases(known=told.passphrases)
    assert await knows(Path("/keys/id")) == Secret(PASSWORD)
    assert await knows(Path("/keys/unknown")) is None


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b'{"broker": 1}\n', b"\xff\n"])
def test_an_executor_that_is_told_nothing_refuses(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="stdin"):
        _told(line, monkeypatch)


@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
async def test_a_run_that_cannot_be_taken_up_says_what_it_may_have_left(
    store: RunStore, context: Context, *, undo: bool
) -> None:
    """No executor can be put together, for the runbook in its plan is none: its journal tells."""
    plan, clock = a_plan(RUN), SystemClock()
    journal.create(store.path(RUN), plan, clock)
    before = Journal(store.path(RUN), clock)
    before.append(EventKind.STARTED)
    (worker,) = plan.targets
    before.append(EventKind.INTENT, step="2.1", target=worker.name, verb="drain", worker=worker)
    before.close()
    assert await execute(RUN, Told(context.broker, {}, undo=undo)) is ExitCode.NEEDS_HUMAN
    end = list(journal.read(store.path(RUN)))[-1].outcome
    assert end is not None
    assert end.state is RunState.INTERRUPTED
    assert end.report is not None
    (owed,) = end.report.owed
    assert owed.mend == "celery-ops worker resume worker1@web1"


async def test_a_run_that_was_never_begun_left_nothing(store: RunStore, context: Context) -> None:
    journal.create(store.path(RUN), a_plan(RUN), SystemClock())
    assert await execute(RUN, Told(context.broker, {})) is ExitCode.REFUSED
    end = list(journal.read(store.path(RUN)))[-1].outcome
    assert end is not None
    assert end.state is RunState.FAILED


def test_what_was_told_is_not_shown() -> None:
    assert PASSWORD not in repr(Told(Secret(f"redis://:{PASSWORD}@b/0"), {}))


def _told(line: bytes, monkeypatch: pytest.MonkeyPatch) -> Told:
    reading, writing = os.pipe()
    os.write(writing, line)
    os.close(writing)
    with os.fdopen(reading) as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        return told_on_stdin()


def _has_no_children_that_ended() -> bool:
    """Children of this process that ended and were collected by nobody are state Z."""
    children = f"/proc/self/task/{os.getpid()}/children"
    with open(children, encoding="ascii") as listed:
        pids = listed.read().split()
    return not any(_state(pid) == "Z" for pid in pids)


def _state(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"
