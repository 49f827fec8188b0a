"""What is refused before anything is done, and how it is said: the real command, no fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_ops.cli.exit_codes import ExitCode
from tests.rig import free_port

if TYPE_CHECKING:
    from tests.cli.conftest import OpsCommand

PASSWORD = "hunter2"


def test_help_names_every_command_and_exit_code(ops: OpsCommand) -> None:
    done = ops("--help")
    assert done.code == 0
    for word in ("status", "runbook", "runs", "worker", "demo", "--read-only"):
        assert word in done.out
    assert all(f"  {code.value} " in done.out for code in ExitCode)


def test_without_a_broker_it_says_how_to_name_one(ops: OpsCommand) -> None:
    done = ops("status")
    assert done.code == 2
    assert "-b redis://HOST:6379/0" in done.err
    assert done.out == ""


@pytest.mark.parametrize("command", [("status",), ("worker", "drain", "w@h", "--yes")])
def test_a_broker_that_is_away_is_told_without_its_password(
    ops: OpsCommand, command: tuple[str, ...]
) -> None:
    port = free_port()
    done = ops("-b", f"redis://user:{PASSWORD}@127.0.0.1:{port}/0", *command)
    assert done.code == 69
    assert f"127.0.0.1:{port}" in done.err
    assert PASSWORD not in done.err + done.out
    assert not list(ops.home.rglob("*.jsonl"))


def test_two_ways_to_name_a_broker_are_one_too_many(ops: OpsCommand) -> None:
    done = ops("-b", "redis://h/0", "-c", "production", "status")
    assert done.code == 2
    assert "-c and -b" in done.err


def test_an_application_that_cannot_be_imported_is_no_bug_of_ours(ops: OpsCommand) -> None:
    (ops.home / "broken.py").write_text("raise ZeroDivisionError('in your code')\n")
    done = ops("-A", "broken", "status")
    assert done.code == 2
    assert "ZeroDivisionError: in your code" in done.err
    assert ops("-A", "nosuchmodule", "status").code == 2


def test_an_application_without_a_broker_says_so(ops: OpsCommand) -> None:
    (ops.home / "proj.py").write_text("from celery import Celery\napp = Celery('proj')\n")
    done = ops("-A", "proj", "status")
    assert done.code == 2
    assert "names no broker" in done.err


def test_a_bug_is_70_and_shows_nothing_but_its_kind(ops: OpsCommand) -> None:
    (ops.home / "proj.py").write_text(
        "from celery import Celery\n"
        "class App(Celery):\n"
        "    @property\n"
        "    def conf(self):\n"
        f"        password = {PASSWORD!r}\n"
        "        raise ZeroDivisionError('redis://:' + password + '@b')\n"
        "app = App('proj')\n"
    )
    done = ops("-A", "proj", "status")
    assert done.code == 70
    assert done.err.startswith("celery-ops: a bug of ours (ZeroDivisionError). The details are in")
    (log,) = (ops.state / "logs").iterdir()
    assert str(log) in done.err
    text = log.read_text()
    assert "ZeroDivisionError: redis://:***@b" in text


def test_all_problems_of_all_files_are_told_at_once(ops: OpsCommand) -> None:
    good = "name: good\nsummary: x\nrisk: low\nsteps:\n  - check: fleet.workers == 1\n"
    (ops.home / "good.yaml").write_text(good)
    (ops.home / "a.yaml").write_text("name: a\nsumary: x\nrisk: terrible\nsteps: []\n")
    (ops.home / "b.yaml").write_text("name: b\nname: c\n")
    done = ops("runbook", "check", "good.yaml", "a.yaml", "b.yaml")
    assert done.code == 2
    assert done.out == "good.yaml: ok\n"
    lines = done.err.splitlines()
    assert "a.yaml:2:1: unknown key 'sumary'" in done.err
    assert sum(line.startswith("a.yaml:") for line in lines) >= 2
    assert any(line.startswith("b.yaml:2:1:") for line in lines)


def test_files_that_are_right_are_0(ops: OpsCommand) -> None:
    (ops.home / "good.yaml").write_text(
        "name: good\nsummary: x\nrisk: low\nsteps:\n  - check: fleet.workers == 1\n"
    )
    assert ops("runbook", "check", "good.yaml").code == 0
    assert ops("runbook", "check", "missing.yaml").code == 2


def test_runbooks_tells_where_each_comes_from_and_which_is_broken(ops: OpsCommand) -> None:
    (ops.home / "celery-ops.yaml").write_text("contexts: {c: {broker: 'redis://h/0'}}\n")
    own = ops.home / "runbooks"
    own.mkdir()
    (own / "mine.yaml").write_text("name: mine\nsummary: Mine.\nrisk: nonsense\nsteps: []\n")
    (own / "drain-worker.yaml").write_text(
        "name: drain-worker\nsummary: Ours.\nrisk: low\nsteps:\n  - check: fleet.workers == 1\n"
    )
    done = ops("runbooks", "--json")
    assert done.code == 0
    found = {one["name"]: one for one in done.document["runbooks"]}
    assert found["rolling-restart"]["origin"] == "shipped"
    assert found["drain-worker"]["origin"] == "user, hides the shipped one"
    assert found["drain-worker"]["summary"] == "Ours."
    assert found["mine"]["problems"]
    shown = ops("runbooks")
    assert "BROKEN" in shown.out
    assert "mine.yaml:3:" in shown.err
    assert ops("runbook", "mine", "--help").code == 2


def test_help_of_a_runbook_shows_its_parameters_with_their_defaults(ops: OpsCommand) -> None:
    done = ops("runbook", "rolling-restart", "--help")
    assert done.code == 0
    assert "Restart workers a few at a time" in done.out
    for words in ("-p batch=COUNT", "default 25%", "default 10m", "allow_gap", "--plan"):
        assert words in done.out


def test_a_mistyped_runbook_is_guessed(ops: OpsCommand) -> None:
    done = ops("runbook", "roling-restart")
    assert done.code == 2
    assert "did you mean rolling-restart?" in done.err


@pytest.mark.parametrize("word", ["new", "check"])
def test_reserved_words_are_no_runbooks(ops: OpsCommand, word: str) -> None:
    assert ops("runbook", word).code == 2


def test_a_queue_that_is_the_argument_is_not_named_again(ops: OpsCommand) -> None:
    done = ops("-b", "redis://127.0.0.1:1/0", "queue", "drain", "mail", "-p", "queue=other")
    assert done.code == 2
    assert "-p queue=… is given twice" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", "batch"),
        ("-p", "=1"),
        ("-p", "batch=1", "-p", "batch=2"),
        ("--wait", "10"),
        ("--nonsense",),
    ],
)
def test_options_that_make_no_sense_are_2(ops: OpsCommand, arguments: tuple[str, ...]) -> None:
    done = ops("-b", "redis://127.0.0.1:1/0", "runbook", "rolling-restart", *arguments)
    assert done.code == 2, done.err


def test_workers_are_named_once(ops: OpsCommand) -> None:
    broker = ("-b", "redis://127.0.0.1:1/0")
    assert ops(*broker, "worker", "drain", "w@h", "-p", "workers=x@h").code == 2
    assert ops(*broker, "worker", "drain").code == 2


def test_an_executor_without_its_secret_changes_nothing(ops: OpsCommand) -> None:
    done = ops("runs", "_execute", "20261120-030000-abcd")
    assert done.code == 2
    assert "stdin" in done.err
    assert ops("runs", "_execute", "../x", typed='{"broker": "redis://h/0"}\n').code == 2


def test_there_may_be_no_runs_yet(ops: OpsCommand) -> None:
    assert ops("runs").out == "no runs yet\n"
    assert ops("runs", "--json").document == {"runs": []}
    assert ops("runs", "show").code == 2
    assert ops("runs", "abort").code == 2


def test_a_demo_that_does_not_run_is_told_with_how_to_start_one(ops: OpsCommand) -> None:
    for arguments in (("-c", "demo", "status"), ("demo", "stop"), ("demo", "ledger")):
        done = ops(*arguments)
        assert done.code == 2
        assert "celery-ops demo" in done.err


def test_a_reader_that_leaves_early_is_no_error(ops: OpsCommand) -> None:
    process = ops.start("--help")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.wait(30)
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
