"""Runs are steered from anywhere: by signals, from other terminals, and by other operators."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator

pytestmark = pytest.mark.rig

PROGRAMS = (Program("threads"), Program("other"))
RESTART = (
    *("runbook", "rolling-restart", "--yes", "-p", "hold=1s"),
    *("-p", "workers=threads@rig", "-p", "allow_gap=threads"),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


@pytest.fixture(autouse=True)
def busy(fleet: Operations, request: pytest.FixtureRequest) -> Iterator[str]:
    """A worker with a task that ends when the test does; afterwards all is as it was."""
    number = abs(hash(request.node.name)) % 10**9
    fleet.fleet.send(number, task="rig.hold", queue="threads")
    wait_until(lambda: number in fleet.fleet.starts(), what="a task that does not end")
    before = fleet.consumed_by("threads@rig")
    yield "threads@rig"
    fleet.fleet.release(number)
    wait_until(lambda: fleet.fleet.ends().get(number) == 1, what="the task ends")
    assert fleet.fleet.starts()[number] == 1
    assert fleet.consumed_by("threads@rig") == before
    assert fleet.nothing_is_taken()
    assert not fleet.redis.exists("celery-ops:lease")


def holder_of(ann: Operator) -> str:
    run: str = ann.status()["holder"]["run"]
    return run


def test_everybody_sees_who_runs_what_and_at_which_step(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*RESTART)
    ann.until_draining()
    run = ann.journals()[-1].stem
    wait_until(lambda: bob.status()["holder"]["step"] == "2.1: drain threads@rig", what="the step")
    refused = bob.do("worker", "drain", "other@rig", "--yes")
    assert refused.code == 6, refused.all
    for word in ("ann@", run, "rolling-restart", "now at step 2.1: drain threads@rig"):
        assert word in refused.err
    assert "now at step 2.1" in bob.do("status").out
    assert "now at step 2.1" in bob.do("runs", "--all").out
    waiting = bob.start(*RESTART, "--wait", "1m")
    bob.until(lambda event: event["event"] == "waiting" and run in event["outcome"]["says"], run)
    assert ann.do("runs", "abort").code == 0
    assert following.wait().code == 5
    bob.until(lambda event: event["event"] == "leased", "the lease, once it is free")
    waiting.interrupt()
    assert waiting.wait().code == 5
    assert fleet.nothing_is_taken()


def test_a_lease_is_broken_by_somebody_else_and_its_run_does_nothing_more(
    busy: str, fleet: Operations, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*RESTART)
    ann.until_draining()
    pid = fleet.pid("threads")
    run = holder_of(ann)
    asked = bob.do("runs", "break-lease")
    assert asked.code == 8, asked.all
    assert "ann@" in asked.err
    assert run in asked.err
    broken = bob.do("runs", "break-lease", "--yes")
    assert broken.code == 0, broken.all
    assert f"runs adopt {run}" in broken.err
    assert bob.status()["holder"] is None
    assert "Nobody holds the lease" in bob.do("runs", "break-lease", "--yes").err
    ann.do("runs", "abort")  # its next effect would be to give the queues back
    said = following.wait()
    assert said.code == 4, said.all
    assert "broken by bob@" in said.out
    assert f"worker resume {busy}" in said.out
    assert fleet.pid("threads") == pid
    everybodys = ann.do("runs", "--all", "--json").json["runs"]
    (noted,) = [one for one in everybodys if one["id"] == run]
    assert noted["lease_broken_by"].startswith("bob@")
    assert noted["state"] == "interrupted"
    assert "lease broken by bob@" in ann.do("runs", "--all").out
    adopted = bob.do("runs", "adopt", run, "--yes")
    assert adopted.code == 0, adopted.all


def test_thrice_abort_from_another_terminal_ends_at_once_and_it_can_be_resumed(
    fleet: Operations, ann: Operator, busy: str
) -> None:
    following = ann.start(*RESTART)
    ann.until_draining()
    os.kill(ann.executor(), signal.SIGSTOP)  # so that it hears all three at once
    for _ in range(3):
        assert ann.do("runs", "abort").code == 0
    os.kill(ann.executor(), signal.SIGCONT)
    said = following.wait()
    assert said.code == 4, said.all
    assert f"worker resume {busy}" in said.err
    assert ann.events()[-1]["event"] != "ended"
    assert ann.do("runs", "abort").code == 2, "nobody executes it any more"
    resumed = ann.start("runs", "resume")
    ann.until(lambda event: event["event"] == "resumed", "another executor")
    assert ann.do("runs", "abort").code == 0
    assert resumed.wait().code == 5
    assert fleet.nothing_is_taken()


def test_twice_abort_from_another_terminal_leaves_it_and_says_how_to_mend_it(
    ann: Operator, busy: str
) -> None:
    following = ann.start(*RESTART)
    ann.until_draining()
    os.kill(ann.executor(), signal.SIGSTOP)
    for _ in range(2):
        assert ann.do("runs", "abort").code == 0
    os.kill(ann.executor(), signal.SIGCONT)
    said = following.wait()
    assert said.code == 4, said.all
    assert f"worker resume {busy}" in said.out
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all


def test_sigterm_at_the_executor_aborts_in_order_and_sighup_changes_nothing(
    fleet: Operations, ann: Operator
) -> None:
    following = ann.start(*RESTART)
    ann.until_draining()
    os.kill(ann.executor(), signal.SIGHUP)
    assert ann.do("runs", "pause").code == 0
    assert ann.do("runs", "continue").code == 0
    assert ann.do("runs", "--json").json["runs"][0]["state"] == "running"
    os.kill(ann.executor(), signal.SIGTERM)
    said = following.wait()
    assert said.code == 5, said.all
    assert "aborted by SIGTERM" in said.out
    assert fleet.nothing_is_taken()
