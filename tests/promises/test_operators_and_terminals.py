"""Whoever looks at a run may go away: a terminal that is closed, an operator whose machine is gone.

And while one runs, the others wait, are told who it is, and can take over.
"""

from __future__ import annotations

import os
import shutil
import signal
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig import wait_until
from tests.rig.operations import COMMON, Operations, Program, operations
from tests.rig.tmux import tmux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig.operator import Operator
    from tests.rig.tmux import Tmux

pytestmark = pytest.mark.rig

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    programs = [Program(name, queues=(COMMON,)) for name in NAMES]
    with operations(tmp_path_factory.mktemp("fleet"), *programs) as made:
        yield made


class Held:
    """A task that does not end before it is let go, and the worker that it is in."""

    def __init__(self, fleet: Operations, number: int) -> None:
        self._fleet = fleet
        self._number = number
        fleet.fleet.send(number, task="rig.hold", queue=COMMON)
        wait_until(lambda: number in fleet.fleet.starts(), what="a task that does not end")
        active = {answer.node: answer.value for answer in fleet.poller.ask("active")}
        (self.node,) = (node for node, tasks in active.items() if tasks)
        self.program = self.node.partition("@")[0]

    def let_go(self) -> None:
        self._fleet.fleet.release(self._number)

    def ended_once(self) -> bool:
        counts = (self._fleet.fleet.starts(), self._fleet.fleet.ends())
        return [count.get(self._number) for count in counts] == [1, 1]


@pytest.fixture
def held(fleet: Operations, request: pytest.FixtureRequest) -> Iterator[Held]:
    """In the end it ran once, nothing is taken, and all consume as before."""
    made = Held(fleet, zlib.crc32(request.node.name.encode()))
    yield made
    made.let_go()
    wait_until(made.ended_once, what="the task ends")
    assert fleet.nothing_is_taken()
    assert not fleet.redis.exists("celery-ops:lease")
    wait_until(lambda: fleet.consumes_all(*NAMES), what="all queues are consumed again")


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Tmux]:
    with tmux(tmp_path) as made:
        yield made


# --- a terminal that is closed --------------------------------------------------------------------


def hung_up(window: Tmux) -> None:
    os.kill(window.pid(), signal.SIGHUP)


CLOSINGS: dict[str, Callable[[Tmux], None]] = {
    "hang-up": hung_up,
    "kill-pane": lambda window: window.kill_pane(),
    "kill-server": lambda window: window.kill(),
}


def test_a_run_started_in_the_app_goes_on_without_it_and_is_followed_when_it_is_opened_again(
    fleet: Operations, held: Held, ann: Operator, window: Tmux
) -> None:
    pid = fleet.pid(held.program)
    open_app(ann, window)
    window.keys("2")
    window.wait_for("[2 Workers]")
    window.keys(*["Down"] * NAMES.index(held.program), "R")
    window.wait_for(f"batch 1 (canary): {held.node}")
    window.keys("Enter")
    window.wait_for("Y yes")
    window.keys("Y")
    wait_until(lambda: is_draining(ann), what="a worker that drains")
    run = ann.journals()[-1].stem
    for closes in CLOSINGS.values():
        app = window.pid()
        closes(window)
        wait_until(partial(is_gone, app), what="the app is gone")
        assert ann.do("runs", "--json").json["runs"][0]["state"] == "running"
        open_app(ann, window)
        window.keys("8")
        window.wait_for(run)
        window.keys("Enter")
        window.wait_for("running")
        window.wait_for(held.node)
    held.let_go()
    window.wait_for("succeeded")
    assert ann.do("runs", "--json").json["runs"][0]["state"] == "succeeded"
    assert fleet.pid(held.program) not in {0, pid}


def is_draining(ann: Operator) -> bool:
    return any("1 active" in event.get("outcome", {}).get("says", "") for event in ann.events())


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def open_app(ann: Operator, window: Tmux) -> None:
    window.open(ann.argv(), cwd=ann.home, env=ann.environment())
    window.wait_for("workers   3")


# --- several operators ----------------------------------------------------------------------------


def test_a_second_operator_is_refused_waits_and_gives_back_what_the_first_left(
    held: Held, ann: Operator, bob: Operator
) -> None:
    following = ann.start("worker", "restart", held.node, "--yes")
    ann.until_draining()
    run, executor = ann.journals()[-1].stem, ann.executor()
    other = next(name for name in NAMES if name != held.program)
    drain = ("worker", "drain", f"{other}@rig", "--yes")

    refused = bob.do(*drain)
    assert refused.code == 6, refused.all
    for word in ("ann@", "rolling-restart", run, "--wait"):
        assert word in refused.err
    waiting = bob.start(*drain, "--wait", "2m")
    told = bob.until(lambda event: event["event"] == "waiting", "that he waits")
    assert "ann@" in told["outcome"]["says"]

    shutil.rmtree(ann.home)
    os.kill(executor, signal.SIGKILL)
    said = following.wait()
    assert said.code == 4, said.all
    assert f"{run}.jsonl: No such file or directory" in said.err
    assert f"celery-ops runs adopt {run}" in said.err
    waited = waiting.wait()
    assert waited.code == 0, waited.all

    owed = {one["worker"]: one for one in bob.status()["taken"]}[held.node]
    assert owed["run"] == run
    assert owed["operator"].startswith("ann@")
    noted = {one["id"]: one for one in bob.do("runs", "--all", "--json").json["runs"]}[run]
    assert (noted["state"], noted["operator"]) == ("interrupted", owed["operator"])
    adopted = bob.do("runs", "adopt", run, "--yes")
    assert adopted.code == 0, adopted.all
    assert [one["worker"] for one in bob.status()["taken"]] == [f"{other}@rig"]
    assert bob.do("worker", "resume", f"{other}@rig", "--yes").code == 0


def test_a_run_whose_journal_was_deleted_comes_to_its_end(
    fleet: Operations, held: Held, ann: Operator, bob: Operator
) -> None:
    pid = fleet.pid(held.program)
    following = ann.start("worker", "restart", held.node, "--yes", "-p", "hold=1s")
    ann.until_draining()
    run = ann.journals()[-1].stem
    shutil.rmtree(ann.home)
    said = following.wait()
    assert said.code == 4, said.all
    assert "celery-ops runs --all tells" in said.err

    def ended() -> bool:
        noted = {one["id"]: one for one in bob.do("runs", "--all", "--json").json["runs"]}[run]
        return bool(noted["state"] != "running")

    assert not ended()
    held.let_go()
    wait_until(ended, what="its end")
    assert fleet.pid(held.program) not in {0, pid}
