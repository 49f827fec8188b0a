"""No password of a broker's URL is shown by anything, however it goes wrong.

The fleet's password has to be quoted in a URL and is not ASCII. After each test of this directory
`conftest` looks for what is left of it in every file that the commands wrote or printed; here are
the ways to go wrong that show errors, tracebacks and command lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import PIECES, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.promises.conftest import MakeOperator
    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

RESTART = ("runbook", "rolling-restart", "--yes", "-p", "hold=1s", "-p", "workers=w1@rig")
WITH_GAP = (*RESTART, "-p", "allow_gap=w1")

A_BUG = """
import celery_ops.fleet.survey as survey

asked = survey.Surveyor.refresh


async def refresh(self, **how):
    url = {url!r}
    snapshot = await asked(self, **how)
    if {when}:
        raise RuntimeError("cannot make sense of " + url)
    return snapshot


survey.Surveyor.refresh = refresh
"""
"""Something of ours that fails with the URL in its message, and in a local variable."""


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """A fleet for each test: some take its broker away."""
    with operations(tmp_path_factory.mktemp("fleet"), Program("w1"), Program("w2")) as made:
        yield made


def has_secret(text: str | bytes) -> bool:
    content = text if isinstance(text, bytes) else text.encode()
    return any(piece in content for piece in PIECES)


def bug(directory: Path, fleet: Operations, *, when: str) -> dict[str, str]:
    """The environment in which the bug is there: Python imports `sitecustomize` at its start."""
    (directory / "sitecustomize.py").write_text(A_BUG.format(url=fleet.url, when=when))
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": f"{directory}:{root}"}


def test_what_goes_well_shows_no_password(fleet: Operations, ann: Operator) -> None:
    for words in (
        ("status",), ("status", "--json"), ("workers",), ("queues",), ("runbooks",),
        ("runbook", "rolling-restart", "--plan", "--json"), (*WITH_GAP, "--json"),
        ("runs", "show"), ("runs", "show", "--json"), ("runs",),
    ):  # fmt: skip
        said = ann.do(*words)
        assert said.code in {0, 7}, said.all
    assert "redis://ops:***@" in ann.do("status").out
    assert fleet.leaks() == []


def test_an_executor_has_no_secret_in_its_arguments_and_environment(
    fleet: Operations, operator: MakeOperator
) -> None:
    ann = operator("ann", "-b", fleet.url)
    fleet.fleet.send(1, task="rig.hold", queue="w1")
    wait_until(lambda: 1 in fleet.fleet.starts(), what="a task that does not end")
    drain = ("worker", "drain", "w1@rig", "--yes", "-p", "allow_gap=w1", "-p", "keep_available=1")
    following = ann.start(*drain)
    ann.until_draining()
    executor = Path(f"/proc/{ann.executor()}")
    for shown in ("cmdline", "environ"):
        assert not has_secret((executor / shown).read_bytes())
    assert b"_execute" in (executor / "cmdline").read_bytes()
    following.interrupt()
    assert following.wait().code == 5


def test_a_wrong_password_is_told_without_either(fleet: Operations, operator: MakeOperator) -> None:
    ann = operator("ann", "-b", fleet.url.replace("s3cr3t", "s3cr3t-s3cr3t"))
    for words in (("status",), ("status", "--json"), RESTART, ("worker", "drain", "w1@rig")):
        said = ann.do(*words)
        assert said.code == 69, said.all
        assert "refuses the user name or the password" in said.err
        assert said.out == ""


@pytest.mark.parametrize(
    "url", ["redis://ops:{}@{}:6379/0", "redis://ops:{}@127.0.0.1:port/0", "redys://ops:{}@x/0"]
)
def test_a_broken_url_is_told_without_its_password(
    fleet: Operations, operator: MakeOperator, url: str
) -> None:
    ann = operator("ann", "-b", url.format("s3cr3t%2F", "a" * 70 + ".example"))
    said = ann.do("status")
    assert said.code in {2, 69}, said.all
    assert fleet.leaks() == []


def test_a_broken_runbook_is_told_with_no_secret(fleet: Operations, ann: Operator) -> None:
    broken = fleet.folder / "runbooks" / "broken.yaml"
    broken.parent.mkdir()
    broken.write_text("name: broken\nsteps:\n  - {drain: w1@rig, timeout: [}\n")
    assert ann.do("runbook", "broken", "--yes").code == 2


def test_a_broker_that_goes_away_in_a_run_is_told_without_its_password(
    fleet: Operations, ann: Operator
) -> None:
    fleet.fleet.send(1, task="rig.hold", queue="w1")
    wait_until(lambda: 1 in fleet.fleet.starts(), what="a task that does not end")
    following = ann.start(*WITH_GAP, "-p", "drain_timeout=2m")
    ann.until_draining()
    fleet.server.stop()
    ann.until(
        lambda event: f"127.0.0.1:{fleet.server.port}" in event.get("outcome", {}).get("says", ""),
        "the broker is missed",
    )
    for _ in range(3):
        ann.do("runs", "abort")
    assert following.wait().code in {4, 9}
    assert ann.do("status").code == 69


def test_a_bug_of_ours_names_a_log_and_neither_shows_the_password(
    fleet: Operations, ann: Operator, tmp_path: Path
) -> None:
    said = ann.do("status", **bug(tmp_path, fleet, when="True"))
    assert said.code == 70, said.all
    assert "RuntimeError" in said.err
    assert "Traceback" not in said.err
    (log,) = [path for path in ann.written() if path.name.startswith("bug-")]
    assert str(log) in said.err
    assert "cannot make sense of redis://ops:***@" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_bug_of_the_executors_ends_the_run_as_one(
    fleet: Operations, ann: Operator, tmp_path: Path
) -> None:
    executes = "'_execute' in __import__('sys').argv"
    said = ann.do(*WITH_GAP, **bug(tmp_path, fleet, when=executes))
    assert said.code == 70, said.all
    assert "bug of ours (RuntimeError). The details are in" in said.err
    (run,) = ann.do("runs", "--json").json["runs"]
    assert run["state"] == "failed"
    assert fleet.nothing_is_taken()


def test_a_bug_in_the_middle_of_a_run_ends_it_and_says_what_is_owed(
    fleet: Operations, ann: Operator, tmp_path: Path
) -> None:
    drained = "any(record.kind == 'queues' for record in snapshot.taken)"
    said = ann.do(*WITH_GAP, **bug(tmp_path, fleet, when=drained))
    assert said.code == 4, said.all
    assert "bug of ours (RuntimeError). The details are in" in said.err
    end = ann.events()[-1]
    assert end["event"] == "ended"
    assert "RuntimeError" in json.dumps(end)
    assert "worker resume w1@rig" in said.all
    resumed = ann.do("worker", "resume", "w1@rig", "--yes", "--wait", "1m")
    assert resumed.code == 0, resumed.all
    assert fleet.consumes_all("w1", "w2")
