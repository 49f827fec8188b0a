"""A fleet on a broker that can only be watched: it is shown, and what would change it is refused.

Except for what its supervisors can do alone.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.kombu_workers import KombuFleet, contents, on_files
from tests.rig.operator import Operators
from tests.rig.supervisord import Rig, supervisord
from tests.rig.workers import worker_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

NODE = "w1@rig"
PROGRAM = "files-worker"


class FilesUnderSupervisord:
    """One worker on files, as a service; and operators."""

    def __init__(self, fleet: KombuFleet, rig: Rig) -> None:
        self.fleet = fleet
        self.rig = rig
        self.config = fleet.folder / "celery-ops.yaml"
        service = f"host: local, supervisord: {PROGRAM}, worker: {NODE!r}"
        self.config.write_text(
            "contexts:\n"
            "  rig:\n"
            f"    broker: {json.dumps(fleet.url)}\n"
            f"    broker_options: {json.dumps(fleet.options)}\n"
            "    services:\n"
            f"      - {{{service}, server: {json.dumps(rig.server)}}}\n"
        )
        self._operators = Operators(())

    def operator(self, directory: Path, name: str, *options: str) -> Operator:
        return self._operators.hire(directory, name, "--config", str(self.config), *options)

    def dismiss(self) -> None:
        self._operators.dismiss()

    def leaks(self) -> list[str]:
        return self._operators.leaks()

    @property
    def folders(self) -> tuple[Path, Path]:
        return self.fleet.folder / "messages", self.fleet.folder / "control"

    def log(self) -> str:
        """What the worker has written, in all of its lives."""
        path = self.rig.folder / f"{PROGRAM}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def starts(self) -> int:
        return self.log().count(" ready.")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesUnderSupervisord]:
    files = on_files(tmp_path_factory.mktemp("files"))
    queues = ("--queues", "mail,celery", "--pool", "threads", "--concurrency", "1")
    environment = ",".join(f"{key}='{value}'" for key, value in files.environment().items())
    program = {
        "command": shlex.join(worker_command(NODE, *queues)),
        "directory": str(files.folder),
        "environment": environment,
        "startsecs": "0",  # running from the first look on
        "stopwaitsecs": "30",
    }
    keys = {key: value.replace("%", "%%") for key, value in program.items()}
    with supervisord({PROGRAM: keys}) as rig:
        made = FilesUnderSupervisord(files, rig)
        wait_until(lambda: made.starts() == 1, what="the worker")
        files.send("mail", 3)
        # One that runs, and another that was prefetched: more are not taken before the first ends.
        wait_until(lambda: made.log().count("received") == 2, what="held tasks")
        files.send("nobody", 2)
        yield made
    files.stop()


def test_it_is_shown_with_what_is_not_known(fleet: FilesUnderSupervisord, ann: Operator) -> None:
    before = contents(*fleet.folders)
    status = ann.status()
    (worker,) = status["workers"]
    assert (worker["name"], worker["state"], worker["active"]) == (NODE, "online", 1)
    assert set(worker["queues"]) == {"celery", "mail"}
    assert worker["service"]["state"] == "running"
    queues = {one["name"]: one for one in status["queues"]}
    waiting = sum(path.name.endswith(".mail.msg") for path in before)
    assert queues["mail"]["ready"] == waiting
    assert queues["mail"]["consumers"] == 1
    assert queues["nobody"]["ready"] == 2
    assert {one["unacked"] for one in queues.values()} == {None}
    assert any("What workers hold" in note for note in status["notes"])
    rules = {one["rule"]: one["subject"] for one in status["problems"]}
    assert rules["queue-without-consumer"] == "nobody"
    shown = ann.do("queue", "peek", "nobody")
    assert shown.out.count("rig.hold") == 2
    assert contents(*fleet.folders) == before


def test_what_would_change_it_is_refused(fleet: FilesUnderSupervisord, ann: Operator) -> None:
    before = contents(*fleet.folders)
    for words in (
        ("worker", "drain", NODE, "--yes"),
        ("worker", "restart", NODE, "--plan"),
        ("queue", "purge", "nobody", "--yes"),
        ("runbook", "restore-orphans", "--yes"),
    ):
        said = ann.do(*words)
        assert said.code == 7, said.all
        assert "neither a lease nor what a run has taken can be kept" in said.err
        assert "--emergency" in said.err
    assert ann.journals() == []
    assert contents(*fleet.folders) == before
    assert fleet.starts() == 1


def test_its_supervisor_stops_a_worker_in_an_emergency(
    fleet: FilesUnderSupervisord, ann: Operator
) -> None:
    fleet.fleet.release()
    wait_until(lambda: fleet.log().count("succeeded") == 3, what="no task that runs")
    said = ann.do("worker", "stop", NODE, "--emergency", "--yes")
    assert said.code == 0, said.all
    assert "EMERGENCY, without the broker: over filesystem:// celery-ops can only watch" in said.out
    assert "stopped: ended with exit code 0" in said.out
