"""What goes wrong, on real parts: the run stops with the right code, says what and how to mend it.

And no worker is left drained: what was taken is given back, unless the last line says otherwise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.rig import free_port, wait_until
from tests.rig.operations import COMMON, Operations, Program, operations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.operator import Operator, Said

pytestmark = pytest.mark.rig

ALWAYS = ("w1", "w2", "w3")
RESTART = ("runbook", "rolling-restart", "--yes", "-p", "hold=1s")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """Three workers that every test leaves as they were, and three that are started by one."""
    with operations(
        tmp_path_factory.mktemp("fleet"),
        *(Program(name) for name in ALWAYS),
        Program("limited", autostart=False),
        Program("twin", autostart=False),
        Program("twin2", node="twin", queues=(COMMON, "twin"), autostart=False),
        Program("purger", arguments=("--purge",), queues=("purged",), autostart=False),
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left(fleet: Operations) -> Iterator[None]:
    """After every test: nothing is taken, and every worker consumes exactly what it did before."""
    yield
    assert fleet.nothing_is_taken()
    wait_until(lambda: fleet.consumes_all(*ALWAYS), what="all queues are consumed again")


def restart(name: str, **params: str) -> tuple[str, ...]:
    """Restart one worker, though its own queue has no other consumer."""
    given = {"workers": f"{name}@rig", "allow_gap": name, **params}
    return (*RESTART, *(word for key, value in given.items() for word in ("-p", f"{key}={value}")))


def untouched(ann: Operator) -> bool:
    """Her run, if one was begun at all, had no effect."""
    return all('"event":"intent"' not in path.read_text() for path in ann.journals())


def gave_back(ann: Operator, fleet: Operations, said: Said, name: str) -> None:
    """Every view agrees that the run ended and that the worker has its queues."""
    assert said.code == 1, said.all
    assert f"{name}@rig" in said.all
    (worker,) = (one for one in ann.status()["workers"] if one["name"] == f"{name}@rig")
    assert worker["queues"] == [COMMON, name]
    assert ann.status()["taken"] == []
    (run,) = ann.do("runs", "--json").json["runs"]
    assert run["state"] == "failed"
    assert fleet.consumes_all(name)


# --- failures in the middle -----------------------------------------------------------------------


def test_a_worker_that_does_not_come_back_needs_a_human_and_the_named_command_mends_it(
    fleet: Operations, ann: Operator
) -> None:
    fault = fleet.fleet.fault("w1", "dies")
    fault.touch()
    said = ann.do(*RESTART, "-p", "workers=w1@rig,w2@rig", "-p", "allow_gap=w1,w2")
    assert said.code == 4, said.all
    assert "did not come back" in said.all
    assert "not started: w2@rig" in said.all
    assert "celery-ops -c rig worker start w1@rig" in said.all
    (taken,) = ann.status()["taken"]
    assert (taken["kind"], taken["worker"]) == ("service", "w1@rig")
    assert fleet.consumes_all("w2", "w3")
    fault.unlink()
    mended = ann.do("worker", "start", "w1@rig", "--yes")
    assert mended.code == 0, mended.all


def test_a_drain_that_does_not_end_is_given_up_and_a_second_operator_waits_his_turn(
    fleet: Operations, ann: Operator, bob: Operator
) -> None:
    fleet.fleet.send(101, task="rig.hold", queue="w1")
    wait_until(lambda: 101 in fleet.fleet.starts(), what="a task that does not end")
    running = ann.start(*restart("w1", drain_timeout="8s"))
    ann.until_draining()
    refused = bob.do(*restart("w2"))
    assert refused.code == 6, refused.all
    assert "ann@" in refused.err
    assert "rolling-restart" in refused.err
    assert "--wait" in refused.err
    assert bob.status()["holder"]["operator"].startswith("ann@")
    assert untouched(bob)
    said = running.wait()
    assert "not drained: not within 8s: 1 active" in said.all
    gave_back(ann, fleet, said, "w1")
    fleet.fleet.release(101)
    wait_until(lambda: fleet.fleet.ends().get(101) == 1, what="the task ends")
    assert fleet.fleet.starts()[101] == 1


def test_a_worker_that_says_ok_and_goes_on_consuming_is_found_out(
    fleet: Operations, ann: Operator
) -> None:
    fault = fleet.fleet.fault("w2", "stubborn")
    fault.touch()
    pid = fleet.pid("w2")
    said = ann.do(*restart("w2", drain_timeout="4s"))
    fault.unlink()
    assert "still consumes common, w2" in said.all
    assert fleet.pid("w2") == pid
    gave_back(ann, fleet, said, "w2")


def test_a_worker_that_cannot_say_what_it_holds_is_not_believed_to_be_drained(
    fleet: Operations, ann: Operator
) -> None:
    fleet.fleet.send(102, task="rig.hold", queue="w3")
    wait_until(lambda: 102 in fleet.fleet.starts(), what="a task that does not end")
    fleet.fleet.send_what_json_cannot_tell(103, queue="w3")
    wait_until(lambda: not fleet.redis.exists("w3"), what="the other one is prefetched")
    said = ann.do(*restart("w3", drain_timeout="4s"))
    assert "1 active, reserved unknown" in said.all
    gave_back(ann, fleet, said, "w3")
    fleet.fleet.release(102)
    wait_until(lambda: fleet.fleet.ends().get(103) == 1, what="both tasks end")


def test_tasks_that_a_rate_limit_holds_back_are_told_and_kept(
    fleet: Operations, ann: Operator
) -> None:
    fleet.start("limited")
    for number in range(201, 206):
        fleet.fleet.send(number, task="rig.limited", queue="limited")
    wait_until(lambda: len(held(fleet)) == 4, what="one has run, four are held")
    said = ann.do(*restart("limited"))
    assert said.code == 0, said.all
    assert "rate-limited" in said.all
    assert fleet.consumes_all("limited")
    wait_until(lambda: len(done(fleet)) == 2, what="the new incarnation may run one")
    assert done(fleet) | held(fleet) == set(range(201, 206))
    assert not done(fleet) & held(fleet)
    fleet.stop("limited")


def done(fleet: Operations) -> set[int]:
    ends = {number: count for number, count in fleet.fleet.ends().items() if 201 <= number <= 205}
    assert set(ends.values()) <= {1}
    return set(ends)


def held(fleet: Operations) -> set[int]:
    """The numbers of the tasks that are in the queue or in some worker's hands."""
    return fleet.numbers_of_unacked() & set(range(201, 206))


