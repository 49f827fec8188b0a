"""A crash leaves nothing half-done for good: whoever dies, it is seen, and somebody can mend it."""

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

PROGRAMS = (Program("threads"), Program("prefork", pool="prefork"), Program("other"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with operations(tmp_path_factory.mktemp("fleet"), *PROGRAMS) as made:
        yield made


@pytest.fixture
def unchanged(fleet: Operations) -> Iterator[None]:
    """In the end every worker consumes what it did, to the last argument, and nothing is taken."""
    everybody = {program.node_name for program in PROGRAMS}
    wait_until(lambda: fleet.poller.consuming().keys() == everybody, what="all workers answer")
    before = {name: fleet.consumed_by(name) for name in everybody}
    yield
    assert {name: fleet.consumed_by(name) for name in everybody} == before
    assert fleet.nothing_is_taken()
    assert not fleet.redis.exists("celery-ops:lease")


@pytest.fixture
def busy(fleet: Operations, request: pytest.FixtureRequest) -> Iterator[str]:
    """A worker with a task that ends when the test does."""
    number = abs(hash(request.node.name)) % 10**9
    fleet.fleet.send(number, task="rig.hold", queue="threads")
    wait_until(lambda: number in fleet.fleet.starts(), what="a task that does not end")
    yield "threads@rig"
    fleet.fleet.release(number)
    wait_until(lambda: fleet.fleet.ends().get(number) == 1, what="the task ends")
    assert fleet.fleet.starts()[number] == 1


def restart(name: str, *words: str) -> tuple[str, ...]:
    given = ("-p", f"workers={name}@rig", "-p", f"allow_gap={name}", "-p", "hold=1s")
    return ("runbook", "rolling-restart", "--yes", *given, *words)


def kill_executor(ann: Operator) -> None:
    os.kill(ann.executor(), signal.SIGKILL)


@pytest.mark.usefixtures("unchanged")
def test_what_a_killed_run_took_is_seen_by_everybody_and_given_back_by_somebody_else(
    fleet: Operations, busy: str, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*restart("threads"))
    ann.until_draining()
    kill_executor(ann)
    fleet.redis.persist("celery-ops:lease")  # It must not expire while a slow machine looks.
    said = following.wait()
    assert said.code == 4, said.all
    assert "interrupted" in said.err
    assert f"worker resume {busy}" in said.err
    (run,) = ann.do("runs", "--json").json["runs"]
    assert run["state"] == "interrupted"

    (taken,) = bob.status()["taken"]
    assert (taken["kind"], taken["worker"], taken["run"]) == ("queues", busy, run["id"])
    assert taken["operator"].startswith("ann@")
    assert taken["queues"] == ["common", "threads"]
    workers = {one["name"]: one for one in bob.do("workers", "--json").json["workers"]}
    assert workers[busy]["queues"] == []
    assert workers[busy]["state"] == "draining"
    assert workers[busy]["taken"]["run"] == run["id"]
    assert workers["other@rig"]["taken"] is None
    assert run["id"] in bob.do("status").out

    too_early = bob.do("runbook", "resume-worker", "--yes")
    assert too_early.code == 6, too_early.all
    assert "ann@" in too_early.err
    fleet.redis.expire("celery-ops:lease", 5)
    resumed = bob.do("runbook", "resume-worker", "--yes", "--wait", "1m")
    assert resumed.code == 0, resumed.all
    assert fleet.nothing_is_taken()
    assert bob.status()["taken"] == []


@pytest.mark.usefixtures("unchanged")
def test_a_run_killed_between_stop_and_start_is_mended_by_the_command_that_it_names(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    following = ann.start(*restart("prefork"))
    ann.until(
        lambda event: event["event"] == "progress" and "stopping" in event["outcome"]["says"],
        "a worker that stops",
    )
    kill_executor(ann)
    said = following.wait()
    assert said.code == 4, said.all
    assert "worker start prefork@rig" in said.err
    wait_until(lambda: fleet.pid("prefork") == 0, what="the worker has stopped")

    by_kind = {one["kind"]: one for one in bob.status()["taken"]}
    assert by_kind["service"]["worker"] == "prefork@rig"
    assert by_kind["service"]["run"] == ann.journals()[-1].stem
    fleet.redis.delete("celery-ops:lease")  # That it expires by itself is another test's matter.
    mended = bob.do("worker", "start", "prefork@rig", "--yes")
    assert mended.code == 0, mended.all
    assert fleet.pid("prefork") > 0


@pytest.mark.usefixtures("unchanged")
def test_a_run_goes_on_without_those_who_follow_it(fleet: Operations, ann: Operator) -> None:
    pid = fleet.pid("threads")
    following = ann.start(*restart("threads", "--json"))
    ann.until(lambda event: event["event"] == "intent", "a drain")
    following.process.send_signal(signal.SIGHUP)
    ann.until(lambda event: event["event"] == "result", "a drained worker")
    assert following.process.poll() is None, "a hang-up is not obeyed"
    following.process.kill()
    following.wait()
    again = ann.do("runs", "follow", "--json")
    assert again.code == 0, again.all
    assert again.events == ann.events(), "all of it is shown, from its first line on"
    assert again.events[-1]["outcome"]["state"] == "succeeded"
    assert fleet.pid("threads") not in {0, pid}


@pytest.mark.usefixtures("unchanged")
def test_ctrl_c_while_a_worker_drains_gives_its_queues_back(busy: str, ann: Operator) -> None:
    following = ann.start(*restart("threads"))
    ann.until_draining()
    following.interrupt()
    said = following.wait()
    assert said.code == 5, said.all
    assert "aborted" in said.out
    (worker,) = (one for one in ann.status()["workers"] if one["name"] == busy)
    assert worker["queues"] == ["common", "threads"]


@pytest.mark.usefixtures("unchanged", "busy")
def test_a_detached_run_is_followed_later_and_ends_with_its_own_code(ann: Operator) -> None:
    started = ann.do(*restart("threads", "-p", "drain_timeout=3s", "--detach"))
    assert started.code == 0, started.all
    run = started.out.strip()
    assert [run] == [path.stem for path in ann.journals()]
    assert f"runs follow {run}" in started.err
    followed = ann.do("runs", "follow", run)
    assert followed.code == 1, followed.all
    assert "not drained: not within 3s" in followed.out


@pytest.mark.usefixtures("unchanged")
def test_a_run_killed_while_a_worker_drains_is_gone_on_with(
    fleet: Operations, ann: Operator
) -> None:
    fleet.fleet.send(1001, task="rig.hold", queue="threads")
    wait_until(lambda: 1001 in fleet.fleet.starts(), what="a task that does not end")
    pid = fleet.pid("threads")
    following = ann.start(*restart("threads"))
    ann.until_draining()
    kill_executor(ann)
    said = following.wait()
    run = ann.journals()[-1].stem
    assert f"celery-ops runs resume {run}" in said.err
    resumed = ann.start("runs", "resume", "--json")
    ann.until(lambda event: event["event"] == "resumed", "another executor")
    fleet.fleet.release(1001)
    done = resumed.wait()
    assert done.code == 0, done.all
    assert done.events[-1]["outcome"]["state"] == "succeeded"
    assert [event["attempt"] for event in done.events] == [2] * len(done.events)
    assert not [one for one in done.events if one["event"] == "intent" and one["verb"] == "drain"]
    assert fleet.pid("threads") not in {0, pid}
    assert fleet.fleet.starts()[1001] == fleet.fleet.ends()[1001] == 1
    assert ann.do("runs", "resume", run).code == 2, "it has ended"


@pytest.mark.usefixtures("unchanged")
def test_a_run_killed_between_stop_and_start_is_gone_on_with(
    fleet: Operations, ann: Operator
) -> None:
    following = ann.start(*restart("prefork"))
    ann.until(
        lambda event: event["event"] == "progress" and "stopping" in event["outcome"]["says"],
        "a worker that stops",
    )
    kill_executor(ann)
    said = following.wait()
    assert said.code == 4
    assert "celery-ops -c rig worker start prefork@rig" in said.err
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert fleet.pid("prefork") > 0


@pytest.mark.usefixtures("unchanged")
def test_what_a_killed_run_did_is_taken_back(busy: str, ann: Operator, bob: Operator) -> None:
    following = ann.start(*restart("threads"))
    ann.until_draining()
    kill_executor(ann)
    assert following.wait().code == 4
    asked = ann.do("runs", "undo")
    assert asked.code == 8, asked.all
    assert f"{busy}: give back queues common, threads" in asked.err
    undone = ann.do("runs", "undo", "--yes")
    assert undone.code == 0, undone.all
    (run,) = ann.do("runs", "--json").json["runs"]
    assert run["state"] == "undone"
    (noted,) = [
        one for one in bob.do("runs", "--all", "--json").json["runs"] if one["id"] == run["id"]
    ]
    assert (noted["state"], noted["params"]["workers"]) == ("undone", "threads@rig")
    assert noted["operator"].startswith("ann@")
    again = ann.do("runs", "undo", "--yes")
    assert "there is nothing to take back" in again.err


@pytest.mark.usefixtures("unchanged")
def test_a_run_that_was_adopted_meanwhile_begins_with_its_worker_anew(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    fleet.fleet.send(1002, task="rig.hold", queue="threads")
    wait_until(lambda: 1002 in fleet.fleet.starts(), what="a task that does not end")
    following = ann.start(*restart("threads"))
    ann.until_draining()
    kill_executor(ann)
    following.wait()
    run = ann.journals()[-1].stem
    adopted = bob.do("runs", "adopt", run, "--yes", "--wait", "1m")
    assert adopted.code == 0, adopted.all
    fleet.fleet.release(1002)
    resumed = ann.do("runs", "resume")
    assert resumed.code == 0, resumed.all
    assert "given back by somebody else" in resumed.out