# --- refusals before anything was done ------------------------------------------------------------


def test_taking_a_queues_only_consumer_is_refused(fleet: Operations, ann: Operator) -> None:
    pid = fleet.pid("w1")
    said = ann.do(*RESTART, "-p", "workers=w1@rig")
    assert said.code == 7, said.all
    assert "queue w1 would keep 0 consumers" in said.err
    assert "-p allow_gap=w1" in said.err
    assert untouched(ann)
    assert fleet.pid("w1") == pid


def test_two_workers_under_one_name_are_refused(fleet: Operations, ann: Operator) -> None:
    fleet.start("twin", "twin2")
    said = ann.do(*restart("twin"))
    pids = [fleet.pid("twin"), fleet.pid("twin2")]
    assert said.code == 7, said.all
    assert "twin@rig: two processes share this name" in said.err
    assert "stop one of them" in said.err
    assert untouched(ann)
    (worker,) = (one for one in ann.status()["workers"] if one["name"] == "twin@rig")
    assert worker["state"] == "conflict"
    assert [fleet.pid("twin"), fleet.pid("twin2")] == pids
    fleet.stop("twin", "twin2")


def test_a_worker_that_purges_its_queues_at_its_start_is_refused(
    fleet: Operations, ann: Operator
) -> None:
    fleet.start("purger")
    pid = fleet.pid("purger")
    said = ann.do(*restart("purger", allow_gap="purged"))
    assert said.code == 7, said.all
    assert "--purge" in said.err
    assert untouched(ann)
    assert fleet.pid("purger") == pid
    fleet.stop("purger")


def test_without_a_terminal_and_without_yes_nothing_is_even_written(ann: Operator) -> None:
    said = ann.do(*(word for word in restart("w1") if word != "--yes"))
    assert said.code == 8, said.all
    assert "--yes" in said.err
    assert ann.journals() == []
    assert ann.do("runs", "--json").json == {"runs": []}


def test_a_typo_in_a_runbook_is_named_with_its_place(fleet: Operations, ann: Operator) -> None:
    broken = fleet.folder / "runbooks" / "broken.yaml"
    broken.parent.mkdir(exist_ok=True)
    broken.write_text(
        "name: broken\n"
        "summary: Has a typo.\n"
        "risk: low\n"
        "steps:\n"
        "  - drian: w1@rig\n"
        "    timeout: 1m\n"
    )
    for command in (("runbook", "broken", "--yes"), ("runbook", "check", str(broken))):
        said = ann.do(*command)
        assert said.code == 2, said.all
        assert f"{broken}:5:5: " in said.err
        assert "did you mean drain" in said.err
    assert ann.journals() == []
    broken.unlink()


def test_a_broker_that_is_gone_is_told_and_nothing_is_begun(
    ann: Operator, fleet: Operations
) -> None:
    port = free_port()
    gone = fleet.folder / "gone.yaml"
    url = fleet.url.replace(str(fleet.server.port), str(port))
    gone.write_text(f"contexts:\n  gone:\n    broker: {json.dumps(url)}\n")
    for command in (("status", "--json"), RESTART):
        said = ann.do("--config", str(gone), *command)
        assert said.code == 69, said.all
        assert f"127.0.0.1:{port}" in said.err
        assert said.out == ""
    assert ann.journals() == []
